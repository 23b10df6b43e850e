"""The README.md of an exported model: a model card in the Hugging Face format, made from the export's manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "exact_match": "Exact match", "rougeLsum": "ROUGE-L"}


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown with a YAML header. Texts from the spec are shown as code, so that they cannot form the page."""
    adapter = manifest["what"] == "adapter"
    parts = [
        f"# {manifest['task']}",
        _inline(manifest["description"]),
        _what(manifest),
        "## How to ask it",
        _asking(manifest),
        "## How to serve it",
        _adapter_serving(manifest) if adapter else _model_serving(manifest),
        "## How good it is",
        _quality(manifest),
        "## Where it comes from",
        _origin(manifest),
        "## Licence",
        _inline(manifest["base_model"]["licence_note"]),
    ]
    return _header(manifest) + "\n" + "\n\n".join(parts) + "\n"


def _header(manifest: Mapping[str, Any]) -> str:
    base, adapter = manifest["base_model"], manifest["what"] == "adapter"
    licence = base["licence"]
    told: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "license": licence.lower() if licence else "other",
    }
    if not licence:
        told["license_name"] = "that-of-the-base-model"
    if base["identity"].get("kind") == "hub":
        told |= {"base_model": base["id"], "base_model_relation": "adapter" if adapter else "finetune"}
    told["tags"] = ["finetune-pipeline", str(manifest["method"]), str(manifest["task"])]
    scores = (manifest["evaluation"] or {}).get("scores") or {}
    metrics = [
        {"type": name, "name": title, "value": round(float(scores[name]), 4)}
        for name, title in _METRICS.items()
        if isinstance(scores.get(name), int | float)
    ]
    if metrics:
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"type": manifest["task"], "name": f"{manifest['task']}, sealed test", "split": "test"},
            "metrics": metrics,
        }
        told["model-index"] = [{"name": manifest["task"], "results": [result]}]
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}---\n"


def _what(manifest: Mapping[str, Any]) -> str:
    base, method = manifest["base_model"]["id"], manifest["method"]
    if manifest["what"] == "adapter":
        return f"An adapter for `{base}`, trained with method `{method}`. It needs that base model, unquantized or not."
    text = f"`{base}`, fine-tuned with method `{method}`: a plain model, weights in {manifest['dtype']}."
    if manifest["stored_float32_because"]:
        text += (
            f"\n\nThe changed weights are in float32: {_inline(manifest['stored_float32_because'])}. Serve it in "
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


def _asking(manifest: Mapping[str, Any]) -> str:
    prompt, generation = manifest["prompt"], manifest["generation"]
    parts = []
    if prompt["system_prompt"]:
        parts.append(f"With this system prompt, word for word:\n\n{fenced(prompt['system_prompt'])}")
    parts.append(
        f"Greedily (temperature 0), with at most {generation['max_new_tokens']} new tokens, up to "
        + " or ".join(f"`{_plain(t)}`" for t in generation["stop_tokens"])
        + ". It was trained and measured so, and with the chat template in this folder."
    )
    if manifest["labels"]:
        parts.append(
            f"The answer is one of these labels:\n\n{fenced(json.dumps(manifest['labels'], ensure_ascii=False))}"
        )
    return "\n\n".join(parts)


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


def _model_serving(manifest: Mapping[str, Any]) -> str:
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


def _adapter_serving(manifest: Mapping[str, Any]) -> str:
    if manifest["method"] in ("prompt", "prefix"):
        plain = "; exported without `--adapter`, this one is a plain model" if manifest["method"] == "prompt" else ""
        return (
            f"With PEFT; servers for many adapters take low-rank adapters only{plain}. PEFT's `generate` with a cache loses "
            "a soft prompt after the first tokens (seen with peft 0.21 and transformers 5.24); its forward pass is right:\n\n"
            f"{_SOFT_LOOP}"
        )
    lora = manifest["training"].get("lora") or {}
    return (
        "With vLLM, any number of adapters beside each other on one base:\n\n"
        f"```sh\nvllm serve BASE --enable-lora --max-lora-rank {lora.get('r', 64)} "
        f"--lora-modules {manifest['task']}=THIS_FOLDER\n```\n\n"
        f"`BASE` is `{_plain(manifest['base_model']['id'])}` with the digests in `export.json`. Give it this folder's chat "
        f"template (`--chat-template chat_template.jinja`) where its own is another. Then\n\n"
        f"{_REQUEST.format(model=manifest['task'])}"
    )


def _quality(manifest: Mapping[str, Any]) -> str:
    told = manifest["evaluation"]
    if not told:
        return "It was not evaluated on the sealed test when it was exported."
    rows = ["| | this model | base, best prompt |", "|---|---|---|"]
    for name, title in _METRICS.items():
        if isinstance(told["scores"].get(name), int | float):
            rows.append(f"| {title} | {_score(told['scores'], name)} | {_score(told['baseline'], name)} |")
    gates = ", ".join(f"{name}: {'yes' if passed else '**no**'}" for name, passed in told["gates"].items())
    n = told["scores"].get("n")
    return "\n".join(
        [
            f"On the sealed test{f' ({n} rows)' if n else ''}; intervals are those of the evaluation report.",
            "",
            *rows,
            "",
            f"Gates {'passed' if told['passed'] else '**not passed**'}: {gates}.",
            "",
            f"> {_inline(told['verdict'])}",
        ]
    )


def _score(scores: Mapping[str, Any], name: str) -> str:
    value = scores.get(name)
    interval = scores.get("interval" if name == "accuracy" else f"{name}_interval")
    if not isinstance(value, int | float):
        return "–"
    return f"{value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _origin(manifest: Mapping[str, Any]) -> str:
    artifacts, base, parity = manifest["artifacts"], manifest["base_model"], manifest["parity"]
    rows = [
        f"- base model: `{_plain(base['id'])}`" + (f", revision `{base['revision']}`" if base["revision"] else ""),
        f"- data set: `{artifacts['dataset']}`; {'trained weights' if manifest['method'] == 'full' else 'adapter'}: "
        f"`{artifacts['adapter']}`; model: `{artifacts['merged_model']}`",
        f"- what is here and what was trained give the same greedy answer on {parity['same_greedy_share']:.1%} of "
        f"{parity['rows']} rows; mean divergence {parity['mean_kl']:.1e} nats a token",
        "- training settings, versions of the libraries and digests of all files: `export.json`",
    ]
    return "\n".join(rows)


def fenced(text: str) -> str:
    """Text as a code block, behind a fence longer than any in it."""
    longest = max((len(m) for m in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _plain(text: str) -> str:
    return str(text).replace("`", "'").replace("\n", " ")


def _inline(text: str) -> str:
    """One paragraph of text in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(str(text).split()))
