"""Estimates the time left of a run from earlier step times, scaled by the amount of work and the speed of this run.

Every finished step adds its seconds to step_seconds.json in the home. For steps that never ran there, the file beside this one
is used, which `finetune run order_intake` and `finetune advise order_intake --measure` wrote on two cores.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.data.perturbations import BLOCKING
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.evaluation.prompts import prompt_without_labels
from finetune_pipeline.planning.needs import parameters_by_name
from finetune_pipeline.progress import spell
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.data import DATA_STEPS

FILE = "step_seconds.json"
SHIPPED = Path(__file__).with_name(FILE)
_ROW_BYTES = 600
"""Assumed size of a raw row before the files are read."""
_TEST_SHARE = 0.2
"""Assumed share of the test if split.test names its files."""
_WRITTEN = 4
"""Cost of an answer token, in prompt tokens."""
_LEAST_SHARE = 0.1
"""Fixed share of a step's time: loading libraries and models."""
_DAMPING_S = 30.0
"""Damping: a run counts as fast as earlier ones until its steps have taken about this long."""


def work_of_steps(spec: TaskSpec, raw_bytes: int, rows: Mapping[str, int] | None) -> dict[str, float]:
    """Return the amount of work of each step, in its own unit. Steps not listed take about the same time for any task.

    Args:
        rows: Rows per split; None if there are no splits yet.
    """
    if rows is None:
        total_rows = raw_bytes / _ROW_BYTES
        test, validation = total_rows * (spec.split.test_share or _TEST_SHARE), total_rows * spec.split.validation
        rows = {"train": round(total_rows - test - validation), "validation": round(validation), "test": round(test)}
    text_tokens = raw_bytes / max(1, sum(rows.values())) / 4
    call_cost = text_tokens + _WRITTEN * spec.answer_length
    parameters = parameters_by_name(spec.base_model) or 1e9
    prompts = len(spec.baseline.shots) * (1 + len(spec.baseline.prompts)) + bool(spec.baseline.retrieved)
    prompts += bool(prompt_without_labels(spec))
    epochs = sum(p.epochs for p in METHODS[spec.training.method].phases(spec.training))
    training = parameters * text_tokens * rows["train"] * epochs * (1 + len(BLOCKING) if spec.training.augment else 1)
    return {
        **dict.fromkeys((*DATA_STEPS, "data_quality"), float(raw_bytes)),
        **dict.fromkeys(("base_model", "base_ability", "general_ability", "merged_model"), parameters),
        "few_shot_baseline": parameters * call_cost * prompts * min(spec.baseline.rows, rows["validation"]),
        "pilot": training * sum(spec.ladder.pilot),
        **dict.fromkeys(
            ("supervised_adapter", "refined_adapter") if spec.training.refine.is_on else ("adapter",), training
        ),
        "test_predictions": parameters * call_cost * rows["test"],
    }


def read_step_times(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Read (seconds, amount of work) of earlier runs by step and task, the newest task last; an unreadable file counts as
    empty."""
    with contextlib.suppress(OSError, ValueError):
        stored = read_json(path, dict[str, dict[str, tuple[float, float]]])
        return {step: {task: (s, w) for task, (s, w) in by_task.items() if w > 0} for step, by_task in stored.items()}
    return {}


@dataclass
class _Running:
    step: str
    began: float
    seconds_left: float | None = None
    reported: float = 0.0
    waited: bool = False


class TimeLeft:
    """The time left of one run. Times are in seconds of any clock.

    Args:
        steps: The steps that the run makes.
        work: The result of :func:`work_of_steps`.
        one_phase: Whether the training has one phase, so that the time left it reports is complete.
    """

    def __init__(self, task: str, steps: list[str], work: Mapping[str, float], home: Path, one_phase: bool) -> None:
        self.task, self.work, self.one_phase, self._path = task, work, one_phase, home / FILE
        self._pending = list(steps)
        local, shipped = read_step_times(self._path), read_step_times(SHIPPED)
        self._earlier = {step: self._seconds(step, local.get(step) or shipped.get(step, {})) for step in steps}
        self.source = (
            f"earlier runs of {task} here"
            if all(task in local.get(step, {}) for step in steps)
            else "earlier runs, of other tasks or on other machines"
        )
        self._running: _Running | None = None
        self._took, self._expected = _DAMPING_S, _DAMPING_S

    def _seconds(self, step: str, step_times: Mapping[str, tuple[float, float]]) -> float:
        if not step_times:
            return 0.0
        seconds, earlier_work = step_times[self.task] if self.task in step_times else list(step_times.values())[-1]
        return seconds * max(_LEAST_SHARE, self.work.get(step, 1.0) / earlier_work)

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
        """Read a progress line (:func:`finetune_pipeline.progress.tell`). The times of finished steps are kept for later runs."""
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
            running.seconds_left, running.reported = seconds_left, time

    def wait(self) -> None:
        """Note that the running step waits for something, so that its time does not count."""
        if self._running:
            self._running.waited = True

    def _learn(self, step: str, seconds: float) -> None:
        if before := self._earlier.get(step, 0.0):
            self._took, self._expected = self._took + seconds, self._expected + before
        step_times = read_step_times(self._path)
        step_times[step] = {t: v for t, v in step_times.get(step, {}).items() if t != self.task}
        step_times[step][self.task] = (round(seconds, 2), self.work.get(step, 1.0))
        with contextlib.suppress(OSError):  # a full disk: the steps that need it will report it
            write_json(self._path, step_times)

    def left(self, now: float) -> float:
        """Estimate the seconds left of the run."""
        running, measured, expected = self._running, self._took, self._expected
        pending_seconds = sum(self._earlier[step] for step in self._pending if not running or step != running.step)
        if running is None:
            return pending_seconds * measured / expected
        elapsed = now - running.began
        reported = None if running.seconds_left is None else max(0.0, running.seconds_left - (now - running.reported))
        before = self._earlier.get(running.step, 0.0)
        if reported is not None and self.one_phase:
            speed = (measured + elapsed + reported) / (expected + before)
            return reported + pending_seconds * speed
        speed = measured / expected
        step_seconds = max(before * speed - elapsed, 0.1 * elapsed, reported or 0.0)
        return step_seconds + pending_seconds * speed

    def words(self, now: float) -> str:
        """``about 12 min left for the whole run``."""
        seconds = self.left(now)
        about = f"about {spell(60 * round(seconds / 60))}" if seconds >= 60 else "less than a minute"
        return f"{about} left for the whole run"
