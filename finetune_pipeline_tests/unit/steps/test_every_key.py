"""Every key of the spec outside `data` and `split`, changed after a run: which steps run again; the split stays. `-s`
prints it. Those two sections, and what else the data stage reads, are changed and run in test_changed_keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import DATA, PIPELINE, PRODUCTION, STEPS
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSpec, decisive_settings
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.tiny_model import make_tiny_model

SPLIT = {step.name for step in STEPS if step.group == DATA} - {"data_quality"}  # it counts the base model's tokens
TRAINED = {"adapter", "merged_model"}
ANSWERED = {"test_predictions"}
SERVER = {"url": "http://127.0.0.1:9/v1", "model": "m"}
CHANGES: dict[str, Any] = {
    "description": "Another one.",
    "owner": "team:other",
    "base_model": "other",
    "base_revision": None,
    "chat_template": "template.jinja",
    "advise.calls_per_month": 1000,
    "advise.dollars_per_million_tokens": 0.5,
    "advise.max_cost_per_1k": 1.0,
    "advise.max_latency_ms": 100.0,
    "ladder.minutes": 5.0,
    "ladder.pilot": [0.5],
    "baseline.prompts": ["short.txt"],
    "baseline.endpoint": SERVER,
    "training.method": "lora",
    "training.trainer": None,
    "training.budget_usd": 5.0,
    "training.openai": {"model": "m"},
    "training.together": {"model": "m"},
    "compute.data": "ray",
    "training.ray": {"workers": 2, "storage": "/shared"},
    "training.over_length": "drop",
    "training.precision": "float32",
    "training.scheduler": "linear",
    "training.micro_batch_size": 4,
    "training.gradient_checkpointing": True,
    "training.trainer_options": {"queue": 1},
    "training.lora": {"r": 4},
    "training.prefix": {"tokens": 5},
    "training.prompt": {"tokens": 5},
    "evaluation.engine": None,
    "evaluation.precision": "float32",
    "evaluation.endpoint": None,
    "evaluation.judge": SERVER,
    "evaluation.similarity": "hashed",
    "robustness.action": "warn",
    "ability.files": ["own.jsonl"],
    "ability.harness": {"limit": 50},
    "gates.metric": "macro_f1",
    "gates.more_metrics": ["macro_f1"],
    "gates.parts": ["raw/a.jsonl"],
    "gates.never_break": ["some-id"],
    "gates.min_gain": 0.01,
    "gates.min_preferred": None,
    "gates.simple": "not_worse",
    "gates.champion": "not_worse",
    "logs.keep_days": 30,
    "logs.low_score": 0.2,
    "logs.path": "elsewhere/*.jsonl",
    "logs.mlflow_experiment": "traces",
    "logs.retrain_cron": "0 4 * * *",
    "drift.action": "tell",
    "card.language": ["en"],
    "card.datasets": ["org/set"],
    "card.data_licenses": ["mit"],
}
"""Values for keys of which no other one can be guessed; None: only one value is possible without other keys."""
OUTSIDE = {"name", "system_prompt", "output", "data", "split"}
READ_BY_THE_DATA_STAGE = {"ability.suite", "ability.files"}
"""Rows that repeat what models are asked besides the task are left out."""
OF_OTHER_TRAINERS = {"training.budget_usd", "training.openai", "training.together", "training.ray"}
"""What this machine's training does not read."""


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
    CHANGES["base_model"] = str(make_tiny_model(home / "other", seed=1))
    template = yaml.safe_load((base / "tokenizer_config.json").read_text()).get("chat_template")
    (home / "task/template.jinja").write_text(
        (template or (base / "chat_template.jinja").read_text()) + "{# changed #}"
    )
    spec = {
        "name": "task",
        "description": "keys",
        "base_model": str(base),
        "system_prompt": "Answer one or two.",
        "output": {"kind": "labels", "labels": ["one", "two"]},
    }

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
        value = CHANGES[key] if key in CHANGES else _another(getattr(holder, name))
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


@pytest.mark.parametrize("key", [key for key in keys() if CHANGES.get(key, "") is not None])
def test_a_changed_key_makes_anew_what_reads_it_and_never_the_split(
    versions: Callable[[str | None], dict[str, str]], key: str
) -> None:
    before, after = versions(None), versions(key)
    anew = {name for name in before if before[name] != after[name]}
    print(f"{key:32} {', '.join(name for name in before if name in anew) or 'nothing is made anew'}")
    if key in READ_BY_THE_DATA_STAGE:
        assert "clean_examples" in anew
        return
    assert not anew & SPLIT, "the rows and the sealed test stay as they are"
    section = key.partition(".")[0]
    if key == "evaluation.precision":
        assert "adapter" not in anew
        assert anew >= {"few_shot_baseline", "merged_model", "base_ability", "general_ability", "test_predictions"}
        return
    if key in OF_OTHER_TRAINERS:
        assert not anew & TRAINED
    elif key == "compute.data":
        assert not anew, "no result depends on where it is computed"
    elif section in ("training", "base_model", "chat_template"):
        assert anew >= TRAINED
    elif section != "baseline":  # the base is merged and asked as its prompts are
        assert not anew & TRAINED
    if section in ("drift", "retraining", "logs"):
        assert anew <= {step.name for step in STEPS if step.group == PRODUCTION} | {"production_logs"}
    if section in ("gates", "advise", "card", "evaluation") and key not in ("gates.metric", "gates.confidence"):
        assert not anew & ANSWERED


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
