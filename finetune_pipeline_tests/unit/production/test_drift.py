"""Drift: found when planted, silent when there is none, and never judged from a handful of rows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from finetune_pipeline.data.examples import Example
from finetune_pipeline.production.decision import decide_retraining
from finetune_pipeline.production.drift import drift_report
from finetune_pipeline.spec import TaskSpec, parse_spec

WORDS = [f"word{i}" for i in range(60)]


@pytest.fixture
def spec() -> TaskSpec:
    return parse_spec(
        yaml.safe_dump(
            {
                "name": "demo",
                "description": "d",
                "system_prompt": "a b",
                "output": {"kind": "labels", "labels": ["a", "b"]},
            }
        )
    )


def texts(rng: random.Random, n: int, words: list[str] = WORDS, length: tuple[int, int] = (5, 20)) -> list[str]:
    return [" ".join(rng.choices(words, k=rng.randint(*length))) for _ in range(n)]


def train(rng: random.Random) -> list[Example]:
    return [
        Example(
            id=str(i),
            label=(label := rng.choice("ab")),
            messages=[{"role": "user", "content": t}, {"role": "assistant", "content": label}],
        )
        for i, t in enumerate(texts(rng, 400))
    ]


def served(rng: random.Random, inputs: list[str], outputs: str = "ab") -> list[dict]:
    return [{"input": t, "output": rng.choice(outputs)} for t in inputs]


def test_no_drift_in_the_same_distribution(spec: TaskSpec, tmp_path: Path) -> None:
    alarms = 0
    for seed in range(20):
        rng = random.Random(seed)
        facts = drift_report(spec, train(rng), served(rng, texts(rng, 150)), tmp_path)
        alarms += bool(facts["drifted"])
    assert alarms <= 3, "5% alarms are allowed for"


@pytest.mark.parametrize(
    ("signal", "change"),
    [
        ("input_length", lambda rng: served(rng, texts(rng, 150, length=(20, 60)))),
        (
            "unseen_words",
            lambda rng: served(rng, texts(rng, 150, words=[*WORDS[:30], *(f"new{i}" for i in range(30))])),
        ),
        ("label_mix", lambda rng: served(rng, texts(rng, 150), outputs="aaaaab")),
        ("format_failures", lambda rng: served(rng, texts(rng, 150), outputs="aaabbbx")),
    ],
)
def test_each_planted_drift_is_found_by_its_signal(spec: TaskSpec, tmp_path: Path, signal: str, change) -> None:
    rng = random.Random(1)
    facts = drift_report(spec, train(rng), change(rng), tmp_path)
    assert signal in facts["drifted"]
    assert signal in facts["sentence"]


def test_a_few_rows_are_not_judged(spec: TaskSpec, tmp_path: Path) -> None:
    facts = drift_report(spec, train(random.Random(0)), served(random.Random(0), ["new thing"] * 29), tmp_path)
    assert not facts["judged"]
    assert facts["drifted"] == []
    assert "too few" in facts["sentence"]


def test_the_decision_and_its_sentence(spec: TaskSpec, tmp_path: Path) -> None:
    still, moved = {"drifted": [], "sentence": "No drift."}, {"drifted": ["label_mix"], "sentence": "Drift."}
    assert (
        decide_retraining(spec, still, {"corrections": 49}, tmp_path)["sentence"] == "Wait for 1 more corrected rows."
    )
    assert decide_retraining(spec, still, {"corrections": 50}, tmp_path)["retrain"]
    assert decide_retraining(spec, moved, {"corrections": 1}, tmp_path)["retrain"]
    nothing = decide_retraining(spec, moved, {"corrections": 0}, tmp_path)
    assert not nothing["retrain"]
    assert "label some first" in nothing["sentence"]
