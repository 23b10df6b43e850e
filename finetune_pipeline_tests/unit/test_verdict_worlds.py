"""The table of worlds: what counts as a right verdict, and that the rows of a world are what it says of them."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import verdict_tasks
from benchmarks.null_simulation import NullWorld, promoted
from benchmarks.planted_world import Asked, Outcome
from benchmarks.verdict_list import WORLDS
from benchmarks.verdict_tasks import KnownTask
from benchmarks.verdict_worlds import given, problems

STOP = Asked("data_quality", "labels_believable", False, "blocks", "m")
BASELINE = Asked("evaluation_report", "beats_baseline", False, "gate", "m")
SIMPLE = replace(BASELINE, name="beats_simple")
PROMOTED = Outcome(0, [], [], 1, True, "promote", "Passed")
REFUSED = Outcome(2, [BASELINE, SIMPLE], [], None, False, "refuse", "Refused")
AMBER = Outcome(2, [SIMPLE], [], None, False, "use_simple", "Better than prompting")
STOPPED = Outcome(2, [STOP], [], None, False)


@pytest.mark.parametrize(
    ("world", "outcome"),
    [("shuffled", STOPPED), ("careless", REFUSED), ("noisy-word", AMBER), ("clean-order-1", PROMOTED)],
)
def test_a_verdict_is_right_in_its_world_and_wrong_in_the_others(world: str, outcome: Outcome) -> None:
    assert problems(WORLDS[world], outcome) == []
    for other in {"shuffled", "careless", "noisy-word", "clean-order-1"} - {world}:
        assert problems(WORLDS[other], outcome)


def test_a_crash_is_no_verdict() -> None:
    assert given(replace(REFUSED, code=1)).verdict == "failed"
    assert given(replace(REFUSED, failed=[("adapter", "m")])).verdict == "failed"
    assert given(replace(AMBER, decision=None)).verdict == "failed"
    assert given(replace(PROMOTED, promoted=False)).verdict == "failed", "exit code 0 without a new champion"


TASKS = {name: task for name, task in vars(verdict_tasks).items() if isinstance(task, KnownTask)}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_answers_of_a_task_follow_from_its_texts(name: str) -> None:
    """The same seed gives the same rows, no text has two answers, and guesses are in form."""
    task = TASKS[name]
    rows = task.raw_rows(1, 400)
    assert rows == task.raw_rows(1, 400)
    text, answer = rows[0]
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row[text], set()).add(row[answer])
    assert all(len(of) == 1 for of in answers.values())
    if labels := task.output.get("labels"):
        assert {row[answer] for row in rows} == set(labels)
        assert task.guess(random.Random(0)) in labels


def test_the_simulation_tells_useless_candidates_from_useful_ones() -> None:
    """One in forty useless candidates may be promoted at its first look; candidates that are better must be, or the
    simulation would show nothing."""
    world = NullWorld("w", 200, {"free": 0.6}, {"linear": 0.7}, 0.5)
    assert promoted(world, 300, seed=0)[0] <= 15
    better = replace(world, candidate=0.9)
    assert promoted(better, 100, seed=0)[0] >= 80
