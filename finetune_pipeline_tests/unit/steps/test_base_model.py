"""The base model step with a chat template from the task: content decides, and tasks share what is the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore, ChangedArtifact
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.chat_templates import NAMED
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.steps.run_inputs import base_of
from finetune_pipeline_tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a chat template."""
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def _task(root: Path, name: str, base: Path, template: str | None) -> Task:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "name": name, "description": "d", "base_model": str(base), "system_prompt": "yes or no",
        "output": {"kind": "labels", "labels": ["yes", "no"]}, **({"chat_template": template} if template else {}),
    }  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump(result))
    return load_task(folder)


def _world(task: Task) -> RunInputs:
    return RunInputs("raw", "reviews", "logs", "corrections", base_of(task))


def _bring(task: Task, store: ArtifactStore) -> Any:
    def launch(job: Any) -> dict[str, Any]:
        return prepare_base(job.base_model, job.revision, job.out, job.chat_template).to_json()

    return PIPELINE.run("base_model", task, _world(task), store, launch)


def test_tasks_with_different_templates_do_not_meet(base: Path, tmp_path: Path, store: ArtifactStore) -> None:
    plain = _bring(_task(tmp_path, "first", base, "none"), store)
    marked = _bring(_task(tmp_path, "second", base, "chatml"), store)
    assert plain.folder != marked.folder and load_tokenizer(plain.folder).chat_template == NAMED["none"]
    assert load_tokenizer(marked.folder).chat_template == NAMED["chatml"]
    again = _bring(_task(tmp_path, "third", base, "none"), store)
    assert again.folder == plain.folder and again.reused
    own_template = _task(tmp_path, "fourth", base, None)
    (own_template.folder / "mine.jinja").write_text(NAMED["none"])
    named = _bring(_task(tmp_path, "fourth", base, "mine.jinja"), store)
    assert named.folder == plain.folder, "the same text is the same template, whatever it is called"


def test_content_decides_and_a_change_during_a_run_stops_it(base: Path, tmp_path: Path, store: ArtifactStore) -> None:
    (tmp_path / "demo").mkdir()
    file = tmp_path / "demo" / "mine.jinja"
    file.write_text(NAMED["none"])
    task = _task(tmp_path, "demo", base, "mine.jinja")
    began = _world(task)
    first = PIPELINE.versions(task, began, store)
    file.touch()
    assert PIPELINE.versions(task, _world(task), store) == first
    file.write_text(NAMED["none"].replace("Answer:", "Label:"))
    second = PIPELINE.versions(task, _world(task), store)
    changed = {name for name in first if first[name] != second[name]}
    assert {"base_model", "few_shot_baseline", "adapter", "merged_model", "test_predictions"} <= changed
    assert not {"raw_examples", "clean_examples", "splits"} & changed
    with pytest.raises(JobError, match=r"mine\.jinja of demo changed since this run began"):
        PIPELINE.run("base_model", task, began, store)


@pytest.mark.parametrize("template", [None, "none"])
def test_a_base_in_the_project_moves_with_it_and_one_that_is_gone_is_brought_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None
) -> None:
    old, new = tmp_path / "old", tmp_path / "deep" / "new"
    shutil.copytree(base, old / "models" / "tiny")
    if template is None:
        (old / "models" / "tiny" / "chat_template.jinja").write_text(NAMED["chatml"])
    task = _task(old / "data", "demo", Path("models/tiny"), template)
    monkeypatch.chdir(old)
    artifact = _bring(task, ArtifactStore(old / ".finetune" / "artifacts"))

    new.parent.mkdir()
    old.rename(new)
    monkeypatch.chdir(new / "models")
    store = ArtifactStore(new / ".finetune" / "artifacts")
    moved = _bring(load_task(new / "data" / "demo"), store)
    assert moved.reused and moved.version == artifact.version and store.check(moved)
    assert (model_folder(moved.folder) / "model.safetensors").resolve() == new / "models" / "tiny" / "model.safetensors"

    monkeypatch.chdir(new)
    (new / "models").rename(tmp_path / "elsewhere")
    again = _bring(_task(new / "data", "demo", tmp_path / "elsewhere" / "tiny", template), store)
    assert not again.reused and again.version == artifact.version and store.check(again)


def test_a_link_of_the_base_that_leads_to_other_weights_is_noticed(
    base: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    """As in the cache of a hub, whose folders hold links to the weights of a revision."""
    cached = shutil.copytree(base, tmp_path / "snapshot")
    (cached / "chat_template.jinja").write_text(NAMED["chatml"])
    weights, old, new = cached / "model.safetensors", tmp_path / "blob_1", tmp_path / "blob_2"
    new.write_bytes(weights.read_bytes()[::-1])
    weights.rename(old)
    weights.symlink_to(old)
    artifact = _bring(_task(tmp_path, "demo", cached, None), store)
    assert store.check(artifact)
    weights.unlink()
    weights.symlink_to(new)
    with pytest.raises(ChangedArtifact, match="blob_2 has changed"):
        store.check(artifact)
