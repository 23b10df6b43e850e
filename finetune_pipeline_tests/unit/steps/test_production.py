"""Drift and decision over real artifacts: the champion's data and answers are what production is held against."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.graph import MissingInput
from finetune_pipeline.engine.step import RunInputs, StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.predictions import write_predictions
from finetune_pipeline.production.used_rows import rows_of_data
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.production import make_drift_report, make_retraining_decision
from finetune_pipeline_tests.unit.evaluation.rows import row
from finetune_pipeline_tests.unit.production.releases import released_facts
from finetune_pipeline_tests.unit.production.streams import LABELS, labels, make_spec, served, text

USED = 40
"""Of the corrected production rows, so many were there when the champion was trained."""


def example(name: str, asked: str, label: str, log: str | None = None) -> Example:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": label}]
    origin = "production" if log else "human"
    return Example(name, messages, label=label, origin=origin, tags=[f"log:{log}"] if log else [])


@dataclass
class Stage:
    """A store with a champion, and production rows of which the first were in its data."""

    root: Path

    def __post_init__(self) -> None:
        rng = random.Random(0)
        self.task = Task(spec=make_spec(), folder=self.root)
        self.store = ArtifactStore(self.root / "store")
        self.rows = served(rng, 500, corrected=0.5)
        corrected = [r for r in self.rows if r["correction"]]
        self.examples = [example(f"p{r['id']}", r["input"], r["correction"], r["id"]) for r in corrected]
        self.last_used = corrected[USED - 1]
        corrected[0]["timestamp"] = "2199-01-01T00:00:00+00:00"  # a clock was wrong
        train = [example(str(i), text(rng, x), x) for i, x in enumerate(labels(rng, 300))]
        self.raw = self.made(
            "raw_examples", {}, lambda out: write_examples(out / "files/production.jsonl", self.examples[:USED])
        )
        self.splits = self.made("splits", {}, lambda out: self.write_splits(out, train))
        answers = [row(i, x, x if i % 5 else LABELS[0], "candidate") for i, x in enumerate(labels(rng, 200))]
        behind = {"test_split": self.splits.version, "merged_model": "m1"}
        self.made("test_predictions", behind, lambda out: write_predictions(out / "predictions.parquet", answers))
        report = {"splits": self.splits.version, "raw_examples": self.raw.version}
        self.report = self.made("evaluation_report", report, lambda out: None)
        self.made("model_version", {"evaluation_report": self.report.version}, lambda out: None, released_facts(1))

    def write_splits(self, out: Path, train: list[Example]) -> None:
        write_examples(out / "train/examples.jsonl", [*train, *self.examples[:USED]])
        write_examples(out / "validation/examples.jsonl", train[:50])

    def made(self, step: str, inputs: dict[str, str], fill: Any, facts: dict[str, Any] | None = None) -> Artifact:
        def make(builder: Builder) -> None:
            builder.facts.update(facts or {})
            for name in ("files", "train", "validation"):
                (builder.folder / name).mkdir()
            fill(builder.folder)

        return self.store.build("demo", step, code_version="1", inputs=inputs, settings=None, make=make)

    def work(self, name: str, trained_on: str, **inputs: Artifact) -> StepContext:
        out = self.root / name
        out.mkdir()
        champion = {"merged": "m1", "model_version": 1}
        world = RunInputs("", "", "", "", {}, champion, trained_on=trained_on)
        return StepContext(self.task, world, inputs, Builder(out, out, {}), self.store, no_tool, no_tool)

    def logs(self) -> Artifact:
        def fill(out: Path) -> None:
            write_rows(out / "rows.jsonl", self.rows)
            write_examples(out / "examples.jsonl", self.examples)

        return self.made("production_logs", {}, fill)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("production"))


def test_drift_looks_at_rows_after_the_champions_data(stage: Stage) -> None:
    logs = stage.logs()
    facts = make_drift_report(stage.work("drift", stage.splits.version, production_logs=logs))
    later = [r for r in stage.rows if r["timestamp"] > stage.last_used["timestamp"]]
    assert (facts.rows, facts.watched) == (500, len(later))
    assert "its answers on the test set" in facts.reference and "format_failures" in facts.signals
    assert (stage.root / "drift/drift.html").exists()
    drift = Artifact("demo", "drift_report", "d", stage.root / "drift", facts, {})
    decision = make_retraining_decision(
        stage.work("decision", stage.splits.version, production_logs=logs, drift_report=drift)
    )
    assert decision.usable_rows == len(stage.examples) - USED and decision.curve is not None


def test_without_the_champions_data_nothing_is_judged(stage: Stage) -> None:
    with pytest.raises(MissingInput, match="finetune run demo"):
        make_drift_report(stage.work("gone", "nowhere", production_logs=stage.logs()))


def test_rows_are_used_once_a_candidate_was_made_from_them(stage: Stage) -> None:
    expected = {e.id for e in stage.examples[:USED]}
    assert rows_of_data(stage.store, "demo") == expected
    assert rows_of_data(stage.store, "demo", stage.splits.version) == expected
    assert rows_of_data(stage.store, "demo", "other") == set()
