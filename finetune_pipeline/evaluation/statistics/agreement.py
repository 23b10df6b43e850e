"""Agreement between raters: people with each other, and a judge model with people."""

from __future__ import annotations

import numpy as np

from finetune_pipeline.evaluation.statistics.proportions import Interval, Units, cluster_codes
from finetune_pipeline.evaluation.statistics.resampling import RESAMPLES, SEED, draws_interval


def cohens_kappa(a: Units, b: Units) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960): 1 is perfect, 0 what chance would give.

    None when both raters give one and the same answer throughout. Raises ValueError without ratings, or not as many of either.
    """
    value = float(_kappa(_tables(a, b).sum(axis=0)[None])[0])
    return None if np.isnan(value) else value


def kappa_interval(a: Units, b: Units, clusters: Units | None = None) -> Interval | None:
    """Bootstrap interval (95%) of :func:`cohens_kappa` over items, or over sources (`clusters`); None where kappa itself is, or
    hardly ever defined, or of one source. Resamples in which kappa is undefined are left out."""
    kappa, tables = cohens_kappa(a, b), _tables(a, b, clusters)
    units = len(tables)
    if kappa is None or units < 2:
        return None
    drawn = np.random.default_rng(SEED).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    values = _kappa(np.tensordot(drawn.astype(float), tables, 1))
    values = values[~np.isnan(values)]
    return draws_interval(values, kappa, 0.95, units) if len(values) >= RESAMPLES / 2 else None


def _tables(a: Units, b: Units, clusters: Units | None = None) -> np.ndarray:
    """Counts of every pair of ratings, a table a source (or item)."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"need as many ratings by either rater, at least one: {len(a)}, {len(b)}")
    codes = cluster_codes(range(len(a)) if clusters is None else clusters)
    index = {name: i for i, name in enumerate(dict.fromkeys((*a, *b)))}
    cells = np.zeros((int(codes.max()) + 1, len(index), len(index)))
    np.add.at(cells, (codes, np.array([index[x] for x in a]), np.array([index[y] for y in b])), 1)
    return cells


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Kappa of tables in the last two axes; NaN where both raters always give the same single answer."""
    n = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / n
    chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / n**2
    undefined = np.full(n.shape, np.nan)
    return np.asarray(np.divide(observed - chance, 1 - chance, out=undefined, where=chance < 1 - 1e-12))
