"""The MLflow model code of a served model, which answers as ``finetune serve`` does. MLflow stores this file and runs it; this
package must be installed.

``model.json`` beside it describes the model. Its folder stays in its place, which is identified by path and by the SHA-256 of
each file; only the prefix of prefix tuning and a prompt are read from the registry. If the home has moved, the folder is looked
for in the present home. On another machine, set FINETUNE_MODEL to a folder with the same files; others are refused.
"""

import hashlib
import json
import os
from pathlib import Path
from threading import Event
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class TrainedModel(PythonModel):
    """Answers user texts greedily with the system prompt of training, as in the evaluation."""

    def load_context(self, context: Any) -> None:
        """Load the model in the precision of its evaluation.

        Raises FileNotFoundError or ValueError for missing or different files.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
        from finetune_pipeline.serving.loaded_model import ServedModel
        from finetune_pipeline.serving.loading import load
        from finetune_pipeline.serving.prompted_model import ServedPrompt

        description = json.loads(Path(context.artifacts["model"]).read_text("utf-8"))
        name, model, prompt = description["name"], _folder(description), description["system_prompt"]
        limit, precision = int(description["max_new_tokens"]), description["precision"]
        if description["winner_kind"] == "prompt":
            self.loaded = load(ServedPrompt(name, model, Path(context.artifacts["shipped"]), prompt, limit, precision))
        else:
            adapter = Path(context.artifacts["adapter"]) if description["kind"] == "prefix" else None
            schema, constrained = description["json_schema"], description["constrained_decoding"]
            self.loaded = load(ServedModel(name, model, adapter, prompt, limit, precision, schema, constrained))

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Return one greedy answer (a string) per row of the data frame's column ``text``."""
        with self.loaded.turn:
            return [self._answer(str(text)) for text in model_input["text"]]

    def _answer(self, text: str) -> str:
        return self.loaded.answer([{"role": "user", "content": text}], None, Event()).text.strip()


def _folder(description: dict[str, Any]) -> Path:
    """Return the folder of the weights after checking its files against the recorded digests."""
    from finetune_pipeline.settings import read_settings

    digests = dict(description["files"])
    homes = (Path(description["home"]), read_settings().home)
    chosen = os.environ.get("FINETUNE_MODEL")
    folders = [Path(chosen)] if chosen else [Path(os.path.normpath(home / description["folder"])) for home in homes]
    folder = next((f for f in folders if f.is_dir()), folders[0])
    needed = f"that contains exactly the files of {description['adapter_version']}"
    if missing := [name for name in digests if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"the model is not in {folder} (missing: {', '.join(missing)}); set FINETUNE_HOME to the home of the pipeline, or "
            f"FINETUNE_MODEL to a folder {needed}"
        )
    changed = []
    for name, digest in digests.items():
        with (folder / name).open("rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != digest:
                changed.append(name)
    if changed:
        raise ValueError(
            f"{folder} contains different files than those that were registered ({', '.join(changed)}); set FINETUNE_MODEL to "
            f"a folder {needed}"
        )
    return folder


set_model(TrainedModel())
