"""Reports the progress of a run, and schedules reminders of a long wait. All processes of a run append JSON lines to the file
named by FINETUNE_PROGRESS.

With O_APPEND, short lines of different processes do not mix.
"""

import json
import os
import time
from typing import Any

VARIABLE = "FINETUNE_PROGRESS"
FIRST_SECONDS, MOST_SECONDS = 15.0, 600.0


def tell(stage: str, message: str = "", **numbers: Any) -> None:
    """Append one line of progress: `stage` (asset name), a short message, and numbers such as step, of, loss, seconds_left."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps({"time": time.time(), "stage": stage, "message": message, **numbers}, default=str) + "\n"
    with open(path, "ab", buffering=0) as out:
        out.write(line.encode())


class Reminders:
    """Schedule of reminders about a wait: at once, after 15 s, 30 s, 1 min, … and at least every 10 minutes."""

    def __init__(self) -> None:
        self._gap, self._next = FIRST_SECONDS, time.monotonic()

    def due(self) -> bool:
        """Whether a reminder is due now; calling counts as reminding."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._gap
        self._gap = min(2 * self._gap, MOST_SECONDS)
        return True


def spell(seconds: float) -> str:
    """Write a duration in words: 12 s, 5 min, 3 h 20 min."""
    total = max(0, int(seconds))
    if total < 60:
        return f"{total} s"
    hours, minutes = divmod(total // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
