"""How the model of a card is asked and served: the prompt it was trained with, and code that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_pipeline.report.markdown import fenced, plain

Manifest = Mapping[str, Any]
REGISTERED = "registered"


def what_sentences(manifest: Manifest) -> str:
    """What was made from what."""
    base, method = code(manifest["base_model"]["id"]), manifest["method"]
    if manifest["what"] == "adapter":
        return f"An adapter for {base}, trained with method `{method}`. It needs that base model, unquantized or not."
    text = f"{base}, fine-tuned with method `{method}`: a plain model, weights in {manifest['dtype']}."
    if manifest["what"] == REGISTERED:
        text = f"{base}, fine-tuned with method `{method}`; in the model registry under its name."
    if manifest["stored_float32_because"]:
        text += (
            f"\n\nThe changed weights are in float32: {plain(manifest['stored_float32_because'])}. Serve it in "
            "float32, or measure what a narrower type costs."
        )
    if manifest["prompt"]["soft_tokens"]:
        n = len(manifest["prompt"]["soft_tokens"])
        text += (
            f"\n\nThe training is in {n} added tokens, which the chat template puts in front of every conversation. For bare "
            "text put `prompt.prompt_prefix` of `export.json` in front, and have the tokenizer add no special tokens. The "
            "rows of the output head for these tokens are the mean of all other rows: their logit is below the greatest one "
            "always, so greedy decoding never chooses them."
        )
    return text


def asking(manifest: Manifest) -> str:
    """System prompt, what the chat template makes of a question, generation settings and labels."""
    prompt, generation = manifest["prompt"], manifest["generation"]
    parts = []
    if prompt["system_prompt"]:
        parts.append(f"With this system prompt, word for word:\n\n{fenced(prompt['system_prompt'])}")
    if prompt["rendered"]:
        digest = f" (SHA-256 `{prompt['chat_template_sha256']}`)" if prompt["chat_template_sha256"] else ""
        where = "its chat template" if manifest["what"] == REGISTERED else "the chat template in this folder"
        parts.append(
            f"Through {where}{digest}, which makes this of a user's `{{text}}`, to the last character:\n\n"
            f"{fenced(prompt['rendered'])}"
        )
    parts.append(
        f"Greedily (temperature 0), with at most {generation['max_new_tokens']} new tokens, up to "
        + " or ".join(code(t) for t in generation["stop_tokens"])
        + ". It was trained and measured so."
    )
    if manifest["labels"]:
        parts.append(
            f"The answer is one of these labels:\n\n{fenced(json.dumps(manifest['labels'], ensure_ascii=False))}"
        )
    return "\n\n".join(parts)


def serving(manifest: Manifest) -> str:
    """How a server or a program loads it."""
    if manifest["what"] == REGISTERED:
        return _REGISTRY.format(name=manifest["task"])
    return _adapter(manifest) if manifest["what"] == "adapter" else _model(manifest)


_REGISTRY = """From the registry, with the tracking address of this project; prompt, template and generation settings are
those it was trained with:

```python
import mlflow
import pandas

mlflow.set_tracking_uri("...")
model = mlflow.pyfunc.load_model("models:/{name}@champion")
print(model.predict(pandas.DataFrame({{"text": ["..."]}})))
```

`finetune export {name} --to DIR` writes it as a folder that any server loads."""

_REQUEST = """```python
import json
from openai import OpenAI

told = json.load(open("export.json"))
messages = [{{"role": "user", "content": "..."}}]
if told["prompt"]["system_prompt"]:
    messages.insert(0, {{"role": "system", "content": told["prompt"]["system_prompt"]}})
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
answer = client.chat.completions.create(
    model={model!r}, messages=messages, temperature=0, max_tokens=told["generation"]["max_new_tokens"],
)
print(answer.choices[0].message.content)
```"""


def _model(manifest: Manifest) -> str:
    wide = "float32" in str(manifest["dtype"])
    text = (
        "Any server that loads a transformers folder of safetensors. With vLLM, in this folder:\n\n"
        f"```sh\nvllm serve . --served-model-name {manifest['task']}{' --dtype float32' if wide else ''}\n```\n\n"
        f"and then\n\n{_REQUEST.format(model=manifest['task'])}"
    )
    if any(name.endswith(".gguf") for name in manifest["files"]):
        text += "\n\nWith llama.cpp: `llama-server -m " + f"{manifest['task']}.gguf --jinja --temp 0`."
    return text


_SOFT_LOOP = """```python
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "THIS_FOLDER").eval()
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
start = ids.shape[1]
with torch.no_grad():
    while ids.shape[1] < start + max_new_tokens and ids[0, -1].item() not in stop_token_ids:
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
```"""


def _adapter(manifest: Manifest) -> str:
    if manifest["method"] in ("prompt", "prefix"):
        whole = "; exported without `--adapter`, this one is a plain model" if manifest["method"] == "prompt" else ""
        return (
            f"With PEFT; servers for many adapters take low-rank adapters only{whole}. PEFT's `generate` with a cache loses "
            "a soft prompt after the first tokens (seen with peft 0.21 and transformers 5.24); its forward pass is right:\n\n"
            f"{_SOFT_LOOP}"
        )
    lora = manifest["training"].get("lora") or {}
    return (
        "With vLLM, any number of adapters beside each other on one base:\n\n"
        f"```sh\nvllm serve BASE --enable-lora --max-lora-rank {lora.get('r', 64)} "
        f"--lora-modules {manifest['task']}=THIS_FOLDER\n```\n\n"
        f"`BASE` is {code(manifest['base_model']['id'])} with the digests in `export.json`. Give it this folder's chat "
        f"template (`--chat-template chat_template.jinja`) where its own is another. Then\n\n"
        f"{_REQUEST.format(model=manifest['task'])}"
    )


def code(text: Any) -> str:
    """A short text as code, in which nothing is markup."""
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"
