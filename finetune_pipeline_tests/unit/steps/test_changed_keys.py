"""Every key of the spec that the data stage depends on, changed after a run: the next run works, or says what to do.
Each case runs the stage, changes one key, and runs again from the same store. ``pytest -s`` prints the table."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.data import DataSpec, SplitSpec
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.unit.data.test_together import EDITS, request

LABELS = ["one", "two"]
CHANGES: dict[str, Any] = {
    "data.raw": ["raw/*.jsonl", "more/*.jsonl"],
    "data.format": "text_label",
    "data.fields": {"text": "text", "label": "label", "group": "topic"},
    "data.roles": {"USER": "user"},
    "data.csv": {"delimiter": ";"},
    "data.inject": True,
    "data.max_chars": 400,
    "data.min_chars": 20,
    "data.max_quarantine_share": 0.5,
    "data.min_examples": 20,
    "data.min_per_label": 5,
    "data.max_imbalance": 2.0,
    "data.max_suspects_of_a_file": 1.0,
    "data.max_label_noise": 1.0,
    "data.near_duplicate_threshold": 0.5,
    "data.contradictions": "warn",
    "data.synthetic": {"review_share": 0.5},
    "data.scrub": "drop",
    "data.scrub_names": True,
    "data.scrub_region": "GB",
    "data.sheet": "Orders",
    "data.allow_truncated": True,
    "data.max_unpacked_gib": 0.5,
    "data.benchmarks": ["benchmark.jsonl"],
    "split.by": "time",
    "split.validation": 0.2,
    "split.test": 0.3,
    "split.seed": 7,
    "split.tolerance": 0.2,
    "split.restart": True,
    "output.labels": [*LABELS, "three"],
    "system_prompt": "Another prompt. one two three",
}
SAYS_WHAT_TO_DO = {"data.fields": "set split.restart: true", "data.scrub_names": "spaCy"}
"""Keys whose change stops the run here, and what the message names: groups over all splits; a model not installed."""


def rows(dice: random.Random, count: int) -> list[dict[str, str]]:
    """Requests, some of them edited copies of others."""
    texts = [request(dice) for _ in range(count)]
    texts += [edit(text, dice) for edit in EDITS.values() for text in dice.sample(texts[:count], count // 20)]
    texts += [text + " as soon as possible" for text in texts[: count // 10]]
    return [{"text": text, "label": LABELS[i % 2], "topic": f"t{i % 40}"} for i, text in enumerate(texts)]


def change(spec: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        spec = spec.setdefault(name, {})
    spec[last] = value


def run(folder: Path, store: ArtifactStore) -> tuple[Mapping[str, Any], list[CheckResult]]:
    """(facts of the splits, answers of the checks that stop the run) of the data stage."""
    task = load_task(folder)
    made = PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)
    asked = [(check.ask(made[step], task.spec), check.blocks(task.spec)) for step, check in CHECKS if step in made]
    return made["splits"].facts, [a for a, blocks in asked if blocks and not a.passed and not a.warns]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task and a store after one run of the data stage."""
    home = tmp_path_factory.mktemp("first")
    dice = random.Random(5)
    for name in ("raw", "more"):
        (home / "task" / name).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows(dice, 240 if name == "raw" else 40))
        (home / "task" / name / "a.jsonl").write_text(lines)
    (home / "task/benchmark.jsonl").write_text(json.dumps({"text": "What is the capital of the moon?"}) + "\n")
    spec = {
        "name": "task",
        "description": "changed keys",
        "system_prompt": "Answer one or two.",
        "output": {"kind": "labels", "labels": LABELS},
        "data": {"min_examples": 10, "min_per_label": 0, "max_quarantine_share": 0.9, "contradictions": "warn"},
    }
    (home / "task/task.yaml").write_text(yaml.safe_dump(spec))
    facts, stopped = run(home / "task", ArtifactStore(home / "store"))
    assert not stopped and facts["counts"]["test"] > 20
    return home


def test_every_key_is_in_the_table() -> None:
    keys = {f"data.{name}" for name in DataSpec.model_fields} | {f"split.{name}" for name in SplitSpec.model_fields}
    assert keys <= set(CHANGES)


@pytest.mark.parametrize("key", CHANGES)
def test_the_next_run_works_or_says_what_to_do(first: Path, tmp_path: Path, key: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(first, home)
    path = home / "task/task.yaml"
    spec = yaml.safe_load(path.read_text())
    change(spec, key, CHANGES[key])
    path.write_text(yaml.safe_dump(spec))
    store = ArtifactStore(home / "store")
    try:
        facts, stopped = run(home / "task", store)
    except (FindingsError, RuntimeError, ImportError, OSError) as error:
        assert key in SAYS_WHAT_TO_DO and SAYS_WHAT_TO_DO[key] in str(error)
        return
    print(f"{key:32} {facts['counts']} left {facts['left']} ledger {facts['ledger']}")
    assert all(SAYS_WHAT_TO_DO.get(key, "nothing") in answer.message for answer in stopped), stopped
    assert facts["left"]["test"] == 0 and min(facts["counts"].values()) > 0
    again, stopped = run(home / "task", store)
    assert again["counts"] == facts["counts"] and len(stopped) == (key == "data.fields")


def test_restart_begins_a_new_ledger_once(first: Path, tmp_path: Path) -> None:
    """A new test, and only one while the key stays set; taking it out keeps the new ledger."""
    home = tmp_path / "home"
    shutil.copytree(first, home)
    store, path = ArtifactStore(home / "store"), home / "task/task.yaml"
    spec = yaml.safe_load(path.read_text())
    ledgers = []
    for restart in (False, True, True, False, True):
        change(spec, "split.restart", restart)
        change(spec, "split.seed", int(restart))
        path.write_text(yaml.safe_dump(spec))
        ledgers.append(run(home / "task", store)[0]["ledger"])
    assert ledgers == ["splits", "splits-2", "splits-2", "splits-2", "splits-3"]
