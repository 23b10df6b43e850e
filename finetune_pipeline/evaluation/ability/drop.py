"""Paired comparison of general ability before and after training."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from msgspec.structs import asdict

from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.ability.items import ROWS, SUITE_NAME
from finetune_pipeline.evaluation.statistics.power import smallest_detectable_gain
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval, wilson_interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean

SHOWN = 12
"""Number of lost items (right before training, wrong after) that are shown."""


class AbilityRow(TypedDict):
    """What a model said to an item.

    Attributes:
        right: Whether the right choice has the highest log-likelihood (lm-evaluation-harness's acc; without the end of turn, so
            that continuing after the answer is not wrong). None if there are no choices, or it could not be scored.
        probability: Of the right choice among all.
        bits_per_byte: Of a text.
        error: Why it could not be scored.
    """

    id: str
    source: str
    category: str
    right: bool | None
    probability: float | None
    bits_per_byte: float | None
    error: str


Pairs = Sequence[tuple[AbilityRow, AbilityRow]]
"""Rows of the same items, before and after."""


class Scored(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """How many items one model was asked, and how many of them could not be scored. sentence: why none was asked."""

    items: int
    unscored: int = 0
    asked_digest: str = ""
    sentence: str = ""


class Accuracy(Facts, frozen=True, kw_only=True):
    accuracy: float
    interval: tuple[float, float]


class Loss(Facts, frozen=True, kw_only=True):
    """Accuracy lost on `n` items (positive: worse), with its interval. Both are None where no question could be asked of both."""

    n: int = 0
    drop: float | None = None
    interval: tuple[float, float] | None = None


class QuestionLoss(Loss, frozen=True, kw_only=True):
    """Accuracy lost with Tango's interval, counts of items lost and gained, and the exact McNemar p."""

    lost: int | None = None
    gained: int | None = None
    mcnemar_p: float | None = None


class Category(QuestionLoss, frozen=True, kw_only=True):
    """One category before and after; `unit`: accuracy or bits_per_byte, whose `drop` is a rise and has no counts."""

    unit: str
    before: float
    after: float


class TextCost(Facts, frozen=True, kw_only=True):
    """Bits per byte of `n` plain texts before and after training (positive rise: worse). interval: None for one text."""

    n: int
    before: float
    after: float
    rise: float
    interval: tuple[float, float] | None


class AbilityLoss(QuestionLoss, frozen=True, kw_only=True):
    """General ability before and after. Figures of questions are None where there was none that both could be asked.

    Attributes:
        smallest_visible: A drop found four times in five.
        benchmarks: By category outside the suite, with simultaneous intervals.
        lost_items: Ids of the first.
        failed: Ids of items that one of the two could not be asked.
    """

    confidence: float | None = None
    before: Accuracy | None = None
    after: Accuracy | None = None
    smallest_visible: float | None = None
    text: TextCost | None = None
    categories: dict[str, Category] = {}
    benchmarks: dict[str, Loss] = {}
    lost_items: list[str] = []
    failed: list[str] = []


class Ability(AbilityLoss, frozen=True, kw_only=True, omit_defaults=False):
    """General ability compared with base model and champion. The first fields: as Scored. `not_asked`: why this candidate could
    not be tested."""

    items: int
    unscored: int = 0
    asked_digest: str = ""
    sentence: str = ""
    champion: AbilityLoss | None = None
    not_asked: str = ""


def read_ability(folder: Path) -> list[AbilityRow]:
    """Read the rows that a model's job has written into `folder`. Raises DamagedFile."""
    return read_rows(folder / ROWS, AbilityRow)


