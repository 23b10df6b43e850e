"""How often the wrong model is shipped, by simulation of the choice between finalists.

    python -m benchmarks.selection_simulation [--worlds 1000] [--out benchmarks/results/DATE-selection-simulation.txt]

Right and wrong answers are drawn for two simple models, two prompts and up to ten fine-tuned models, one after another on one
sealed test. The finalists are chosen on validation, and `winner_of` decides, at the level that each look at the test leaves.
No champion is in service: one would only be a further gate.

Measures: finetune_pipeline/evaluation/winner.py, finetune_pipeline/evaluation/finalists.py,
finetune_pipeline/evaluation/deciding.py, finetune_pipeline/evaluation/statistics.
"""

import argparse
import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.evaluation.deciding import level_of
from finetune_pipeline.evaluation.decisions import Finalist
from finetune_pipeline.evaluation.result import EvaluationResult, Task
from finetune_pipeline.evaluation.result_parts import GateResult, GateStatus
from finetune_pipeline.evaluation.statistics.proportions import tango_statistic, wilson_interval, z_value
from finetune_pipeline.evaluation.winner import winner_of

LOOKS = (1, 2, 10)
TEST_ROWS, VALIDATION_ROWS = 200, 100
CONFIDENCE = 0.95
SHARED = 0.5
"""Chance that a model answers a row like the leading one; else it is right with its own accuracy."""
SIMPLE, PROMPTS = ("nearest", "linear"), ("zero_shot", "8_shot")
Right = Mapping[str, np.ndarray]
"""Whether each row is right, by model."""


@dataclass(frozen=True)
class SelectionWorld:
    """True accuracies of all models.

    Attributes:
        accuracy: On the test, of `commonest`, SIMPLE, PROMPTS and `candidate`, the fine-tuned model.
        on_validation: Where it differs there.
        right: What should be shipped; None: nothing; empty: several are right.
        min_score: As gates.min_score.
    """

    contents: str
    accuracy: dict[str, float]
    right: str | None
    on_validation: dict[str, float] = field(default_factory=dict)
    min_score: float | None = None

    def is_wrong_tuned(self, shipped: str | None) -> bool:
        """Whether a fine-tuned model was shipped that is not better than every rival."""
        others = (self.accuracy[name] for name in (*SIMPLE, *PROMPTS, "commonest"))
        return shipped == "candidate" and self.accuracy["candidate"] <= max(others)

    def is_wrong_simpler(self, shipped: str | None) -> bool:
        """Whether a simple model or a prompt was shipped that is not better than the commonest answer, or below min_score."""
        if shipped in (None, "candidate"):
            return False
        accuracy = self.accuracy[shipped]
        return accuracy <= self.accuracy["commonest"] or accuracy < (self.min_score or 0.0)


def world(
    contents: str, right: str | None, simple: float, prompt: float, tuned: float, **more: object
) -> SelectionWorld:
    accuracy = {"commonest": 0.5, "nearest": simple, "linear": simple, "zero_shot": prompt, "8_shot": prompt}
    return SelectionWorld(contents, accuracy | {"candidate": tuned}, right, **more)  # type: ignore[arg-type]


WORLDS = (
    world("all equal and useless", None, 0.5, 0.5, 0.5),
    world("all equal and good", "simple", 0.8, 0.8, 0.8),
    world("a simple model is better", "simple", 0.85, 0.7, 0.7),
    world("a prompt is better", "prompt", 0.7, 0.85, 0.7),
    world("the fine-tuned model is better", "candidate", 0.7, 0.7, 0.85),
    SelectionWorld(
        "validation chooses useless finalists",
        {"commonest": 0.5, "nearest": 0.5, "linear": 0.8, "zero_shot": 0.5, "8_shot": 0.8, "candidate": 0.8},
        None,
        {"nearest": 0.95, "linear": 0.8, "zero_shot": 0.95, "8_shot": 0.8},
    ),
    world("all equal, just below min_score", None, 0.799, 0.799, 0.799, min_score=0.8),
)


def surely_better(lost: int, won: int, n: int, level: float) -> bool:
    """Whether the lower bound of Tango's interval lies above zero: then the statistic of a gain of zero exceeds the quantile."""
    return tango_statistic(lost, won, n, 0.0) > quantile(level)


@functools.cache
def quantile(level: float) -> float:
    return z_value(1 - level)


@functools.cache
def surely_at_least(right: int, n: int, level: float, least: float) -> bool:
    return wilson_interval(right, n, 1 - level)[0] >= least


def beats(right: Right, name: str, other: str, level: float) -> bool:
    """Whether a model surely has more rows right than another one."""
    won, lost = int((right[name] & ~right[other]).sum()), int((right[other] & ~right[name]).sum())
    return surely_better(lost, won, len(right[name]), level)


