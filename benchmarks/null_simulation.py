"""How often the gates promote a candidate that is exactly as good as its strongest rival, by simulation.

    python -m benchmarks.verdicts --null 1000

Right and wrong answers are drawn for the base model (free and restricted) and for the simple models. A candidate copies the
strongest rival on some rows and is right as often on the others, so it is promoted only by chance. `decide_gain` and both
gates on gains judge it, at the significance level that its look at the test leaves.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from benchmarks.gate_simulation import SPEC, TRIES, evaluation_of
from finetune_pipeline.evaluation.deciding import decide_gain, level_of
from finetune_pipeline.evaluation.gates.beats_baseline import beats_baseline
from finetune_pipeline.evaluation.gates.beats_simple import beats_simple
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval


@dataclass(frozen=True)
class NullWorld:
    """Rivals of a useless candidate, which is exactly as good as the strongest of them.

    Attributes:
        contents: A description.
        rows: Test rows.
        base: Accuracy of the base model by mode, named as by rivals.base_at_its_best; the first one decides.
        simple: Accuracy of the simple models by name.
        shared: Chance that a rival or the candidate answers a row as the strongest rival does; else it is right with its
            own accuracy.
    """

    contents: str
    rows: int
    base: dict[str, float]
    simple: dict[str, float]
    shared: float


NULL_WORLDS = (
    NullWorld("its restricted answers lead", 200, {"restricted": 0.8}, {"commonest": 0.5, "nearest": 0.6}, 0.8),
    NullWorld("TF-IDF leads, few rows", 60, {"free": 0.5}, {"commonest": 0.5, "nearest": 0.6, "linear": 0.8}, 0.5),
    NullWorld(
        "all five alike", 200, {"free": 0.7, "restricted": 0.7}, {"commonest": 0.7, "nearest": 0.7, "linear": 0.7}, 0.5
    ),
)
MIN_STANDARD_ERRORS = 1.5
"""A candidate that is no further ahead of a rival is promoted at no level, so the gates need not run."""


def null_report(candidates: int) -> str:
    """Judge this number of candidates in each of NULL_WORLDS by beats_baseline and beats_simple: as the first on a test, and in
    sequences of TRIES on one test. Returns a printable table with Wilson intervals of the rates."""
    began, at_first = time.process_time(), level_of(1, SPEC.gates.confidence).spent
    lines = [
        f"Candidates exactly as good as their strongest rival, {datetime.now(UTC).date()}: {candidates:,} as the first "
        f"on a test, and as many sequences of {TRIES} on one test, in each world.",
        "",
        f"   {'world':<34}rows  answers shared   promoted at look 1   {f'one of {TRIES} looks':>22}",
    ]
    counts = np.zeros((2, len(NULL_WORLDS)), int)
    for i, world in enumerate(NULL_WORLDS):
        counts[:, i] = promoted(world, candidates, seed=i)
        rates = "".join(f"{_rate(int(count), candidates):>22}" for count in counts[:, i])
        lines.append(f"   {world.contents:<34}{world.rows:4}  {world.shared:14.0%}{rates}")
    total = candidates * len(NULL_WORLDS)
    rates = "".join(f"{_rate(int(count), total):>22}" for count in counts.sum(axis=1))
    bound = level_of(TRIES, SPEC.gates.confidence).spent
    lines += [
        f"   {'all together':<54}{rates}",
        f"   stated: at most {at_first:.1%} at the first look, {bound:.1%} over {TRIES}, and 5% over any number",
        "",
        f"{time.process_time() - began:.0f} s of CPU",
    ]
    return "\n".join(lines) + "\n"


def _rate(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


def promoted(world: NullWorld, sequences: int, seed: int) -> tuple[int, int]:
    """How many first candidates are promoted, and in how many sequences of TRIES candidates any is."""
    random, first, in_sequence = np.random.default_rng(seed), 0, 0
    accuracies = {**world.base, **world.simple}
    strongest = max(accuracies, key=lambda name: accuracies[name])
    for _ in range(sequences):
        lead = random.random(world.rows) < accuracies[strongest]
        right = {name: _like(lead, accuracy, world.shared, random) for name, accuracy in accuracies.items()}
        right[strongest] = lead
        for look in range(1, TRIES + 1):
            candidate = _like(lead, accuracies[strongest], world.shared, random)
            if _passes(world, right, candidate, look):
                first += look == 1
                in_sequence += 1
                break
    return first, in_sequence


def _like(lead: np.ndarray, accuracy: float, shared: float, random: np.random.Generator) -> np.ndarray:
    """Draw right or wrong for every row: as the leading rival with chance `shared`, else right with chance `accuracy`."""
    same = random.random(len(lead)) < shared
    return np.where(same, lead, random.random(len(lead)) < accuracy)


def _passes(world: NullWorld, right: Mapping[str, np.ndarray], candidate: np.ndarray, look: int) -> bool:
    """Whether both gates on gains let the candidate through."""
    for rival in right.values():
        lead, discordant = int(candidate.sum()) - int(rival.sum()), int((candidate != rival).sum())
        if lead <= MIN_STANDARD_ERRORS * math.sqrt(discordant):
            return False
    level, candidate_rows = level_of(look, SPEC.gates.confidence), _answers(candidate)
    sides = {"baseline": world.base, "simple": world.simple}
    decisions = {
        side: decide_gain(
            {name: _answers(right[name]) for name in names},
            candidate_rows,
            SPEC.output,
            ["accuracy"],
            level=level.level or 0.0,
            margin=0.0,
        )
        for side, names in sides.items()
    }
    evaluation = evaluation_of(world.rows, level, **decisions)
    return beats_baseline(SPEC, evaluation).passed and beats_simple(SPEC, evaluation).passed


def _answers(right: np.ndarray) -> list[dict[str, str]]:
    """Prediction rows, right or wrong as given."""
    return [{"text": "yes" if r else "no", "gold": "yes", "status": "ok"} for r in right]
