"""The base model step with a chat template from the task: content decides, and tasks share what is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.chat_templates import NAMED
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import Task, check_task, load_task
from finetune_pipeline.spec.model import CHAT_TEMPLATES
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
    told = {
        "name": name,
        "description": "d",
        "base_model": str(base),
        "system_prompt": "yes or no",
        "output": {"kind": "labels", "labels": ["yes", "no"]},
        **({"chat_template": template} if template else {}),
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(told))
    return load_task(folder)


def _world(task: Task) -> RunInputs:
    return RunInputs("raw", "reviews", "logs", "corrections", base_of(task))


def _bring(task: Task, store: ArtifactStore) -> Any:
    def launch(job: Any) -> dict[str, Any]:
        return prepare_base(job["base_model"], job["revision"], Path(job["out"]), job.get("chat_template"))

    return PIPELINE.run("base_model", task, _world(task), store, launch)


def test_two_tasks_on_one_base_with_different_templates_do_not_meet(
    base: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    plain = _bring(_task(tmp_path, "first", base, "none"), store)
    marked = _bring(_task(tmp_path, "second", base, "chatml"), store)
    assert plain.folder != marked.folder
    assert load_tokenizer(plain.folder).chat_template == NAMED["none"]
    assert load_tokenizer(marked.folder).chat_template == NAMED["chatml"]
    again = _bring(_task(tmp_path, "third", base, "none"), store)
    assert again.folder == plain.folder and again.reused
    mine = _task(tmp_path, "fourth", base, None)
    (mine.folder / "mine.jinja").write_text(NAMED["none"])
    named = _bring(_task(tmp_path, "fourth", base, "mine.jinja"), store)
    assert named.folder == plain.folder, "the same text is the same template, whatever it is called"


def test_the_files_content_decides(base: Path, tmp_path: Path, store: ArtifactStore) -> None:
    (tmp_path / "demo").mkdir()
    file = tmp_path / "demo" / "mine.jinja"
    file.write_text(NAMED["none"])
    task = _task(tmp_path, "demo", base, "mine.jinja")
    first = PIPELINE.versions(task, _world(task), store)
    file.touch()
    assert PIPELINE.versions(task, _world(task), store) == first
    file.write_text(NAMED["none"].replace("Answer:", "Label:"))
    second = PIPELINE.versions(task, _world(task), store)
    changed = {name for name in first if first[name] != second[name]}
    assert {"base_model", "few_shot_baseline", "adapter", "merged_model", "test_predictions"} <= changed
    assert not {"raw_examples", "clean_examples", "splits"} & changed


def test_a_file_that_changes_during_a_run_stops_it(base: Path, tmp_path: Path, store: ArtifactStore) -> None:
    (tmp_path / "demo").mkdir()
    file = tmp_path / "demo" / "mine.jinja"
    file.write_text(NAMED["none"])
    task = _task(tmp_path, "demo", base, "mine.jinja")
    world = _world(task)
    file.write_text(NAMED["chatml"])
    with pytest.raises(RuntimeError, match=r"mine\.jinja of demo changed since this run began"):
        PIPELINE.run("base_model", task, world, store)


def test_without_a_template_nothing_of_the_identity_changes(base: Path, tmp_path: Path) -> None:
    assert "chat_template" not in base_of(_task(tmp_path, "demo", base, None))


@pytest.mark.parametrize(
    ("told", "fix"),
    [
        ("chatlm", "did you mean 'chatml'?"),
        ("no.jinja", "chatml, gemma, llama3, none"),
        ("../x.jinja", "copy the file"),
    ],
)
def test_what_is_no_template_is_refused_with_the_spec(base: Path, tmp_path: Path, told: str, fix: str) -> None:
    with pytest.raises(FindingsError) as error:
        _task(tmp_path, "demo", base, told)
    (finding,) = error.value.findings
    assert finding.rule == "spec.chat_template" and fix in finding.fix
    assert check_task(tmp_path / "demo")[0] is None


def test_the_specs_names_are_the_templates_there_are() -> None:
    assert tuple(NAMED) == CHAT_TEMPLATES


def test_the_artifact_says_where_its_template_is_from(base: Path, tmp_path: Path, store: ArtifactStore) -> None:
    made = _bring(_task(tmp_path, "demo", base, "none"), store)
    assert made.facts["chat_template"] == "task.yaml"
    assert json.loads((made.folder / "model.json").read_text())["chat_template"] == "task.yaml"
    assert made.facts["warnings"][0]["rule"] == "model.template_from_task"
