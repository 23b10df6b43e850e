"""Long waits, told: at once, again after a quarter of a minute, then ever more rarely; and how long in words."""

from __future__ import annotations

import time

FIRST_SECONDS, MOST_SECONDS = 15.0, 600.0


class Reminders:
    """Says when a wait is due to be told again: at once, after 15 s, 30 s, 1 min, … and every 10 minutes at the latest."""

    def __init__(self, first_s: float = FIRST_SECONDS) -> None:
        self._gap, self._next = first_s, time.monotonic()

    def due(self) -> bool:
        """Whether now is a time to tell; asking counts as telling."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._gap
        self._gap = min(2 * self._gap, MOST_SECONDS)
        return True


def spell(seconds: float) -> str:
    """A duration in words: 12 s, 5 min, 3 h 20 min."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
