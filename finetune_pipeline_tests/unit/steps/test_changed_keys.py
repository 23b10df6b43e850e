"""Every key of the spec, changed after a run: what the data stage depends on is changed, and the stage is run again: it
works, or says what to do. Of all others it is asked which steps run again; the split stays."""

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from finetune_pipeline.data.split.ledger import record_assignments
from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.engine.step import RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.pipeline import CHECKS, DATA, PIPELINE, PRODUCTION, STEPS
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.data import DataSpec, SplitSpec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSpec, decisive_settings
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.data.test_together import EDITS, request

LABELS = ["one", "two"]
CHANGES: dict[str, Any] = {
    "data.unlabelled": ["more/*.jsonl"], "data.raw": ["raw/*.jsonl", "more/*.jsonl"], "data.format": "text_label",
    "data.fields": {"text": "text", "label": "label", "group": "topic"},
    "data.roles": {"USER": "user"}, "data.csv": {"delimiter": ";"}, "data.inject": True, "data.max_chars": 400,
    "data.min_chars": 20, "data.max_quarantine_share": 0.5, "data.min_examples": 20, "data.min_per_label": 5,
    "data.max_imbalance": 2.0, "data.max_suspects_of_a_file": 1.0, "data.max_label_noise": 1.0,
    "data.triggers": "warn",
    "data.near_duplicate_threshold": 0.5, "data.contradictions": "warn", "data.synthetic": {"review_share": 0.5},
    "data.scrub": "drop", "data.scrub_names": True, "data.scrub_region": "GB", "data.sheet": "Orders",
    "data.allow_truncated": True, "data.max_unpacked_gib": 0.5, "data.benchmarks": ["benchmark.jsonl"],
    "split.by": "time", "split.validation": 0.2, "split.test": 0.3, "split.seed": 7, "split.tolerance": 0.2,
    "split.restart": True, "output.labels": [*LABELS, "three"], "system_prompt": "Another prompt. one two three",
}  # fmt: skip
SAYS_WHAT_TO_DO = {
    "data.unlabelled": "declare `teacher`",
    "data.fields": "set split.restart: true", "data.scrub_names": "spaCy", "split.by": "no test row has a time",
}  # fmt: skip
"""Keys whose change stops the run here, and what the message names: groups over all splits; a model not installed; no times."""


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
    artifacts = PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)
    results = [check.holds_back(artifacts[step], task.spec) for step, check in CHECKS if step in artifacts]
    return artifacts["splits"].facts, [result for result in results if result]


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
        "name": "task", "description": "changed keys", "system_prompt": "Answer one or two.",
        "output": {"kind": "labels", "labels": LABELS},
        "data": {"min_examples": 10, "min_per_label": 0, "max_quarantine_share": 0.9, "contradictions": "warn"},
    }  # fmt: skip
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
    assert all(SAYS_WHAT_TO_DO.get(key, "nothing") in answer.message for answer in stopped), stopped
    assert facts["left"]["test"] == 0 and min(facts["counts"].values()) > 0
    again, stopped = run(home / "task", store)
    assert again["counts"] == facts["counts"] and len(stopped) == (key in ("data.fields", "split.by"))


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


