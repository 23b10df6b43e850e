"""The served model: MLflow stores this file and runs it wherever the model is loaded, without this package.

It puts the adapter on the unquantized base, whose weights are not copied into MLflow: ``model.json`` beside the adapter
says where the base was, and the SHA-256 of each of its weight files. On another machine set FINETUNE_BASE_MODEL to a
folder with the same weights; other weights are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BASE_VARIABLE = "FINETUNE_BASE_MODEL"


class AdapterModel(PythonModel):  # type: ignore[misc]
    """Answers user texts with the base model, the adapter and the system prompt it was trained with."""

    def load_context(self, context: Any) -> None:
        """Load base and adapter in float32. Raises FileNotFoundError or ValueError for a missing or other base."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.told = json.loads(Path(context.artifacts["model"]).read_text("utf-8"))
        base = _base_folder(self.told)
        adapter = context.artifacts["adapter"]
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
        self.model = PeftModel.from_pretrained(model, adapter).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False, local_files_only=True)

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """One answer (a string) per row of the data frame's column ``text``, greedily generated."""
        return [self._answer(str(text)) for text in model_input["text"]]

    def _answer(self, text: str) -> str:
        import torch

        messages = [{"role": "system", "content": self.told["system_prompt"]}, {"role": "user", "content": text}]
        prompt: Any = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = self.model.generate(
                **prompt,
                do_sample=False,
                max_new_tokens=int(self.told["max_new_tokens"]),
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
            )
        answer = made[0, prompt["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip()


def _base_folder(told: dict[str, Any]) -> Path:
    """The base model's folder, its weights checked against the recorded digests."""
    folder = Path(os.environ.get(BASE_VARIABLE) or told["base_folder"])
    wanted: dict[str, str] = told["base_files"]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"the base model is not in {folder} (missing: {', '.join(missing)}); set "
            f"{BASE_VARIABLE} to a folder that holds {told['base_model']}"
        )
    other = [name for name, digest in wanted.items() if _digest(folder / name) != digest]
    if other:
        raise ValueError(
            f"{folder} holds other weights than the adapter was trained on ({', '.join(other)}); set "
            f"{BASE_VARIABLE} to a folder that holds {told['base_model']} as it was"
        )
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


set_model(AdapterModel())
