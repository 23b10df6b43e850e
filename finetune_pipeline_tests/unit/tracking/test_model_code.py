"""The code that MLflow runs for a registered model, as this package has it now."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.pyfunc import PythonModel

from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.prompted_model import ServedPrompt
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.hosted_model import HostedModel
from finetune_pipeline.tracking.served_model import TrainedModel
from finetune_pipeline.tracking.simple_model import SimpleModel
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.unit.tracking.test_registry import PROMPT, models, register, texts
from finetune_pipeline_tests.unit.tracking.test_shipped import ROWS, answers, base, fitted, prompted, register_shipped

__all__ = ["base", "models"]


def opened(tracking: Tracking, kind: type[PythonModel]) -> Any:
    """The newest version, loaded by this class of the package."""
    number = str(registry.aliases(tracking, "tickets")["candidate"])
    logged = tracking.client().get_model_version("tickets", number).tags[registry.LOGGED_MODEL]
    files = Path(tracking.client().get_logged_model(logged).artifact_location.removeprefix("file://")) / "artifacts"
    return loaded(kind, {"model": files / "model.json", "shipped": files / "shipped", "adapter": files / "adapter"})


def loaded(kind: type[PythonModel], artifacts: dict[str, Path]) -> Any:
    model = kind()
    model.load_context(SimpleNamespace(artifacts={name: str(path) for name, path in artifacts.items()}))
    return model


def test_a_tuned_model_is_loaded_merged_and_with_its_schema(tracking: Tracking, models: Path) -> None:
    schema = {"enum": ["red", "blue"]}
    register(tracking, models, json_schema=schema, constrained_decoding=True)
    model = opened(tracking, TrainedModel)
    assert model.loaded.served == ServedModel(
        "tickets", models / "merged", None, PROMPT, 8, "serving", schema, constrained=True
    )
    (said,) = model.predict(None, texts("the export fails since monday"))
    assert json.loads(said) in schema["enum"]


def test_weights_that_are_not_there_or_changed_do_not_answer(
    tracking: Tracking, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(tracking, models)
    monkeypatch.setenv("FINETUNE_MODEL", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        opened(tracking, TrainedModel)
    changed = shutil.copytree(models / "merged", tmp_path / "changed")
    monkeypatch.setenv("FINETUNE_MODEL", str(changed))
    assert opened(tracking, TrainedModel).loaded.served.model == changed, "a copy is as good"
    (changed / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        opened(tracking, TrainedModel)


def test_a_prompt_is_loaded_with_its_examples(tracking: Tracking, base: Path, tmp_path: Path) -> None:
    folder = prompted(tmp_path / "prompt" / "shipped", "restricted", 2)
    register_shipped(tracking, base, "prompt", folder)
    model = opened(tracking, TrainedModel)
    assert isinstance(model.loaded.served, ServedPrompt)
    assert model.predict(None, texts(*ROWS)) == answers(ServedPrompt("tickets", base, folder, PROMPT, 8))


def test_a_simple_model_is_loaded_unless_a_file_is_missing_or_another(
    tracking: Tracking, base: Path, tmp_path: Path
) -> None:
    folder = fitted(tmp_path / "simple" / "shipped")
    register_shipped(tracking, base, "simple", folder)
    model = opened(tracking, SimpleModel)
    assert model.predict(None, texts(*ROWS)) == answers(ServedSimple("tickets", folder, PROMPT))
    (weights,) = (tracking.place() / "artifacts").rglob("model.skops")
    weights.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"other files than those that were registered: model\.skops"):
        opened(tracking, SimpleModel)
    weights.unlink()
    with pytest.raises(ValueError, match=r"other files than those that were registered: model\.skops"):
        opened(tracking, SimpleModel)


@pytest.mark.parametrize(
    ("variable", "key", "sent"), [("TOY_KEY", "abc", "abc"), ("TOY_KEY", "", None), ("", "", "none")]
)
def test_an_endpoint_is_asked_with_its_key_and_each_request_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, key: str, sent: str | None
) -> None:
    monkeypatch.setenv("TOY_KEY", key)
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "toy-1", "api_key_env": variable}
    description = tmp_path / "model.json"
    description.write_text(json.dumps({"endpoint": endpoint}))
    if sent is None:
        with pytest.raises(KeyError, match=r"set TOY_KEY to the key of http://127\.0\.0\.1:9/v1, where toy-1 answers"):
            loaded(HostedModel, {"model": description})
        return
    client = loaded(HostedModel, {"model": description}).client
    assert (client.api_key, client.max_retries) == (sent, 0), "a repeated request may be paid twice"