def test_a_restart_that_dies_after_its_assignments_goes_on_with_its_ledger(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_and_die(assignments: np.ndarray, ledger: Path) -> int:
        record_assignments(assignments, ledger)
        raise KeyboardInterrupt

    home = tmp_path / "home"
    shutil.copytree(first, home)
    store, path = ArtifactStore(home / "store"), home / "task/task.yaml"
    spec = yaml.safe_load(path.read_text())
    change(spec, "split.restart", True)
    path.write_text(yaml.safe_dump(spec))
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr("finetune_pipeline.steps.data.record_assignments", record_and_die)
        run(home / "task", store)
    assert run(home / "task", store)[0]["ledger"] == "splits-2"


SPLIT = {step.name for step in STEPS if step.group == DATA} - {"data_quality"}  # it counts the base model's tokens
TRAINED = {"adapter", "merged_model"}
ANSWERED = {"test_predictions"}
SERVER = {"url": "http://127.0.0.1:9/v1", "model": "m"}
OTHERS: dict[str, Any] = {
    "rollout": {},
    "description": "Another one.", "owner": "team:other", "base_model": "other", "base_revision": None,
    "chat_template": "template.jinja", "advise.calls_per_month": 1000, "advise.dollars_per_million_tokens": 0.5,
    "advise.max_cost_per_1k": 1.0, "advise.max_latency_ms": 100.0, "ladder.pilot": [0.5],
    "baseline.prompts": ["short.txt"], "baseline.endpoint": SERVER, "training.method": "lora", "training.trainer": None,
    "training.budget_usd": 5.0, "training.openai": {"model": "m"}, "training.together": {"model": "m"},
    "compute.data": "ray", "training.ray": {"workers": 2, "storage": "/shared"}, "training.over_length": "drop",
    "training.precision": "float32", "training.scheduler": "linear", "training.micro_batch_size": 4,
    "training.gradient_checkpointing": True, "training.trainer_options": {"queue": 1}, "training.lora": {"r": 4},
    "training.prefix": {"tokens": 5}, "training.prompt": {"tokens": 5}, "training.refine": {"method": "kto"},
    "evaluation.engine": None,
    "evaluation.precision": "float32", "evaluation.endpoint": None, "evaluation.constrained_decoding": None,
    "automation.max_error": 0.1, "automation.unit": None, "evaluation.judge": SERVER,
    "evaluation.similarity": "hashed", "robustness.action": "warn", "ability.files": ["own.jsonl"],
    "gates.metric": "macro_f1", "gates.more_metrics": ["macro_f1"],
    "gates.parts": ["raw/a.jsonl"], "gates.never_break": ["some-id"], "gates.min_gain": 0.01, "gates.min_score": 0.5,
    "gates.min_preferred": None, "gates.simple": "not_worse", "gates.champion": "not_worse", "logs.keep_days": 30,
    "logs.low_score": 0.2, "logs.path": "elsewhere/*.jsonl", "logs.mlflow_experiment": "traces",
    "logs.retrain_cron": "0 4 * * *", "drift.action": "tell", "card.language": ["en"], "card.datasets": ["org/set"],
    "card.data_licenses": ["mit"],
}  # fmt: skip
"""Values for keys of which no other one can be guessed; None: only one value is possible without other keys."""
OUTSIDE = {"name", "system_prompt", "output", "data", "split", "teacher"}
READ_BY_THE_DATA_STAGE = {"ability.suite", "ability.files"}
"""Rows that repeat what models are asked besides the task are left out."""
OF_OTHERS = {
    "training.budget_usd",
    "training.openai",
    "training.together",
    "training.ray",
    "training.prefix",
    "training.prompt",
}
"""What this machine's training with an adapter does not read: settings of other trainers and methods."""


def keys() -> list[str]:
    names: list[str] = []
    for name, field in TaskSpec.model_fields.items():
        section = field.annotation
        nested = isinstance(section, type) and issubclass(section, BaseModel)
        if name not in OUTSIDE:
            names += [f"{name}.{key}" for key in section.model_fields] if nested else [name]
    return names


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], dict[str, str]]:
    """The versions of all steps after a key was changed, or after none."""
    home = tmp_path_factory.mktemp("keys")
    (home / "task/raw").mkdir(parents=True)
    (home / "task/raw/a.jsonl").write_text('{"text": "It broke", "label": "one"}\n')
    (home / "task/own.jsonl").write_text('{"query": "q?", "choices": ["a", "b"], "gold": 0}\n')
    (home / "task/short.txt").write_text("Answer.")
    base = make_tiny_model(home / "base")
    OTHERS["base_model"] = str(make_tiny_model(home / "other", seed=1))
    (home / "task/template.jinja").write_text((base / "chat_template.jinja").read_text() + "{# changed #}")
    spec = {
        "name": "task", "description": "keys", "base_model": str(base), "system_prompt": "Answer one or two.",
        "output": {"kind": "labels", "labels": ["one", "two"]},
    }  # fmt: skip

    def of(changed: dict[str, Any]) -> dict[str, str]:
        (home / "task/task.yaml").write_text(yaml.safe_dump(changed))
        task, store = load_task(home / "task"), ArtifactStore(home / "store")
        return PIPELINE.versions(task, collect_run_inputs(task, None, store), store)

    before, task = of(spec), load_task(home / "task")

    def after(key: str | None) -> dict[str, str]:
        if key is None:
            return before
        section, _, name = key.rpartition(".")
        holder = getattr(task.spec, section) if section else task.spec
        value = OTHERS[key] if key in OTHERS else _another(getattr(holder, name))
        return of({**spec, **({section: {name: value}} if section else {name: value})})

    return after


