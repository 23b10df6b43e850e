"""The MLflow model code of a simple model, which answers as ``finetune serve`` does. MLflow stores this file and runs it; this
package must be installed. The model's files are stored beside it, without pickle.
"""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SimpleModel(PythonModel):
    """Answers user texts with a fitted model without a language model."""

    def load_context(self, context: Any) -> None:
        """Load the model. Raises ValueError for missing or different files."""
        from finetune_pipeline.engine.files import digest_file
        from finetune_pipeline.serving.simple_model import LoadedSimple, ServedSimple

        description, folder = (
            json.loads(Path(context.artifacts["model"]).read_text("utf-8")),
            context.artifacts["shipped"],
        )
        paths = {name: Path(folder, name) for name in description["files"]}
        changed = [n for n, path in paths.items() if not path.is_file() or digest_file(path) != description["files"][n]]
        if changed:
            raise ValueError(f"{folder} contains other files than those that were registered: {', '.join(changed)}")
        self.loaded = LoadedSimple(ServedSimple(description["name"], Path(folder), description["system_prompt"]))

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Return one answer (a string) per row of the data frame's column ``text``."""
        texts = [str(text) for text in model_input["text"]]
        return [self.loaded.answer([{"role": "user", "content": text}], None, Event()).text.strip() for text in texts]


set_model(SimpleModel())
