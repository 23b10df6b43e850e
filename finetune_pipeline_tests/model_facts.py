"""Facts of base_model, as its step writes them."""

from finetune_pipeline.models.facts import PreparedBase

BASE = PreparedBase(
    base_model="tiny", revision=None, identity={"kind": "local"}, chat_template="the model's own", warnings=[], parameters=9,
    dtype="BF16", architecture="LlamaForCausalLM", weight_bytes=18, context_length=512, vocabulary=400, eos="</s>",
    end_tokens=["</s>"], files={"model.safetensors": "x", "config.json": "y"},
).to_json()  # fmt: skip
