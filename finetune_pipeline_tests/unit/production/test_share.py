"""The champion beside a candidate that answers a share of the users: chance assigns them, and each counts once."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.share import Compared, ShareReport, compare_share, share_lines
from finetune_pipeline.production.share_rows import Assignment
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.production.streams import task_of
from finetune_pipeline_tests.unit.production.test_shadow import row as shadow_row
from finetune_pipeline_tests.unit.production.test_shadow import spec


def row(i: int, chosen: bool, percent: float = 50, **more: Any) -> dict[str, Any]:
    """A row of user i as merge_lines returns it."""
    share = Assignment("t:1", "t:2", percent, chosen, 0.2 if chosen else 0.1)
    version = "t:2" if chosen else "t:1"
    made = shadow_row(i, shadow=None, user=f"u{i}", model_version=version, share=msgspec.structs.asdict(share))
    return made | {"reported": None} | more


def complained(report: ShareReport | None) -> Compared:
    assert report is not None
    return report.measures[0]


def test_each_user_counts_once_with_the_first_complaint_of_whatever_kind() -> None:
    rows = [
        row(1, True, flag="bad"),
        row(1, True, id="1b", flag="bad again"),
        row(2, True, score=0.1),
        row(3, True, score=0.9),
        row(4, True, correction="howto"),
        row(5, True, correction="bug"),  # confirms the answer
        row(10, True, correction="howto"),
        row(6, False, flag="bad", percent=10),
        row(7, False),
        row(8, True, model_version="t:1", output="no label"),  # the champion answered in the candidate's place
        row(9, False, passed_on=True),
    ]
    report = compare_share(rows, spec(low_score=0.5))
    assert report is not None
    assert [(m.name, m.champion, m.candidate) for m in report.measures] == [
        ("complained about", 1, 4),
        ("in a wrong form", 0, 1),
        ("passed on", 1, 0),
    ]
    champion, candidate = report.champion, report.candidate
    assert (champion.rows, champion.units, champion.failed) == (3, 3, 0)
    assert (candidate.rows, candidate.units, candidate.failed) == (8, 7, 1)
    assert candidate.seconds == pytest.approx((0.2, 0.2)) and report.limit == pytest.approx(120)
    assert report.percents == [50, 10]
    lines = "\n".join(share_lines(report))
    assert "t:2: 8 rows, 7 different users or conversations" in lines and "it failed on 1" in lines
    assert "complained about, at least once: t:1 1 of 3 (33.3%), t:2 4 of 7 (57.1%): no sure difference" in lines


def test_the_median_time_is_told_before_that_of_one_in_twenty() -> None:
    def timed(i: int, seconds: float) -> dict[str, Any]:
        return row(i, True, share=msgspec.structs.asdict(Assignment("t:1", "t:2", 50, True, seconds)))

    report = compare_share([*(timed(i, 0.25) for i in range(20)), *(timed(i, 4.0) for i in range(20, 23))], spec())
    assert report is not None
    assert "seconds an answer, median and 95%: 0.25 and 4" in share_lines(report)[2]


@pytest.mark.parametrize(("percent", "side"), [(10, "candidate"), (50, "candidate"), (50, "champion")])
def test_complaints_that_come_too_often_from_one_side_are_sure_and_say_since_when(percent: float, side: str) -> None:
    rows = [row(i, side == "candidate", percent, flag="bad", reported=f"2026-06-{i + 1:02}") for i in range(20)]
    measure = complained(compare_share(rows, spec()))
    assert measure.more == side
    through = rows[: int(measure.since[-2:])]
    assert complained(compare_share(through, spec())).more == side
    assert complained(compare_share(through[:-1], spec())).more is None
    # complaints in the order in which they came, not of the answers
    again = complained(compare_share(rows[::-1], spec()))
    assert again == measure


def test_a_tenth_of_the_complaints_is_what_a_tenth_of_the_users_has() -> None:
    rows = [row(i, i % 10 == 0, 10, flag="bad") for i in range(300)]
    measure = complained(compare_share(rows, spec()))
    assert (measure.candidate, measure.more) == (30, None)
    assert (
        complained(compare_share([row(i, i % 10 == 0, 50, flag="bad") for i in range(300)], spec())).more == "champion"
    )


def test_equal_models_are_called_different_at_most_at_the_level_and_worse_ones_are_found() -> None:
    rng = np.random.default_rng(5)

    def world(candidates_complaints: float) -> str | None:
        rows = []
        for i in range(1500):
            percent = 10 if i < 700 else 50
            chosen = bool(rng.random() < percent / 100)
            is_bad = rng.random() < (candidates_complaints if chosen else 0.1)
            rows.append(row(i, chosen, percent, flag="bad" if is_bad else None))
        return complained(compare_share(rows, spec())).more

    null = [world(0.1) for _ in range(60)]
    assert sum(more is not None for more in null) <= 60 * 0.05
    assert [world(0.4) for _ in range(5)] == ["candidate"] * 5


def test_only_the_latest_pair_is_compared_and_a_conversation_is_a_unit_without_a_user() -> None:
    other = msgspec.structs.asdict(Assignment("t:0", "t:2", 10, True))
    turns = [{"role": "user", "content": "hello"}, {"role": "user", "content": "again"}]
    rows = [
        row(1, True, share=other, flag="bad"),
        *(row(i, True, user=None, turns=turns, flag="bad") for i in (2, 3)),
        row(4, True, user=None, input="hello"),
    ]
    report = compare_share(rows, spec())
    assert report is not None and (report.candidate.rows, report.candidate.units) == (3, 1)
    assert (report.champion.rows, report.champion.seconds, complained(report).candidate) == (0, None, 1)
    assert "t:1: 0 rows" in share_lines(report)[1]
    assert compare_share([shadow_row(1)], spec()) is None


@pytest.fixture
def task(tmp_path: Any) -> Task:
    return task_of(tmp_path)


def test_the_time_of_a_complaint_is_its_own_and_a_wrong_key_is_quarantined(task: Task, store: ArtifactStore) -> None:
    share = {"champion": "t:1", "candidate": "t:2", "percent": 10, "chosen": True, "seconds": 0.1}
    answer = {"timestamp": "2026-05-01T10:00:00Z", "input": "x", "output": "a", "model_version": "t:2"}
    bad = [{**share, "percent": 100}, {**share, "chosen": 1}, "text", {"champion": "t:1"}]
    lines = [{"id": "r1", **answer, "share": share}, {"id": "r2", **answer, "share": share}, {"id": "r3", **answer}]
    for hour, flag in ((13, "later"), (12, "first")):
        lines.append({"id": "r1", "timestamp": f"2026-05-01T{hour}:00:00Z", "feedback": {"flag": flag}})
    lines += [{"id": f"b{i}", **answer, "share": value} for i, value in enumerate(bad)]
    (task.folder / "logs" / "served.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    logs = read_logs(task, store)
    assert [(entry["id"], entry.get("reported")) for entry in logs.rows] == [
        ("r1", "2026-05-01T12:00:00+00:00"),
        ("r2", None),
        ("r3", None),
    ]
    assert "share" not in logs.rows[2] and logs.rows[0]["share"] == share
    assert logs.by_rule == {"log.share": 4}
