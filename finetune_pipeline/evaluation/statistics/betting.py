"""Evidence that stays valid however often one looks (Waudby-Smith and Ramdas 2024, section 4)."""

from collections.abc import Sequence

import numpy as np

_BETS = 4
"""Number of bets that the evidence is spread over."""
_MOST = 1e12
"""Evidence is counted up to this, so that numbers stay finite."""


def not_worse_evidence(losses: Sequence[int], margin: float) -> np.ndarray:
    """Return the evidence after each question that the mean loss is below the margin.

    It is a bet that wins nothing on average while the mean loss is the margin or more, so the chance that it ever reaches 1/level
    is at most the level. Its last value does not depend on the order of the questions.

    Args:
        losses: Each -1, 0 or 1.
        margin: From 0, exclusive of 1.
    """
    bets = np.geomspace(0.15, 0.95 / (1 - margin), _BETS)
    gains = 1 + bets * (margin - np.asarray(losses, float)[:, None])
    running, values = np.ones(_BETS), np.zeros(len(gains))
    for i, gain in enumerate(gains):
        running = np.minimum(running * gain, _MOST)
        values[i] = running.mean()
    return values
