"""Progress of a run, and when to report a long wait. Any process of the run appends JSON lines to the file that
FINETUNE_PROGRESS names.

Appends of a short line with O_APPEND are not torn between processes, so many may write to one file.
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
    """A duration in words: 12 s, 5 min, 3 h 20 min."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
