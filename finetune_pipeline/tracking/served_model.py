"""The MLflow model code of a served model. MLflow stores this file and runs it without this package.

``model.json`` beside it says what it is; ``control_tokens.py`` writes its prompts, ``hardware.py`` knows the CPU. Kinds
``lora`` and ``prefix``: the adapter lies beside it, too, and the unquantized base stays where it was. Kinds ``full`` and
``prompt``: the whole model stays where it was. Weights that stay are known by path and by the SHA-256 of each file. On
another machine set FINETUNE_BASE_MODEL (lora, prefix) or FINETUNE_MODEL (full, prompt) to a folder with the same files;
others are refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

WHOLE = ("full", "prompt")


class TrainedModel(PythonModel):
    """Answers user texts with the system prompt the model was trained with: greedily, as its evaluation did."""

    def load_context(self, context: Any) -> None:
        """Load what answers, in the precision it was evaluated in.

        Raises FileNotFoundError or ValueError for missing or other files.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.description = json.loads(Path(context.artifacts["model"]).read_text("utf-8"))
        folder = _folder(self.description)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        self.control_tokens = _module(Path(context.artifacts["control_tokens"]))
        ends = self.model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        self.ends = {int(t) for t in [*listed, self.tokenizer.eos_token_id] if t is not None}
        self.prefix: list[Any] = []
        if self.description["kind"] == "lora":
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, context.artifacts["adapter"]).merge_and_unload().eval()
        if (stored := self.description["dtype"]) in ("bfloat16", "float16"):  # as the merged model was stored and asked
            precision = self._precision(context)
            for weight in self.model.parameters():  # not the buffers: rounded RoPE frequencies are others
                weight.data = weight.data.to(getattr(torch, stored)).to(precision)
        if self.description["kind"] == "prefix":
            self.prefix = _keys_and_values(Path(context.artifacts["adapter"]))

    def _precision(self, context: Any) -> Any:
        """The dtype to compute in: bfloat16 where the evaluation was to use it and this machine has it, else float32."""
        import torch

        if self.description["precision"] != "serving":
            return torch.float32
        if self.model.device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = _module(Path(context.artifacts["hardware"])).cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """One answer (a string) per row of the data frame's column ``text``, greedily generated."""
        return [self._answer(str(text)) for text in model_input["text"]]

    def _answer(self, text: str) -> str:
        import torch
        from transformers import DynamicCache

        messages = [{"role": "system", "content": self.description["system_prompt"]}, {"role": "user", "content": text}]
        conversation = self.control_tokens.write(self.tokenizer, messages, generation=True)
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.to(self.model.dtype), values.to(self.model.dtype), layer)
        read, made = torch.tensor([self.control_tokens.token_ids(self.tokenizer, conversation)]), list[int]()
        # no generate(): the base's generation config may hold penalties that the evaluation did not have
        with torch.inference_mode():
            while len(made) < int(self.description["max_new_tokens"]):
                logits = self.model(input_ids=read, cache=cache, use_cache=True, logits_to_keep=1).logits
                chosen = int(logits[0, -1].argmax())
                if chosen in self.ends:
                    break
                made.append(chosen)
                read = torch.tensor([[chosen]])
        return str(self.tokenizer.decode(made)).strip()


def _module(path: Path) -> Any:
    """The module in a file, which no package holds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _keys_and_values(adapter: Path) -> list[Any]:
    """A prefix as each layer's (keys, values), both [1, heads, tokens, width of a head]."""
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    flat = load_file(adapter / "adapter_model.safetensors")["prompt_embeddings"].float()
    layers, heads = int(config["num_layers"]), int(config["num_attention_heads"])
    parts = flat.view(len(flat), 2 * layers, heads, -1).permute(1, 2, 0, 3).unsqueeze(1)
    return [(parts[2 * i], parts[2 * i + 1]) for i in range(layers)]


def _folder(description: dict[str, Any]) -> Path:
    """The folder of the weights, its files checked against the recorded digests."""
    whole = description["kind"] in WHOLE
    variable = "FINETUNE_MODEL" if whole else "FINETUNE_BASE_MODEL"
    what = f"this very model ({description['adapter_version']})" if whole else str(description["base_model"])
    folder, wanted = Path(os.environ.get(variable) or description["folder"]), dict(description["files"])
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the {'' if whole else 'base '}model is not in {folder} (missing: {', '.join(missing)}); set {variable} to a "
            f"folder that holds {what}"
        )
    other = [name for name, digest in wanted.items() if _digest(folder / name) != digest]
    if other:
        was = "was registered" if whole else "the adapter was trained on"
        raise ValueError(
            f"{folder} holds other files than what {was} ({', '.join(other)}); set {variable} to a folder that holds "
            f"{what} as it was"
        )
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


set_model(TrainedModel())
