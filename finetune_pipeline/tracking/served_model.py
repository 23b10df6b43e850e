"""The MLflow model code of a served model. MLflow stores this file and runs it without this package.

``model.json`` beside it describes the model; ``control_tokens.py`` writes its prompts, ``hardware.py`` detects the CPU. For
the kinds ``lora`` and ``prefix``, the adapter is beside it too, and the unquantized base stays in its place. For the kinds
``full`` and ``prompt``, the whole model stays in its place. These weights are identified by path and by the SHA-256 of each
file. On another machine, set FINETUNE_BASE_MODEL (lora, prefix) or FINETUNE_MODEL (full, prompt) to a folder with the same
files; others are refused.
"""

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
    """Answers user texts greedily with the system prompt of training, as in the evaluation."""

    def load_context(self, context: Any) -> None:
        """Load the model in the precision of its evaluation.

        Raises FileNotFoundError or ValueError for missing or different files.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.description = json.loads(Path(context.artifacts["model"]).read_text("utf-8"))
        folder = _folder(self.description)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()
        # with an adapter, its own: base_model may have changed the base's chat template
        tokenizer_folder = folder if self.description["kind"] in WHOLE else context.artifacts["adapter"]
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False, local_files_only=True)
        self.control_tokens = _module(Path(context.artifacts["control_tokens"]))
        ends = self.model.generation_config.eos_token_id
        end_tokens = ends if isinstance(ends, list) else [ends]
        self.ends = {int(t) for t in [*end_tokens, self.tokenizer.eos_token_id] if t is not None}
        self.prefix: list[Any] = []
        if self.description["kind"] == "lora":
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, context.artifacts["adapter"]).merge_and_unload().eval()
        stored = self.description["dtype"]  # of the stored and evaluated merged model
        if stored in ("bfloat16", "float16"):
            precision = self._precision(context)
            for weight in self.model.parameters():  # not the buffers: rounding would change the RoPE frequencies
                weight.data = weight.data.to(getattr(torch, stored)).to(precision)
        if self.description["kind"] == "prefix":
            self.prefix = _keys_and_values(Path(context.artifacts["adapter"]))

    def _precision(self, context: Any) -> Any:
        """Return the compute dtype: bfloat16 if the evaluation was to use it and this machine supports it, else float32."""
        import torch

        if self.description["precision"] != "serving":
            return torch.float32
        if self.model.device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = _module(Path(context.artifacts["hardware"])).cpu_has_bfloat16()
        return torch.bfloat16 if native else torch.float32

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Return one greedy answer (a string) per row of the data frame's column ``text``."""
        return [self._answer(str(text)) for text in model_input["text"]]

    def _answer(self, text: str) -> str:
        import torch
        from transformers import DynamicCache

        messages = [{"role": "system", "content": self.description["system_prompt"]}, {"role": "user", "content": text}]
        conversation = self.control_tokens.write(self.tokenizer, messages, generation=True)
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.to(self.model.dtype), values.to(self.model.dtype), layer)
        input_ids, new_tokens = torch.tensor([self.control_tokens.token_ids(self.tokenizer, conversation)]), list[int]()
        # not generate(): the base's generation config may have penalties that the evaluation did not use
        with torch.inference_mode():
            while len(new_tokens) < int(self.description["max_new_tokens"]):
                logits = self.model(input_ids=input_ids, cache=cache, use_cache=True, logits_to_keep=1).logits
                chosen = int(logits[0, -1].argmax())
                if chosen in self.ends:
                    break
                new_tokens.append(chosen)
                input_ids = torch.tensor([[chosen]])
        return str(self.tokenizer.decode(new_tokens)).strip()


def _module(path: Path) -> Any:
    """Import a module from a file outside any package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # its dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def _keys_and_values(adapter: Path) -> list[Any]:
    """Return a prefix as each layer's (keys, values), both [1, heads, tokens, width of a head]."""
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    flat = load_file(adapter / "adapter_model.safetensors")["prompt_embeddings"].float()
    layers, heads = int(config["num_layers"]), int(config["num_attention_heads"])
    parts = flat.view(len(flat), 2 * layers, heads, -1).permute(1, 2, 0, 3).unsqueeze(1)
    return [(parts[2 * i], parts[2 * i + 1]) for i in range(layers)]


def _folder(description: dict[str, Any]) -> Path:
    """Return the folder of the weights after checking its files against the recorded digests."""
    is_whole = description["kind"] in WHOLE
    variable = "FINETUNE_MODEL" if is_whole else "FINETUNE_BASE_MODEL"
    needed = f"exactly this model ({description['adapter_version']})" if is_whole else str(description["base_model"])
    folder, digests = Path(os.environ.get(variable) or description["folder"]), dict(description["files"])
    missing = [name for name in digests if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the {'' if is_whole else 'base '}model is not in {folder} (missing: {', '.join(missing)}); set {variable} to a "
            f"folder that contains {needed}"
        )
    changed = []
    for name, digest in digests.items():
        with (folder / name).open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != digest:
                changed.append(name)
    if changed:
        origin = "that were registered" if is_whole else "the adapter was trained on"
        raise ValueError(
            f"{folder} contains different files than those {origin} ({', '.join(changed)}); set {variable} to a folder that "
            f"contains {needed} unchanged"
        )
    return folder


set_model(TrainedModel())
