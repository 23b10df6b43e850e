"""The time left for the whole run, by a recorded clock."""

import json
from pathlib import Path

import pytest

from finetune_pipeline.cli import time_left, watch
from finetune_pipeline.cli.time_left import TimeLeft, work_of_steps
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.progress import VARIABLE
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import TaskSpec

STEPS = ["splits", "adapter", "test_predictions"]
WORK = {"splits": 10.0, "adapter": 200.0, "test_predictions": 50.0}


@pytest.fixture
def spec() -> TaskSpec:
    return load_task(Path(__file__).resolve().parents[3] / "data" / "order_intake").spec


def before(home: Path, **seconds: float) -> Path:
    """A home where each step took so long for the same work."""
    step_times = {step: {"orders": [s, WORK[step]]} for step, s in seconds.items()}
    (home / time_left.FILE).write_text(json.dumps(step_times))
    return home


def test_more_work_takes_longer_and_waiting_is_not_remembered(tmp_path: Path) -> None:
    home = before(tmp_path, splits=60, adapter=600, test_predictions=120)
    more = TimeLeft("tickets", STEPS, {**WORK, "adapter": 400.0}, home, True)
    assert more.left(0) == 60 + 1200 + 120 and "other tasks" in more.source
    estimate = TimeLeft("orders", STEPS, WORK, home, True)
    estimate.note("splits", 0, "begins")
    estimate.wait()
    estimate.note("splits", 5000, "done")
    assert estimate.left(5000) == 720 and TimeLeft("orders", ["splits"], WORK, tmp_path, True).left(0) == 60


def test_a_step_that_had_nothing_to_do_says_nothing_of_the_next_run(tmp_path: Path) -> None:
    empty = TimeLeft("orders", ["splits"], {"splits": 0.0}, tmp_path, True)
    empty.note("splits", 0, "begins")
    empty.note("splits", 5, "done")
    assert TimeLeft("orders", ["splits"], WORK, tmp_path, True).left(0) > 0


def test_it_follows_the_speed_of_the_run_and_what_the_training_says(tmp_path: Path) -> None:
    estimate = TimeLeft("orders", STEPS, WORK, before(tmp_path, splits=60, adapter=600, test_predictions=120), True)
    estimate.note("splits", 0, "begins")
    assert estimate.left(20) == 760, "the clock runs"
    estimate.note("splits", 120, "done")
    slower = (120 + 30) / (60 + 30)
    assert estimate.left(120) == pytest.approx(720 * slower)
    estimate.note("adapter", 120, "begins")
    assert estimate.left(120 + 9000) == pytest.approx(900 + 120 * slower), "longer than ever: a tenth of it more"
    estimate.note("adapter", 220, seconds_left=400)
    speed = (120 + 30 + 100 + 400) / (60 + 30 + 600)
    assert estimate.left(220) == pytest.approx(400 + 120 * speed)
    estimate.note("adapter", 600, "done")
    estimate.note("test_predictions", 600, "begins")
    estimate.note("test_predictions", 700, "done")
    assert estimate.left(700) == 0 and estimate.words(700) == "less than a minute left for the whole run"
    again = TimeLeft("orders", STEPS, WORK, tmp_path, True)
    assert again.left(0) == 120 + 480 + 100, "this run is remembered"


def test_the_first_run_of_all_is_estimated_by_what_is_shipped(tmp_path: Path, spec: TaskSpec) -> None:
    (tmp_path / time_left.FILE).write_text("{")
    counts = {"train": 907, "validation": 118, "test": 179}
    steps = [step for step in time_left.read_step_times(time_left.SHIPPED) if not PIPELINE.steps[step].asked_for]
    assert {"few_shot_baseline", "adapter", "test_predictions"} <= set(steps)

    def minutes(size: int, **changed: object) -> float:
        training = spec.training.model_copy(update=changed)
        work = work_of_steps(spec.model_copy(update={"training": training}), size, counts if size < 1e6 else None)
        return TimeLeft("order_intake", steps, work, tmp_path, True).left(0) / 60

    assert 4 < minutes(672_233) < 60
    trained = time_left.read_step_times(time_left.SHIPPED)["adapter"]["order_intake"][0] / 60
    assert minutes(672_233, epochs=2 * spec.training.epochs) - minutes(672_233) == pytest.approx(trained, rel=0.05)
    assert minutes(67_223_300) > 30 * minutes(672_233), "a hundred times the rows"


def test_the_terminal_says_it_with_the_lines_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(path := tmp_path / "progress.jsonl"))
    monkeypatch.setattr(watch, "LEFT_SECONDS", 0.0)
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0.0)
    home, lines = before(tmp_path, splits=60, adapter=600, test_predictions=120), []
    rows = [(0, "splits", "unchanged", {}), (0, "splits", "done", {"reused": True}), (1, "adapter", "begins", {}),
            (100, "adapter", "", {"step": 1, "of": 5, "seconds_left": 400})]  # fmt: skip
    path.write_text("".join(json.dumps({"time": t, "stage": s, "message": m, **n}) + "\n" for t, s, m, n in rows))
    with Watcher(path, 3, lines.append, left=TimeLeft("orders", STEPS, WORK, home, True)):
        pass
    assert lines == [
        "[ 1/3] splits (made already)",
        "[ 2/3] adapter; about 12 min left for the whole run",
        "        1 of 5, 6:40 left of this step; about 8 min left for the whole run",
    ]
