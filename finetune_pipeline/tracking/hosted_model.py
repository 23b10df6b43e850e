"""The MLflow model code of a hosted model. MLflow stores this file and runs it without this package.

``model.json`` beside it has the model's endpoint and the environment variable with the key. There are no weights.
"""

import json
import os
from pathlib import Path
from typing import Any

import pandas
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class HostedModel(PythonModel):
    """Queries the service with the system prompt of training, at temperature 0, as in the evaluation."""

    def load_context(self, context: Any) -> None:
        """Open the client. Raises KeyError if the key's variable is not set."""
        from openai import OpenAI

        self.description = json.loads(Path(context.artifacts["model"]).read_text("utf-8"))
        endpoint = self.description["endpoint"]
        variable = endpoint["api_key_env"]
        if variable and not os.environ.get(variable):
            raise KeyError(f"set {variable} to the key of {endpoint['base_url']}, where {endpoint['model']} answers")
        # requests cost money: the SDK must not repeat one that may have been processed
        self.client = OpenAI(
            base_url=endpoint["base_url"], api_key=os.environ[variable] if variable else "none", max_retries=0
        )

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Return one answer (a string) per row of the data frame's column ``text``."""
        return [self._answer(str(text)) for text in model_input["text"]]

    def _answer(self, text: str) -> str:
        schema = self.description["json_schema"] if self.description["constrained_decoding"] else None
        described = {"name": "answer", "strict": True, "schema": schema}
        form = {"response_format": {"type": "json_schema", "json_schema": described}} if schema else {}
        completion = self.client.chat.completions.create(
            model=self.description["endpoint"]["model"],
            messages=[
                {"role": "system", "content": self.description["system_prompt"]},
                {"role": "user", "content": text},
            ],
            temperature=0,
            max_tokens=int(self.description["max_new_tokens"]),
            extra_body=form,
        )
        return (completion.choices[0].message.content or "").strip()


set_model(HostedModel())