def ability_drop(before: Sequence[AbilityRow], after: Sequence[AbilityRow], confidence: float = 0.95) -> AbilityLoss:
    """Measure how much general ability the second model has lost compared with the first. Rows: from :func:`.scoring.score_items`.
    Raises ValueError if the two do not hold the same items in the same order.
    """
    if [(row["source"], row["id"]) for row in before] != [(row["source"], row["id"]) for row in after]:
        raise ValueError(f"the two models did not answer the same items: {len(before)} and {len(after)} rows")
    pairs = list(zip(before, after, strict=True))
    scored = [(a, b) for a, b in pairs if not (a["error"] or b["error"])]
    choices = [(a, b) for a, b in scored if a["right"] is not None]
    texts = [
        (a["bits_per_byte"], b["bits_per_byte"])
        for a, b in scored
        if a["bits_per_byte"] is not None and b["bits_per_byte"] is not None
    ]
    figures: dict[str, Any] = {}
    if choices:
        n, loss = len(choices), _accuracy_loss(choices, confidence)
        figures = asdict(loss) | {
            "before": _rate(sum(bool(a["right"]) for a, _ in choices), n, confidence),
            "after": _rate(sum(bool(b["right"]) for _, b in choices), n, confidence),
            "smallest_visible": smallest_detectable_gain(
                n, ((loss.lost or 0) + (loss.gained or 0)) / n, alpha=1 - confidence
            ),
        }
    return AbilityLoss(
        **figures,
        confidence=confidence,
        text=_text(texts, confidence) if texts else None,
        categories=_categories(scored, confidence),
        benchmarks=_benchmarks(choices, confidence),
        lost_items=[a["id"] for a, b in choices if a["right"] and not b["right"]][:SHOWN],
        failed=[a["id"] for a, b in pairs if a["error"] or b["error"]],
    )


def _rate(k: int, n: int, confidence: float) -> Accuracy:
    return Accuracy(accuracy=k / n, interval=wilson_interval(k, n, confidence))


def _text(texts: Sequence[tuple[float, float]], confidence: float) -> TextCost:
    before, after = ([float(t) for t in side] for side in zip(*texts, strict=True))
    interval = paired_bootstrap_mean(before, after, confidence=confidence)  # None for one text, which fails the gate
    mean = sum(before) / len(texts), sum(after) / len(texts)
    return TextCost(n=len(texts), before=mean[0], after=mean[1], rise=mean[1] - mean[0], interval=interval)


def _categories(pairs: Pairs, confidence: float) -> dict[str, Category]:
    """Each category before and after. If one holds questions and texts, its texts are listed as `… (text)`."""
    questions: dict[str, list[tuple[AbilityRow, AbilityRow]]] = defaultdict(list)
    texts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for a, b in pairs:
        if a["right"] is not None:
            questions[a["category"]].append((a, b))
        elif a["bits_per_byte"] is not None and b["bits_per_byte"] is not None:
            texts[a["category"]].append((a["bits_per_byte"], b["bits_per_byte"]))
    by_category = {}
    for name in dict.fromkeys(a["category"] for a, _ in pairs):
        if members := questions.get(name):
            before, after = (
                sum(bool(row["right"]) for row in side) / len(members) for side in zip(*members, strict=True)
            )
            loss = asdict(_accuracy_loss(members, confidence))
            by_category[name] = Category(**loss, unit="accuracy", before=before, after=after)
        if costs := texts.get(name):
            cost = _text(costs, confidence)
            by_category[f"{name} (text)" if members else name] = Category(
                n=cost.n,
                unit="bits_per_byte",
                before=cost.before,
                after=cost.after,
                drop=cost.rise,
                interval=cost.interval,
            )
    return by_category


def _accuracy_loss(pairs: Pairs, confidence: float) -> QuestionLoss:
    lost = sum(bool(a["right"]) and not b["right"] for a, b in pairs)
    gained = sum(bool(b["right"]) and not a["right"] for a, b in pairs)
    return QuestionLoss(
        n=len(pairs),
        drop=(lost - gained) / len(pairs),
        interval=tango_interval(gained, lost, len(pairs), confidence),
        lost=lost,
        gained=gained,
        mcnemar_p=mcnemar_exact(gained, lost),
    )


def _benchmarks(choices: Pairs, confidence: float) -> dict[str, Loss]:
    """The loss on each benchmark besides the suite, with Bonferroni-corrected intervals."""
    by_category: dict[str, list[tuple[AbilityRow, AbilityRow]]] = defaultdict(list)
    for pair in choices:
        if pair[0]["source"] != SUITE_NAME:
            by_category[pair[0]["category"]].append(pair)
    level = 1 - (1 - confidence) / max(len(by_category), 1)
    losses = {name: _accuracy_loss(members, level) for name, members in by_category.items()}
    return {name: Loss(n=loss.n, drop=loss.drop, interval=loss.interval) for name, loss in losses.items()}
