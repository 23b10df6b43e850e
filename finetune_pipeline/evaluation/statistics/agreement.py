"""Do raters agree? People with people, and a judge with people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np

from finetune_pipeline.evaluation.statistics.proportions import Interval

Weights = Literal["none", "linear", "quadratic"]
Scale = Literal["nominal", "ordinal", "interval"]


def _table(a: Sequence[Hashable], b: Sequence[Hashable], order: Sequence[Hashable] | None) -> np.ndarray:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need as many ratings by either rater, at least one: {len(a)}, {len(b)}")
    if order is None:
        try:
            names: list[Hashable] = sorted(set(a) | set(b))  # type: ignore[type-var]
        except TypeError:
            names = sorted(set(a) | set(b), key=repr)
    else:
        names = list(order)
    index = {name: i for i, name in enumerate(names)}
    if unknown := sorted({repr(x) for x in (*a, *b) if x not in index}):
        raise ValueError(f"ratings outside the given order: {', '.join(unknown)}")
    size = len(names)
    cells = np.fromiter((index[x] * size + index[y] for x, y in zip(a, b, strict=True)), np.int64, len(a))
    return np.bincount(cells, minlength=size * size).reshape(size, size).astype(float)


def _distances(size: int, weights: Weights) -> np.ndarray:
    i = np.arange(size)
    apart = np.abs(i[:, None] - i)
    if weights == "none":
        return (apart > 0).astype(float)
    return apart.astype(float) if weights == "linear" else apart.astype(float) ** 2


def _kappa(tables: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Kappa of tables in the last two axes; NaN where both raters always give the same single answer."""
    n = tables.sum(axis=(-2, -1))
    expected = tables.sum(axis=-1)[..., :, None] * tables.sum(axis=-2)[..., None, :] / n[..., None, None]
    seen, chance = (tables * distances).sum(axis=(-2, -1)), (expected * distances).sum(axis=(-2, -1))
    told: np.ndarray = 1 - np.divide(seen, chance, out=np.full(np.shape(seen), np.nan), where=chance > 0)
    return told


def cohens_kappa(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    weights: Weights = "none",
    order: Sequence[Hashable] | None = None,
) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960; weighted 1968): 1 is perfect, 0 what chance would give.

    order: the categories from low to high, needed for weights where sorting does not give it. None when both raters
    give one and the same answer throughout: nothing is left for chance to explain. Raises ValueError on unequal
    lengths, no ratings, or a rating outside `order`.
    """
    table = _table(a, b, order)
    value = float(_kappa(table[None], _distances(len(table), weights))[0])
    return None if np.isnan(value) else value


def kappa_interval(
    a: Sequence[Hashable],
    b: Sequence[Hashable],
    weights: Weights = "none",
    order: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval | None:
    """Percentile bootstrap interval of :func:`cohens_kappa` over items; None where kappa itself is, or hardly ever
    defined. Resamples in which kappa is undefined are left out."""
    table = _table(a, b, order)
    drawn = np.random.default_rng(seed).multinomial(len(a), table.ravel() / len(a), size=resamples)
    values = _kappa(drawn.reshape(resamples, *table.shape).astype(float), _distances(len(table), weights))
    values = values[~np.isnan(values)]
    if len(values) < resamples / 2:
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def krippendorffs_alpha(ratings: Sequence[Sequence[float | str | None]], scale: Scale = "nominal") -> float | None:
    """Agreement of any number of raters, who need not all have rated everything (Krippendorff 2011).

    ratings: a list a rater, an entry an item, None where not rated. scale: `nominal` takes any values, `ordinal` and
    `interval` numbers. None when fewer than two ratings meet on any item, or all ratings are one value. Raises
    ValueError when raters have lists of different lengths.
    """
    if len({len(row) for row in ratings}) > 1:
        raise ValueError("every rater needs one entry an item, None where not rated")
    columns = [[x for x in item if x is not None] for item in zip(*ratings, strict=True)]
    paired = [item for item in columns if len(item) > 1]
    values = sorted({x for item in paired for x in item})  # type: ignore[type-var]
    if len(values) < 2:
        return None
    index = {value: i for i, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for item in paired:
        counts = np.bincount([index[x] for x in item], minlength=len(values)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(item) - 1)
    totals = coincidences.sum(axis=0)
    distances = _scale_distances(values, totals, scale)
    expected = float((np.outer(totals, totals) * distances).sum()) / (totals.sum() - 1)
    return 1 - float((coincidences * distances).sum()) / expected


def _scale_distances(values: Sequence[float | str], totals: np.ndarray, scale: Scale) -> np.ndarray:
    if scale == "nominal":
        return 1 - np.eye(len(values))
    if scale == "interval":
        numbers = np.asarray(values, dtype=float)
        told: np.ndarray = (numbers[:, None] - numbers) ** 2
        return told
    middle = np.cumsum(totals) - totals / 2  # ordinal: how many ratings lie between two values
    between: np.ndarray = (middle[:, None] - middle) ** 2
    return between
