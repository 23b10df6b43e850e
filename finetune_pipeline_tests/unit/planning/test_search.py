"""The ladder of costs: in order, each rung needs less by the formula, and what is found can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.planning.search import changes, ladder
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec


def settings(**told: Any) -> dict[str, Any]:
    return TrainingSpec.model_validate(told).model_dump()


def test_the_cheapest_changes_come_first() -> None:
    told = [changes(settings(), s) for s in ladder(settings(max_tokens=1024))]
    assert told[:4] == [{}, {"micro_batch_size": 4}, {"micro_batch_size": 2}, {"micro_batch_size": 1}]
    assert told[4] == {"gradient_checkpointing": True}
    firsts = [tuple(c) for c in told if "micro_batch_size" not in c]
    last = ("unquantized_epochs", "max_tokens", "over_length", "gradient_checkpointing")
    assert firsts == [(), last[3:], (last[0], last[3]), last, last]
    assert told[-1]["max_tokens"] == 256


@pytest.mark.parametrize("method", METHODS)
def test_every_rung_is_a_valid_spec(method: str) -> None:
    rungs = list(ladder(settings(method=method)))
    for rung in rungs:
        assert TrainingSpec.model_validate(rung).model_dump() == rung
        assert rung["method"] != "prefix" or rung["gradient_checkpointing"] is not True
        assert rung["batch_size"] == 8, "what is learned must not depend on the memory"
        assert rung["batch_size"] % rung["micro_batch_size"] == 0
    assert rungs[-1]["method"] == "qlora" and rungs[-1]["unquantized_epochs"] == 0


def test_a_rung_needs_less_than_the_one_above_it(base: Path, examples: list[Example]) -> None:
    planner = Planner(base, examples, examples[:8])
    start = settings(method="full", lora={"r": 2})  # a tiny base is no larger than an adapter on it
    rungs = [s for s in ladder(start) if s["micro_batch_size"] == 8 and s["max_tokens"] == 1024]
    moving = [memory.needed - memory.overhead for memory in map(planner.memory, rungs)]
    assert moving == sorted(moving, reverse=True), [(r["method"], m) for r, m in zip(rungs, moving, strict=True)]
