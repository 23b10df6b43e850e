"""Facts of base_model and merged_model, as their steps write them."""

from typing import Any

from finetune_pipeline.models.facts import MergedModel, Parity, PreparedBase, Serving

BASE = PreparedBase(
    base_model="tiny", revision=None, identity={"kind": "local"}, chat_template="the model's own", warnings=[], parameters=9,
    dtype="BF16", architecture="LlamaForCausalLM", weight_bytes=18, context_length=512, vocabulary=400, eos="</s>",
    end_tokens=["</s>"], files={"model.safetensors": "x", "config.json": "y"},
).to_json()  # fmt: skip


def merged(kind: str = "lora", **parity: Any) -> dict[str, Any]:
    """Facts of a merged model; parity: fields that are not as of a good merge."""
    usual = {"rows": 32, "passed": True, "same_greedy_share": 1.0, "mean_kl": 1e-6, "mean_kl_limit": 1e-3}
    return MergedModel(
        kind=kind,
        base_model="tiny",
        dtype="bfloat16",
        sentence="merged",
        serving=Serving(system_prompt=None, labels=[], max_new_tokens=8, stop_token_ids=[2], stop_tokens=["</s>"]),
        parity=Parity(kind=kind, **{**usual, **parity}),
    ).to_json()