def _another(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if value else 0.1
    if value is None or isinstance(value, str):
        return {"warn": "block", "block": "warn"}.get(str(value), "changed")
    return [*value, 1]


@pytest.mark.parametrize("key", [key for key in keys() if OTHERS.get(key, "") is not None])
def test_a_changed_key_makes_anew_what_reads_it_and_never_the_split(versions: Any, key: str) -> None:
    before, after = versions(None), versions(key)
    anew = {name for name in before if before[name] != after[name]}
    if key in READ_BY_THE_DATA_STAGE:
        assert "clean_examples" in anew
        return
    assert not anew & SPLIT, "the rows and the sealed test stay as they are"
    section = key.partition(".")[0]
    if key == "evaluation.precision":
        assert "adapter" not in anew
        assert anew >= {"few_shot_baseline", "merged_model", "base_ability", "general_ability", "test_predictions"}
        return
    if key in OF_OTHERS:
        assert not anew & TRAINED
    elif key == "compute.data":
        assert not anew, "no result depends on where it is computed"
    elif section in ("training", "base_model", "chat_template"):
        assert anew >= TRAINED
    elif section != "baseline":  # the base is merged and asked as its prompts are
        assert not anew & TRAINED
    if section == "rollout":
        assert anew == {"model_version"}
    if section in ("drift", "retraining", "logs"):
        assert anew <= {step.name for step in STEPS if step.group == PRODUCTION} | {"production_logs"}
    if section in ("gates", "advise", "card", "evaluation") and key not in ("gates.metric", "gates.confidence"):
        assert not anew & ANSWERED


def test_only_a_second_stage_changes_what_is_asked_of_the_sealed_test() -> None:
    def settings(**refine: Any) -> Mapping[str, Any]:
        fields = {"name": "t", "description": "d", "system_prompt": "one", "training": {"refine": refine}}
        spec = TaskSpec.model_validate({**fields, "output": {"kind": "text"}})
        return PIPELINE.steps["test_predictions"].settings(spec, RunInputs("r", "v", "l", "c", {}))

    usual = settings()
    assert settings(beta=0.5, epochs=2) == usual
    assert settings(method="kto") == {**usual, "stages": 2}


def test_limits_on_money_and_patience_train_nothing_anew_and_hyperparameters_do() -> None:
    def settings(trainer: str = "openai", **section: Any) -> dict[str, Any]:
        budget = section.pop("budget_usd", None)
        return decisive_settings(
            TrainingSpec.model_validate({"trainer": trainer, "budget_usd": budget, "openai": {"model": "m", **section}})
        )

    usual = settings()
    for patience in ({"budget_usd": 5}, {"api_key_env": "KEY"}, {"poll_seconds": 1}, {"settle_seconds": 1}):
        assert settings(**patience) == usual
    assert settings(model="other") != usual and settings(learning_rate_multiplier=2) != usual
    assert "together" not in usual and "openai" not in settings("local")