def shipped(right: Right, simple: str, prompt: str, look: int, min_score: float | None = None) -> str | None:
    """The model that is shipped at the look-th look at the test; None: nothing. simple, prompt: the finalists."""
    level = level_of(look, CONFIDENCE).level or 0.0
    n = len(right["candidate"])

    def reaches(name: str, level: float) -> bool:
        return min_score is None or surely_at_least(int(right[name].sum()), n, level, min_score)

    tuned = {
        "beats_baseline": beats(right, "candidate", prompt, level),
        "beats_commonest": beats(right, "candidate", "commonest", level),
        "beats_simple": all(beats(right, "candidate", name, level) for name in (*SIMPLE, "commonest")),
        "min_score": reaches("candidate", level),
    }
    finalists = []
    for name, kind in ((simple, "simple"), (prompt, "prompt")):
        others = [other for other in (simple, prompt, "candidate") if other != name]
        gates = {"beats_commonest": beats(right, name, "commonest", level / 2), "min_score": reaches(name, level / 2)}
        beaten_by = [other for other in others if beats(right, other, name, level)]
        finalists.append(
            Finalist.model_construct(
                kind=kind, name=name, mode=None, title=name, beaten_by=beaten_by, gates=gate_results(gates)
            )
        )
    evaluation = EvaluationResult.model_construct(
        promoted=None, task=Task.model_construct(method="lora"), finalists=finalists
    )
    return winner_of(evaluation, gate_results(tuned)).name


def gate_results(passed: Mapping[str, bool]) -> list[GateResult]:
    return [gate_result(name, ok) for name, ok in passed.items()]


@functools.cache
def gate_result(name: str, passed: bool) -> GateResult:
    status: GateStatus = "passed" if passed else "failed"
    return GateResult(name=name, status=status, measured=0.0, threshold=0.0, message="")


def drawn(
    accuracy: Mapping[str, float], rows: int, random: np.random.Generator, lead: np.ndarray
) -> dict[str, np.ndarray]:
    """Right or wrong rows of each model. lead: a uniform number a row, which models share with chance SHARED."""
    return {
        name: np.where(random.random(rows) < SHARED, lead, random.random(rows)) < share
        for name, share in accuracy.items()
    }


def simulate(chosen: SelectionWorld, worlds: int, seed: int) -> list[list[str | None]]:
    """What is shipped at each look of LOOKS[-1] looks, in so many worlds."""
    random, outcomes = np.random.default_rng(seed), []
    rivals = {name: share for name, share in chosen.accuracy.items() if name != "candidate"}
    for _ in range(worlds):
        validated = drawn(rivals | chosen.on_validation, VALIDATION_ROWS, random, random.random(VALIDATION_ROWS))
        simple, prompt = (max(names, key=lambda name: int(validated[name].sum())) for names in (SIMPLE, PROMPTS))
        lead = random.random(TEST_ROWS)
        right = drawn(rivals, TEST_ROWS, random, lead)
        shipped_at: list[str | None] = []
        for look in range(1, LOOKS[-1] + 1):
            candidate = drawn({"candidate": chosen.accuracy["candidate"]}, TEST_ROWS, random, lead)
            shipped_at.append(shipped(right | candidate, simple, prompt, look, chosen.min_score))
        outcomes.append(shipped_at)
    return outcomes


def kind_of(name: str | None) -> str:
    kinds = {**dict.fromkeys(SIMPLE, "simple"), **dict.fromkeys(PROMPTS, "prompt"), "candidate": "tuned"}
    return kinds[name] if name else "nothing"


def report(worlds: int) -> str:
    began = time.process_time()
    lines = [
        f"What is shipped, {datetime.now(UTC).date()}: {worlds:,} worlds a line, {TEST_ROWS} test rows, {VALIDATION_ROWS} rows of "
        "validation.",
        "Finalists: the better of two simple models and of two prompts on validation. A new fine-tuned model at each look.",
        "",
        f"1. {'At the first look, in % of the worlds':<44}{'simple':>8}{'prompt':>8}{'tuned':>8}{'nothing':>9}   right",
    ]
    outcomes = [simulate(chosen, worlds, seed) for seed, chosen in enumerate(WORLDS)]
    for chosen, of_worlds in zip(WORLDS, outcomes, strict=True):
        counts = Counter(kind_of(looks[0]) for looks in of_worlds)
        shares = "".join(f"{100 * counts[kind] / worlds:8.1f}" for kind in ("simple", "prompt", "tuned"))
        right = {"candidate": "tuned", None: "nothing"}.get(chosen.right, chosen.right)
        lines.append(f"   {chosen.contents:<44}{shares}{100 * counts['nothing'] / worlds:9.1f}   {right}")
    for number, title, is_wrong in (
        (2, "A fine-tuned model that is not better than every rival is shipped", SelectionWorld.is_wrong_tuned),
        (
            3,
            "A simpler model is shipped, no better than the commonest or below min_score",
            SelectionWorld.is_wrong_simpler,
        ),
    ):
        lines += ["", f"{number}. {title}", f"   {'':<38}" + "".join(f"{f'one of {look} looks':>24}" for look in LOOKS)]
        for chosen, of_worlds in zip(WORLDS, outcomes, strict=True):
            counts = [sum(any(is_wrong(chosen, s) for s in looks[:k]) for looks in of_worlds) for k in LOOKS]
            lines.append(f"   {chosen.contents:<38}" + "".join(f"{_rate(count, worlds):>24}" for count in counts))
    stated = "".join(f"{f'{level_of(look, CONFIDENCE).spent:.1%}':>24}" for look in LOOKS)
    return "\n".join([*lines, "", f"   {'stated, for each of the two errors':<38}{stated}", "", _seconds(began)]) + "\n"


def _rate(count: int, n: int) -> str:
    low, high = wilson_interval(count, n)
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


def _seconds(began: float) -> str:
    return f"{time.process_time() - began:.0f} s of CPU"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    parsed = parser.parse_args(arguments)
    text = report(parsed.worlds)
    print(text, end="")
    if parsed.out:
        parsed.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
