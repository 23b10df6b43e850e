"""Follows the progress file of a run and prints it."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

from finetune_pipeline.cli.time_left import TimeLeft
from finetune_pipeline.progress import Reminders

QUIET_SECONDS = 4.0
"""Minimum time between lines about the same stage."""
SILENT_SECONDS = 8.0
"""After this silence, a line says that the stage is still running."""
LEFT_SECONDS = 10.0
"""Minimum time between two estimates for the whole run."""


def describe(row: dict[str, Any]) -> str:
    """Return the text of a progress row: message, step, losses, time left."""
    parts = []
    if row.get("step") is not None and row.get("of"):
        parts.append(f"{row['step']} of {row['of']}")
    losses = {"loss": row.get("loss"), "eval loss": row.get("eval_loss")}
    parts += [f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None]
    if seconds_left := int(row.get("seconds_left") or 0):
        parts.append(f"{seconds_left // 60}:{seconds_left % 60:02d} left of this step")
    message = row.get("message") or ""
    return ", ".join([message, *parts] if message else parts)


class Watcher:
    """Prints the rows of a progress file, from a thread, while the block runs.

    Args:
        path: The progress file.
        total: Number of steps.
        say: Prints a line.
        waits_for: Called now and then while there is no progress; returns what the run waits for, or None.
        left: Estimates the time left for the whole run.
    """

    def __init__(
        self,
        path: Path,
        total: int,
        say: Callable[[str], None],
        waits_for: Callable[[], str | None] = lambda: None,
        left: TimeLeft | None = None,
    ) -> None:
        self.path, self.total, self.say, self.waits_for, self.left = path, total, say, waits_for, left
        self._reminders: Reminders | None = None
        self._last_wait_check = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._started: dict[str, float] = {}
        self._running: str | None = None
        self._problem = ""
        self._last_progress = self._last_line = self._last_estimate = time.monotonic()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _follow(self) -> None:
        position, stopping = 0, False
        with contextlib.suppress(OSError):  # a closed pipe or a full disk ends the lines, not the run
            while True:
                if self.path.exists():
                    with self.path.open("rb") as handle:
                        handle.seek(position)
                        for line in takewhile(lambda line: line.endswith(b"\n"), handle):
                            position += len(line)
                            self._show(json.loads(line))
                            self._reminders, self._last_wait_check = None, time.monotonic()
                if stopping:
                    return
                self._report_wait()
                stopping = self._stop.wait(0.3)

    def _report_wait(self) -> None:
        """Print what the run is waiting for, at growing intervals; if it waits for nothing, that it is still running."""
        if time.monotonic() - self._last_wait_check < QUIET_SECONDS:
            return
        self._last_wait_check = time.monotonic()
        reason = None
        try:
            reason = self.waits_for()
        except Exception as error:  # noqa: BLE001 - a failed query must not end the progress lines
            problem = f"        what the run waits for is unknown ({type(error).__name__}: {error})"
            if problem != self._problem:
                self._problem = problem
                self.say(problem)
        if reason is None:
            self._reminders = None
            if time.monotonic() - self._last_line >= SILENT_SECONDS:
                self._last_line = time.monotonic()
                activity = "between two steps" if self._started else "getting ready"
                if self._running:
                    activity = f"{self._running}: working, {time.time() - self._started[self._running]:.0f} s"
                self.say(f"        {activity}{self._estimate(time.time())}")
            return
        if self.left:
            self.left.wait()
        self._reminders = self._reminders or Reminders()
        if self._reminders.due():
            self.say(f"        {reason}")

    def _estimate(self, now: float) -> str:
        """Return the text of the time left for the whole run; empty if it was printed just before."""
        if self.left is None or time.monotonic() - self._last_estimate < LEFT_SECONDS:
            return ""
        self._last_estimate = time.monotonic()
        return f"; {self.left.words(now)}"

    def _show(self, row: dict[str, Any]) -> None:
        """Print a progress row, unless it says too little too soon after the last one."""
        stage, message, now = row["stage"], row.get("message", ""), time.monotonic()
        if self.left:
            self.left.note(**row)
        if message in ("begins", "unchanged") and stage not in self._started:
            self._started[stage] = row["time"]
            self._running = stage if message == "begins" else None
            place = f"[{len(self._started):>2}/{self.total}]"
            suffix = " (made already)" if message == "unchanged" else self._estimate(row["time"])
            self.say(f"{place} {stage}{suffix}")
            self._last_progress = self._last_line = now
        elif message == "done":
            self._running = None
            took = row["time"] - self._started.get(stage, row["time"])
            if row.get("sentence") or took >= 2:
                self.say(f"        {row.get('sentence') or 'done'} ({took:.0f} s)")
                self._last_line = now
        elif message not in ("begins", "unchanged") and (
            now - self._last_progress >= QUIET_SECONDS or row.get("eval_loss") is not None or row.get("step") is None
        ):
            self.say(f"        {describe(row)}{self._estimate(row['time'])}")
            self._last_progress = self._last_line = now
