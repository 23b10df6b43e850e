"""What counts tokens before the base model is made: a local tokenizer, the template alone, or nothing."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.models.identity import BUNDLED
from finetune_pipeline.planning.base_counter import TemplateOnly, base_counter
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec import Task, load_task

TURNS = [{"role": "user", "content": "is it on?"}, {"role": "assistant", "content": "yes"}]


def task_of(folder: Path, base_model: str, **more: Any) -> Task:
    folder.mkdir()
    output = {"kind": "labels", "labels": ["yes", "no"]}
    written = {
        "name": folder.name,
        "description": "d",
        "system_prompt": "s",
        "output": output,
        "base_model": base_model,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump({**written, **more}))
    return load_task(folder)


def test_a_local_model_counts_as_it_will_when_it_is_made(base: Path, tmp_path: Path) -> None:
    counter = base_counter(task_of(tmp_path / "local", str(base)), None)
    made = base_counter(task_of(tmp_path / "made", "anything/else"), base)
    assert counter and made and not isinstance(counter, TemplateOnly)
    assert counter.count(TURNS) == made.count(TURNS) == TokenCounter(base).count(TURNS) > 8


def test_without_a_tokenizer_or_template_nothing_counts(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    (folder / "tokenizer.json").unlink()
    assert base_counter(task_of(tmp_path / "no_tokenizer", str(folder)), None) is None
    assert base_counter(task_of(tmp_path / "hub", "somebody/model", base_revision="a" * 40), None) is None


def test_of_a_bundled_model_only_its_template_is_known(tmp_path: Path) -> None:
    name, bundled = next((name, bundled) for name, bundled in BUNDLED.items() if bundled.template)
    counter = base_counter(task_of(tmp_path / "bundled", name), None)
    assert isinstance(counter, TemplateOnly) and counter.chat_template == bundled.template
    assert counter.backend_tokenizer.encode("yes <b>").tokens[:4] == ["y", "e", "s", "Ġ"], "bytes, and no space before"
