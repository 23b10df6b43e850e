"""Paired comparison of general ability before and after training."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.ability.items import ROWS, SUITE_NAME
from finetune_pipeline.evaluation.statistics.power import smallest_detectable_gain
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval, wilson_interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean

Row = Mapping[str, Any]
SHOWN = 12
"""Number of lost items (right before training, wrong after) that are shown."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROWS).read_text("utf-8").splitlines()]


def ability_drop(before: Sequence[Row], after: Sequence[Row], confidence: float = 0.95) -> dict[str, Any]:
    """Measure how much general ability the second model has lost compared with the first. Rows: from :func:`.scoring.score_items`.

    Returns n (items with choices), before, after (each {accuracy, interval}), drop (accuracy lost, positive: worse) with
    its Tango `interval`, lost and gained (counts), mcnemar_p, smallest_visible (drop found four times in five), text {n, before,
    after, rise, interval} or None (bits per byte, positive: worse), categories {name: {n, unit, before, after, drop, interval,
    and lost, gained, mcnemar_p of questions}}, benchmarks {category outside the suite: {n, drop, interval}} (simultaneous
    intervals), lost_items (ids), failed.

    Without a question that both models could be asked, there are no figures of questions. Raises ValueError if the two do not
    hold the same items in the same order.
    """
    if [(row["source"], row["id"]) for row in before] != [(row["source"], row["id"]) for row in after]:
        raise ValueError(f"the two models did not answer the same items: {len(before)} and {len(after)} rows")
    pairs = list(zip(before, after, strict=True))
    failed = [a["id"] for a, b in pairs if a["error"] or b["error"]]
    scored = [(a, b) for a, b in pairs if not (a["error"] or b["error"])]
    choices = [(a, b) for a, b in scored if a["right"] is not None]
    texts = [(a["bits_per_byte"], b["bits_per_byte"]) for a, b in scored if a["bits_per_byte"] is not None]
    n, figures = len(choices), dict[str, Any]()
    if choices:
        figures = _accuracy_loss(choices, confidence)
        discordant_share = (figures["lost"] + figures["gained"]) / n
        figures |= {
            "before": _rate(sum(a["right"] for a, _ in choices), n, confidence),
            "after": _rate(sum(b["right"] for _, b in choices), n, confidence),
            "smallest_visible": smallest_detectable_gain(n, discordant_share, alpha=1 - confidence),
        }
    return {
        "n": n,
        "confidence": confidence,
        **figures,
        "text": _text(texts, confidence) if texts else None,
        "categories": _categories(scored, confidence),
        "benchmarks": _benchmarks(choices, confidence),
        "lost_items": [a["id"] for a, b in choices if a["right"] and not b["right"]][:SHOWN],
        "failed": failed,
    }


def _rate(k: int, n: int, confidence: float) -> dict[str, Any]:
    return {"accuracy": k / n, "interval": list(wilson_interval(k, n, confidence))}


def _text(texts: Sequence[tuple[float, float]], confidence: float) -> dict[str, Any]:
    before, after = ([float(t) for t in side] for side in zip(*texts, strict=True))
    interval = paired_bootstrap_mean(before, after, confidence=confidence)  # None for one text, which fails the gate
    mean = sum(before) / len(texts), sum(after) / len(texts)
    rise, bounds = mean[1] - mean[0], list(interval) if interval else None
    return {"n": len(texts), "before": mean[0], "after": mean[1], "rise": rise, "interval": bounds}


def _categories(pairs: Sequence[tuple[Row, Row]], confidence: float) -> dict[str, dict[str, Any]]:
    """Each category before and after. If one holds questions and texts, its texts are listed as `… (text)`."""
    by_kind: dict[tuple[str, str], list[tuple[Row, Row]]] = defaultdict(list)
    for a, b in pairs:
        by_kind[a["category"], "right" if a["right"] is not None else "bits_per_byte"].append((a, b))
    by_category = {}
    for (category, key), members in by_kind.items():
        mixed = key == "bits_per_byte" and (category, "right") in by_kind
        before, after = (sum(row[key] for row in side) / len(members) for side in zip(*members, strict=True))
        by_category[f"{category} (text)" if mixed else category] = {
            "n": len(members),
            "unit": "accuracy" if key == "right" else key,
            "before": before,
            "after": after,
            **(_accuracy_loss(members, confidence) if key == "right" else _text_cost(members, confidence)),
        }
    return by_category


def _accuracy_loss(pairs: Sequence[tuple[Row, Row]], confidence: float) -> dict[str, Any]:
    lost = sum(a["right"] and not b["right"] for a, b in pairs)
    gained = sum(b["right"] and not a["right"] for a, b in pairs)
    return {
        "drop": (lost - gained) / len(pairs),
        "interval": list(tango_interval(gained, lost, len(pairs), confidence)),
        "lost": lost,
        "gained": gained,
        "mcnemar_p": mcnemar_exact(gained, lost),
    }


def _text_cost(pairs: Sequence[tuple[Row, Row]], confidence: float) -> dict[str, Any]:
    cost = _text([(a["bits_per_byte"], b["bits_per_byte"]) for a, b in pairs], confidence)
    return {"drop": cost["rise"], "interval": cost["interval"]}


def _benchmarks(choices: Sequence[tuple[Row, Row]], confidence: float) -> dict[str, dict[str, Any]]:
    """The loss on each benchmark besides the suite, with Bonferroni-corrected intervals."""
    by_category: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for pair in choices:
        if pair[0]["source"] != SUITE_NAME:
            by_category[pair[0]["category"]].append(pair)
    level = 1 - (1 - confidence) / max(len(by_category), 1)
    return {
        name: {"n": len(members)} | {k: _accuracy_loss(members, level)[k] for k in ("drop", "interval")}
        for name, members in by_category.items()
    }
