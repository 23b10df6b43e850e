"""The time left for the whole run, by a recorded clock."""

import json
import math
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


def middle(estimate: TimeLeft, now: float) -> float:
    """The time between the ends of a range; both are wrong by the same factor if no step is running."""
    low, high = estimate.bounds(now)
    return math.sqrt(low * high)


def test_more_work_takes_longer_and_waiting_is_not_remembered(tmp_path: Path) -> None:
    home = before(tmp_path, splits=60, adapter=600, test_predictions=120)
    more = TimeLeft("tickets", STEPS, {**WORK, "adapter": 400.0}, home, True)
    assert middle(more, 0) == pytest.approx(60 + 1200 + 120) and "other tasks" in more.source
    estimate = TimeLeft("orders", STEPS, WORK, home, True)
    estimate.note("splits", 0, "begins")
    estimate.wait()
    estimate.note("splits", 5000, "done")
    assert estimate.bounds(5000) == pytest.approx((720 / 1.4, 720 * 1.4))
    assert middle(TimeLeft("orders", ["splits"], WORK, tmp_path, True), 0) == pytest.approx(60)


def test_a_step_that_had_nothing_to_do_says_nothing_of_the_next_run(tmp_path: Path) -> None:
    empty = TimeLeft("orders", ["splits"], {"splits": 0.0}, tmp_path, True)
    empty.note("splits", 0, "begins")
    empty.note("splits", 5, "done")
    assert middle(TimeLeft("orders", ["splits"], WORK, tmp_path, True), 0) > 0


def test_it_follows_the_speed_of_the_run_and_what_the_training_says(tmp_path: Path) -> None:
    estimate = TimeLeft("orders", STEPS, WORK, before(tmp_path, splits=60, adapter=600, test_predictions=120), True)
    estimate.note("splits", 0, "begins")
    assert estimate.bounds(20) == pytest.approx((780 / 1.4 - 20, 780 * 1.4 - 20)), "the clock runs"
    estimate.note("splits", 120, "done")
    slower = (120 + 30) / (60 + 30)
    assert middle(estimate, 120) == pytest.approx(720 * slower)
    estimate.note("adapter", 120, "begins")
    assert estimate.bounds(120 + 9000)[1] == math.inf, "longer than ever"
    estimate.note("adapter", 220, seconds_left=400)
    low, high = 400 / 1.2 + 120 * slower / 1.4, 400 * 1.2 + 120 * slower * 1.4
    assert estimate.bounds(220) == pytest.approx((low, high))
    estimate.note("adapter", 600, "done")
    estimate.note("test_predictions", 600, "begins")
    estimate.note("test_predictions", 700, "done")
    assert estimate.bounds(700) == (0, 0) and estimate.words(700) == "less than a minute left for the whole run"
    again = TimeLeft("orders", STEPS, WORK, tmp_path, True)
    assert middle(again, 0) == pytest.approx(120 + 480 + 100), "this run is remembered"


def test_the_first_run_of_all_is_estimated_by_what_is_shipped(tmp_path: Path, spec: TaskSpec) -> None:
    (tmp_path / time_left.FILE).write_text("{")
    counts = {"train": 907, "validation": 118, "test": 179}
    steps = [step for step in time_left.read_step_times(time_left.SHIPPED) if not PIPELINE.steps[step].asked_for]
    assert {"few_shot_baseline", "adapter", "test_predictions"} <= set(steps)

    def minutes(size: int, **changed: object) -> float:
        training = spec.training.model_copy(update=changed)
        work = work_of_steps(spec.model_copy(update={"training": training}), size, counts if size < 1e6 else None)
        return middle(TimeLeft("order_intake", steps, work, tmp_path, True), 0) / 60

    assert 4 < minutes(672_233) < 60
    trained = time_left.read_step_times(time_left.SHIPPED)["adapter"]["order_intake"][0] / 60
    assert minutes(672_233, epochs=2 * spec.training.epochs) - minutes(672_233) == pytest.approx(trained, rel=0.05)
    assert minutes(67_223_300) > 30 * minutes(672_233), "a hundred times the rows"


def test_nothing_is_said_until_the_time_is_known_within_a_factor_of_two(tmp_path: Path) -> None:
    home = before(tmp_path, splits=60, adapter=600, test_predictions=120)
    assert TimeLeft("orders", STEPS, WORK, home, True).words(0) == "9 min to 18 min left for the whole run"
    small = TimeLeft("orders", STEPS, {step: 50 * work for step, work in WORK.items()}, home, True)
    assert small.words(0) == "", "fifty times the work of a small run, which may have been under load"
    assert TimeLeft("tickets", STEPS, WORK, home, True).words(0) == "", "another task"
    assert TimeLeft("orders", ["unknown"], {}, home, True).words(0) == ""
    quick = before(tmp_path, splits=1, adapter=10, test_predictions=2)
    assert TimeLeft("orders", STEPS, WORK, quick, True).words(0) == "less than a minute left for the whole run"


def test_a_step_that_counts_its_rows_is_estimated_by_them(tmp_path: Path) -> None:
    last = TimeLeft("orders", STEPS[2:], WORK, before(tmp_path, test_predictions=100), True)
    last.note("test_predictions", 0, "begins")
    last.note("test_predictions", 100, "candidate", step=1, of=4)
    assert last.bounds(100) == (pytest.approx(300 / 1.2), pytest.approx(300 * 1.2)), "three times as long to go"
    assert last.words(100) == "4 min to 6 min left for the whole run", "not less than a minute"
    last.note("test_predictions", 390, "candidate", step=4, of=4)
    assert last.bounds(390)[1] == math.inf and last.words(390) == "", "how many parts follow is unknown"


def test_a_step_that_takes_longer_than_ever_has_no_end_in_sight(tmp_path: Path) -> None:
    running = TimeLeft("orders", STEPS[1:], WORK, before(tmp_path, adapter=600, test_predictions=120), True)
    running.note("adapter", 0, "begins")
    assert running.words(300) == "" and running.words(5000) == ""
    running.note("adapter", 5000, seconds_left=1200)
    assert running.words(5000)


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
        "[ 2/3] adapter; 9 min to 17 min left for the whole run",
        "        1 of 5, 6:40 left of this step; 7 min to 11 min left for the whole run",
    ]
