"""Agreement between raters: people with each other, and a judging model with people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.statistics.resampling import RESAMPLES, SEED


def cohens_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960): 1 is perfect, 0 what chance would give.

    None when both raters give one and the same answer throughout. Raises ValueError without ratings, or not as many of either.
    """
    value = float(_kappa(_table(a, b)[None])[0])
    return None if np.isnan(value) else value


def kappa_interval(a: Sequence[Hashable], b: Sequence[Hashable]) -> Interval | None:
    """Percentile bootstrap interval (95%) of :func:`cohens_kappa` over items; None where kappa itself is, or hardly ever
    defined. Resamples in which kappa is undefined are left out."""
    table = _table(a, b)
    drawn = np.random.default_rng(SEED).multinomial(len(a), table.ravel() / len(a), size=RESAMPLES)
    values = _kappa(drawn.reshape(RESAMPLES, *table.shape).astype(float))
    values = values[~np.isnan(values)]
    if len(values) < RESAMPLES / 2:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _table(a: Sequence[Hashable], b: Sequence[Hashable]) -> np.ndarray:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need as many ratings by either rater, at least one: {len(a)}, {len(b)}")
    index = {name: i for i, name in enumerate(dict.fromkeys((*a, *b)))}
    cells = np.zeros((len(index), len(index)))
    np.add.at(cells, ([index[x] for x in a], [index[y] for y in b]), 1)
    return cells


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Kappa of tables in the last two axes; NaN where both raters always give the same single answer."""
    n = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / n
    chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    kappa: np.ndarray = np.divide(observed - chance, 1 - chance, out=np.full(n.shape, np.nan), where=chance < 1 - 1e-12)
    return kappa
