"""What training took away: the same items under two models, paired."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.ability.items import ROWS
from finetune_pipeline.evaluation.statistics import (
    mcnemar_exact,
    paired_bootstrap_mean,
    smallest_detectable_gain,
    tango_interval,
    wilson_interval,
)

Row = Mapping[str, Any]
SHOWN = 12
"""Items shown that were right before training and are wrong after it."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that :func:`.scoring.ability` wrote."""
    return [json.loads(line) for line in (folder / ROWS).read_text("utf-8").splitlines()]


def ability_drop(before: Sequence[Row], after: Sequence[Row], confidence: float = 0.95) -> dict[str, Any]:
    """How much general ability the second model has lost against the first. Rows as of :func:`.scoring.score_items`.

    Returns n (items with choices), before, after (each {accuracy, interval}), drop (accuracy lost, positive: worse) with
    its Tango `interval`, lost and gained (counts), mcnemar_p, smallest_visible (drop found four times in five at this
    size), probability_drop {drop, interval} (mean probability of the right choice), text {n, before, after, rise,
    interval} or None (bits per byte of plain text, positive: worse), categories {name: {n, before, after, drop} | …},
    lost_items (ids), failed. Raises ValueError when the two do not hold the same items, or one has no choices at all.
    """
    pairs = _pairs(before, after)
    failed = [a["id"] for a, b in pairs if a["error"] or b["error"]]
    fine = [(a, b) for a, b in pairs if not (a["error"] or b["error"])]
    choices = [(a, b) for a, b in fine if a["right"] is not None]
    texts = [(a["bits_per_byte"], b["bits_per_byte"]) for a, b in fine if a["bits_per_byte"] is not None]
    if len(choices) < 2:
        raise ValueError(f"{len(choices)} items with choices: the loss of ability cannot be measured")
    n = len(choices)
    lost = [a["id"] for a, b in choices if a["right"] and not b["right"]]
    gained = [a["id"] for a, b in choices if b["right"] and not a["right"]]
    low, high = tango_interval(len(gained), len(lost), n, confidence)
    p_before, p_after = ([row["probability"] for row in side] for side in zip(*choices, strict=True))
    p_low, p_high = paired_bootstrap_mean(p_after, p_before, confidence=confidence)
    return {
        "n": n,
        "confidence": confidence,
        "before": _rate(sum(a["right"] for a, _ in choices), n, confidence),
        "after": _rate(sum(b["right"] for _, b in choices), n, confidence),
        "drop": (len(lost) - len(gained)) / n,
        "interval": [low, high],
        "lost": len(lost),
        "gained": len(gained),
        "mcnemar_p": mcnemar_exact(len(gained), len(lost)),
        "smallest_visible": smallest_detectable_gain(n, (len(lost) + len(gained)) / n, alpha=1 - confidence),
        "probability_drop": {"drop": (sum(p_before) - sum(p_after)) / n, "interval": [p_low, p_high]},
        "text": _text(texts, confidence),
        "categories": _categories(fine),
        "lost_items": lost[:SHOWN],
        "failed": failed,
    }


def _pairs(before: Sequence[Row], after: Sequence[Row]) -> list[tuple[Row, Row]]:
    first, second = ({(r["source"], r["id"]): r for r in rows} for rows in (before, after))
    if first.keys() != second.keys() or len(first) != len(before) or len(second) != len(after):
        raise ValueError(f"the two models did not answer the same items: {len(before)} and {len(after)} rows")
    return [(first[key], second[key]) for key in first]


def _rate(k: int, n: int, confidence: float) -> dict[str, Any]:
    return {"accuracy": k / n, "interval": list(wilson_interval(k, n, confidence))}


def _text(texts: Sequence[tuple[float, float]], confidence: float) -> dict[str, Any] | None:
    if len(texts) < 2:
        return None
    before, after = ([float(t) for t in side] for side in zip(*texts, strict=True))
    low, high = paired_bootstrap_mean(before, after, confidence=confidence)
    mean = sum(before) / len(texts), sum(after) / len(texts)
    return {
        "n": len(texts),
        "before": mean[0],
        "after": mean[1],
        "rise": mean[1] - mean[0],
        "interval": [low, high],
    }


def _categories(pairs: Sequence[tuple[Row, Row]]) -> dict[str, dict[str, Any]]:
    """Each category before and after; where one holds questions and texts, the texts stand apart as `… (text)`."""
    by_kind: dict[tuple[str, str], list[tuple[Row, Row]]] = defaultdict(list)
    for a, b in pairs:
        by_kind[a["category"], "right" if a["right"] is not None else "bits_per_byte"].append((a, b))
    told = {}
    for (category, key), of in by_kind.items():
        mixed = key == "bits_per_byte" and (category, "right") in by_kind
        before, after = (sum(row[key] for row in side) / len(of) for side in zip(*of, strict=True))
        told[f"{category} (text)" if mixed else category] = {
            "n": len(of),
            "unit": "accuracy" if key == "right" else key,
            "before": before,
            "after": after,
        }
    return told
