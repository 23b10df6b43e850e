"""Which of a few texts say nearly what one of many others says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from finetune_pipeline.data.near_duplicates import NEAR_ENOUGH
from finetune_pipeline.data.shingles import incidence, loose_form, shingle_sets

_AT_ONCE = 2048


def near_any(texts: Sequence[str], others: Iterable[str], threshold: float) -> list[bool]:
    """For each text whether the Jaccard similarity of its 5-grams with any of `others` reaches the threshold.

    Every pair is compared; memory grows with `texts` alone, time with both.
    """
    sets = shingle_sets([loose_form(text) for text in texts])
    columns = np.unique(np.concatenate([np.zeros(0, np.uint32), *sets]))
    mine, sizes = incidence(sets, columns), np.array([len(s) for s in sets])
    found = np.zeros(len(texts), bool)
    if not len(texts):
        return []
    rest = iter(others)
    while some := list(islice(rest, _AT_ONCE)):
        theirs = shingle_sets([loose_form(text) for text in some])
        both = (mine @ incidence(theirs, columns).T).toarray()
        either = sizes[:, None] + np.array([len(s) for s in theirs])[None, :] - both
        found |= (both >= (threshold - NEAR_ENOUGH) * either).any(axis=1)
    return [bool(one) for one in found]
