"""Estimates the time left of a run from earlier step times, scaled by the amount of work and the speed of this run.

Every step that is made adds its seconds to step_seconds.json in the home; where a step was never made there, the file beside
this one counts, written by `finetune run order_intake` and `finetune ladder order_intake` on two cores.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.data.perturbations import BLOCKING
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.planning.needs import parameters_by_name
from finetune_pipeline.progress import spell
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec

FILE = "step_seconds.json"
SHIPPED = Path(__file__).with_name(FILE)
_ROW_BYTES = 600
"""Assumed size of a raw row before anything was read."""
_WRITTEN = 4
"""Cost of an answer token, in prompt tokens."""
_LEAST_SHARE = 0.1
"""Fixed share of a step's time: loading libraries and models."""
_DAMPING_S = 30.0
"""Damping: a run counts as fast as earlier ones until its steps have taken about this long."""

Took = Mapping[str, Mapping[str, tuple[float, float]]]
"""By step and task: seconds and the work they were for; the newest task last."""


def work_of_steps(spec: TaskSpec, raw_bytes: int, rows: Mapping[str, int] | None) -> dict[str, float]:
    """The amount of work of each step, in its own unit. Steps not listed take about the same time for any task.

    Args:
        rows: Rows per split; None before there are splits.
    """
    if rows is None:
        whole = raw_bytes / _ROW_BYTES
        test, validation = whole * spec.split.test, whole * spec.split.validation
        rows = {"train": round(whole - test - validation), "validation": round(validation), "test": round(test)}
    text = raw_bytes / max(1, sum(rows.values())) / 4
    asked = text + _WRITTEN * spec.answer_length
    size = parameters_by_name(spec.base_model) or 1e9
    prompts = len(spec.baseline.shots) * (1 + len(spec.baseline.prompts)) + bool(spec.baseline.retrieved)
    epochs = sum(p["epochs"] for p in METHODS[spec.training.method].phases(spec.training.model_dump()))
    trained = size * text * rows["train"] * epochs * (1 + len(BLOCKING) if spec.training.augment else 1)
    read = ("raw_examples", "validated_examples", "clean_examples", "reviewed_examples", "splits", "data_quality")
    return {
        **dict.fromkeys(read, float(raw_bytes)),
        **dict.fromkeys(("base_model", "base_ability", "general_ability", "merged_model"), size),
        "few_shot_baseline": size * asked * prompts * min(spec.baseline.rows, rows["validation"]),
        "prompt_search": size * asked * spec.ladder.calls,
        "pilot": trained * sum(spec.ladder.pilot),
        "adapter": trained,
        "test_predictions": size * asked * rows["test"],
    }


def read_took(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Earlier step times with their amount of work; an unreadable file counts as empty."""
    with contextlib.suppress(OSError, ValueError):
        took = read_json(path, dict[str, dict[str, tuple[float, float]]])
        return {step: {task: (s, w) for task, (s, w) in of.items() if w > 0} for step, of in took.items()}
    return {}


@dataclass
class _Running:
    step: str
    began: float
    left: float | None = None
    reported: float = 0.0
    waited: bool = False


class TimeLeft:
    """The time left of one run. Times are in seconds of any clock.

    Args:
        steps: The steps that the run makes.
        work: Of :func:`work_of_steps`.
        one_phase: Whether the training has one phase, so that the time left it reports is complete.
    """

    def __init__(self, task: str, steps: list[str], work: Mapping[str, float], home: Path, one_phase: bool) -> None:
        self.task, self.work, self.one_phase, self._path = task, work, one_phase, home / FILE
        self._pending = list(steps)
        own, shipped = read_took(self._path), read_took(SHIPPED)
        self._before = {step: self._seconds(step, own.get(step) or shipped.get(step, {})) for step in steps}
        self.source = (
            f"earlier runs of {task} here"
            if all(task in own.get(step, {}) for step in steps)
            else "earlier runs, of other tasks or on other machines"
        )
        self._running: _Running | None = None
        self._took, self._expected = _DAMPING_S, _DAMPING_S

    def _seconds(self, step: str, took: Mapping[str, tuple[float, float]]) -> float:
        if not took:
            return 0.0
        seconds, work = took[self.task] if self.task in took else list(took.values())[-1]
        return seconds * max(_LEAST_SHARE, self.work.get(step, 1.0) / work)

    def note(
        self,
        stage: str,
        time: float,
        message: str = "",
        reused: bool = False,
        waiting: bool = False,
        seconds_left: float | None = None,
        **_: Any,
    ) -> None:
        """Take in a line of progress (:func:`finetune_pipeline.progress.tell`). The time of a step is kept for later runs."""
        running = self._running if self._running and self._running.step == stage else None
        if message == "begins":
            self._running = _Running(stage, time)
        elif message in ("unchanged", "done"):
            if running and message == "done" and not reused and not running.waited:
                self._learn(stage, time - running.began)
            self._running = None
            self._pending = [step for step in self._pending if step != stage]
        elif waiting:
            self.wait()
        elif running and seconds_left is not None:
            running.left, running.reported = seconds_left, time

    def wait(self) -> None:
        """The running step waits for something, so its time does not count."""
        if self._running:
            self._running.waited = True

    def _learn(self, step: str, seconds: float) -> None:
        if before := self._before.get(step, 0.0):
            self._took, self._expected = self._took + seconds, self._expected + before
        kept = read_took(self._path)
        kept[step] = {t: v for t, v in kept.get(step, {}).items() if t != self.task}
        kept[step][self.task] = (round(seconds, 2), self.work.get(step, 1.0))
        with contextlib.suppress(OSError):  # a full disk: what the run cannot do without will say so
            write_json(self._path, kept)

    def left(self, now: float) -> float:
        """Estimated seconds left of the run."""
        running, took, expected = self._running, self._took, self._expected
        rest = sum(self._before[step] for step in self._pending if not running or step != running.step)
        if running is None:
            return rest * took / expected
        begun = now - running.began
        reported = None if running.left is None else max(0.0, running.left - (now - running.reported))
        before = self._before.get(running.step, 0.0)
        if reported is not None and self.one_phase:
            speed = (took + begun + reported) / (expected + before)
            return reported + rest * speed
        speed = took / expected
        own = max(before * speed - begun, 0.1 * begun, reported or 0.0)
        return own + rest * speed

    def words(self, now: float) -> str:
        """``about 12 min left for the whole run``."""
        seconds = self.left(now)
        about = f"about {spell(60 * round(seconds / 60))}" if seconds >= 60 else "less than a minute"
        return f"{about} left for the whole run"
