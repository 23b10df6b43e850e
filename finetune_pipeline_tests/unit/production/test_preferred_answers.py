"""Two models' answers in free text: reviewers say which is better, blind, and a rollout goes on or ends by what they say."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.preferences.cleaning import Cleaned, clean_preferences
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.choosing import DIFFERS
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.production.log_merging import cached_choice, read_logs
from finetune_pipeline.production.rollout import SHADOW, Judged, Rollout, judge, question_losses
from finetune_pipeline.production.shadow import compare_shadow, shadow_lines
from finetune_pipeline.production.thumbs import logged_preferences
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.rollout_page import rollout_page
from finetune_pipeline.review.flagged_queue import flagged_queue
from finetune_pipeline.review.queues import ReviewQueue
from finetune_pipeline.review.sheet_files import read_table, store, write_table
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline_tests.unit.production.test_erasure import settle

SECRET = b"secret"
PAIR = ("t:1", "t:2")
STAGE = Rollout(1, 2, SHADOW, "2026-05-01T00:00:00Z")
Reviewer = Callable[[str, str], str]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    written = {"name": "t", "description": "d", "system_prompt": "s", "output": {"kind": "text"}}
    written |= {"logs": {"sample_share": 0.0, "settle_seconds": 0}, "rollout": {"shadow_rows": 30}}
    (tmp_path / "t" / "logs").mkdir(parents=True)
    return Task(spec=TaskSpec.model_validate(written), folder=tmp_path / "t")


@pytest.fixture
def kept(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def answered(i: int, **more: Any) -> list[dict[str, Any]]:
    """The lines of a question that both models answered."""
    row = {
        "id": f"r{i}",
        "timestamp": f"2026-05-01T10:{i // 60:02}:{i % 60:02}Z",
        "input": f"question {i}",
        "user": f"u{i}",
    }
    row |= {key: more.pop(key) for key in ("input", "messages") if key in more}
    shadow = {"model_version": "t:2", "output": f"by candidate {i}", "champion": "t:1", "seconds": 0.2} | more.pop(
        "shadow", {}
    )
    shadow |= {"champion_output": f"by champion {i}", "champion_seconds": 0.1}
    return [{**row, "output": f"by champion {i}", "model_version": "t:1", **more}, {**row, "shadow": shadow}]


def log(task: Task, *lines: dict[str, Any]) -> None:
    (task.folder / "logs" / "served.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def queue_of(task: Task, kept: ArtifactStore) -> ReviewQueue:
    logs = read_logs(task, kept)
    waiting = [{**row, "why": why} for row, why in cached_choice(task.spec, logs).queue]
    return flagged_queue(task, waiting, SECRET, logs.rows)


def decide(task: Task, kept: ArtifactStore, reviewer: Reviewer) -> int:
    """Decide everything that waits, as the page hands it in. Returns how many rows waited."""
    queue, made = queue_of(task, kept), []
    for place, item in enumerate(queue.items):
        first, second = (side["text"] for side in item["sides"])
        time = f"2026-05-02T10:{place // 60:02}:{place % 60:02}Z"
        line = {"id": item["id"], "decision": reviewer(first, second), "reviewer": "Ada", "time": time}
        row, problems = queue.take(line)
        assert row is not None, problems
        made.append(row)
    store(queue, {"Ada": made})
    return len(made)


def judged(task: Task, kept: ArtifactStore) -> Judged:
    return judge(read_logs(task, kept).rows, task.spec, STAGE, datetime(2026, 5, 3, tzinfo=UTC))


def prefers(name: str) -> Reviewer:
    return lambda first, second: "first" if name in first else "second"


def test_without_decisions_it_stays_and_says_so_where_one_looks(task: Task, kept: ArtifactStore) -> None:
    log(task, *(line for i in range(40) for line in answered(i)))
    found = judged(task, kept)
    assert (found.action, found.undecided, found.evidence) == ("wait", 40, 1.0)
    assert found.why.endswith("needed): 40 different answers wait for a person and count against it until then")
    page = page_html(rollout_page(task.spec, STAGE, found, found.why, []))
    assert "Say which of two different answers is better, without seeing whose is whose" in page
    assert "Without decisions it stays at this stage." in page


def test_it_goes_on_where_reviewers_prefer_the_candidate_and_ends_where_they_prefer_the_champion(
    task: Task, kept: ArtifactStore
) -> None:
    log(task, *(line for i in range(30) for line in answered(i)))
    assert decide(task, kept, prefers("candidate")) == 30
    found = judged(task, kept)
    assert found.action == "advance" and found.undecided == 0 and found.evidence > 20
    assert question_losses(read_logs(task, kept).rows, task.spec, PAIR) == ([-1] * 30, 0)
    assert decide(task, kept, prefers("candidate")) == 0, "nothing waits any more"

    (task.folder / "logs" / "reviewed-Ada.jsonl").unlink()
    other = ArtifactStore(task.folder.parent / "other")
    assert decide(task, other, prefers("champion")) == 30
    found = judged(task, other)
    assert found.action == "stop" and "version 1 is surely better, since 2026-05-02" in found.why
    assert found.shadow is not None
    lines = shadow_lines(found.shadow, "t")
    said = (
        "decided by reviewers, blind: 30 of 30 questions with different answers; t:1 preferred 30, t:2 preferred 0, no"
    )
    assert said in lines[-2]


@pytest.mark.parametrize("choice", ["equal", "neither"])
def test_answers_of_which_none_is_better_are_no_loss(task: Task, kept: ArtifactStore, choice: str) -> None:
    log(task, *(line for i in range(110) for line in answered(i)))
    decide(task, kept, lambda first, second: choice)
    found = judged(task, kept)
    assert found.action == "advance" and found.shadow is not None
    assert (found.shadow.decided, found.shadow.champion.right == found.shadow.shadow.right) == (110, True)


def test_sides_are_balanced_so_that_who_always_takes_the_first_decides_nothing(task: Task, kept: ArtifactStore) -> None:
    log(task, *(line for i in range(400) for line in answered(i)))
    first = [item["sides"][0]["text"] for item in queue_of(task, kept).items]
    assert 170 <= sum("champion" in text for text in first) <= 230
    assert [item["sides"][0]["text"] for item in queue_of(task, kept).items] == first, "no other at the next look"
    decide(task, kept, lambda first, second: "first")
    found = judged(task, kept)
    assert found.action == "wait" and found.shadow is not None and found.shadow.better is None
    assert found.evidence < 20 and found.undecided == 0


def test_no_page_or_sheet_says_whose_an_answer_is(task: Task, kept: ArtifactStore, tmp_path: Path) -> None:
    log(task, *answered(1, feedback={"flag": "rude"}), {**answered(2, feedback={"flag": "late"})[0]})
    queue = queue_of(task, kept)
    assert [item["blocks"][0]["title"] for item in queue.items] == ["Input", "Input (flagged: late)"]
    shown = queue.page().split('id="data">')[1].split("</script>")[0] + json.dumps(queue.table)
    assert not [word for word in ("t:1", "t:2", "rude", "shadow") if word in shown]
    assert [choice["value"] for choice in queue.items[0]["choices"]] == ["first", "second", "equal", "neither"]
    decide_one = {"id": "r1", "decision": "neither", "reviewer": "Ada"}
    assert "`decision` is first, second, equal or neither" in queue.take({**decide_one, "decision": "keep"})[1][0]
    assert "no two answers to compare" in queue.take({**decide_one, "id": "r2"})[1][0]
    assert "`reviewer`" in queue.take({**decide_one, "reviewer": ""})[1][0]

    write_table(queue, tmp_path / "sheet.jsonl")
    filled = [json.loads(line) for line in (tmp_path / "sheet.jsonl").read_text().splitlines()]
    side = next(key for key in ("first", "second") if filled[0][key] == "by candidate 1")
    (tmp_path / "back.jsonl").write_text(json.dumps(filled[0] | {"decision": side, "reviewer": "Ada"}))
    store(queue, read_table(queue, tmp_path / "back.jsonl").rows)
    (row, _) = read_logs(task, kept).rows
    assert row["preferred"] == {"champion": "t:1", "model_version": "t:2", "choice": "shadow", "decided": ""}
    assert (row["reviewed"], row["correction"], row["flag"]) == (False, None, "rude")
    (item, _) = queue_of(task, kept).items
    assert item["blocks"][0]["title"] == "Input (flagged: rude)", "then its right answer is asked for"
    assert item["blocks"][1]["title"] == "Answer of t:1" and len(item["blocks"]) == 2


def test_a_question_is_asked_once_and_the_last_word_on_a_row_counts(task: Task, kept: ArtifactStore) -> None:
    again = answered(2, input="question 1")
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "why"},
    ]
    failed = answered(4, shadow={"output": None, "problem": "too long"})
    log(
        task,
        *answered(1),
        *again,
        *answered(3, messages=turns),
        *failed,
        *answered(5, shadow={"output": " by champion 5"}),
    )
    queue = queue_of(task, kept)
    assert [item["id"] for item in queue.items] == ["r1", "r3", "r4"]
    assert queue.items[1]["blocks"][0]["text"].startswith("user: hi\n\nassistant: yes?")
    assert "(no answer: the generation failed)" in [side["text"] for side in queue.items[2]["sides"]]
    decide(task, kept, prefers("candidate 1"))
    rows = read_logs(task, kept).rows
    assert question_losses(rows, task.spec, PAIR)[0][0] == -1
    slip = {"id": "r1", "decision": "equal", "reviewer": "Ada", "time": "2026-05-03T10:00:00Z"}
    store(queue, {"Ada": [row for row in [queue_of(task, kept).take(slip)[0]] if row]})
    report = compare_shadow(read_logs(task, kept).rows, task.spec)
    assert report is not None and report.decided == 3
    assert question_losses(read_logs(task, kept).rows, task.spec, PAIR)[0][0] == 0


def test_only_reviewers_of_these_two_versions_decide(task: Task, kept: ArtifactStore) -> None:
    said = {"champion": "t:1", "model_version": "t:2", "choice": "shadow"}
    log(
        task,
        *answered(1, feedback={"preferred": said}),
        *answered(2, feedback={"preferred": {**said, "choice": "mine"}}),
    )
    (own,) = read_logs(task, kept).rows
    assert "preferred" not in own and read_logs(task, kept).by_rule == {"log.wrong_type": 1}
    other = {**answered(1)[0], "feedback": {"preferred": {**said, "model_version": "t:9"}}}
    (task.folder / "logs" / "reviewed-Ada.jsonl").write_text(f"{json.dumps(other)}\n")
    rows = read_logs(task, kept).rows
    assert rows[0]["preferred"]["model_version"] == "t:9"
    assert question_losses(rows, task.spec, PAIR) == ([1], 1)
    assert [why for _, why in cached_choice(task.spec, read_logs(task, kept)).queue] == [DIFFERS]


def pairs_of(task: Task, kept: ArtifactStore) -> tuple[list[tuple[str | None, str | None, str | None]], Cleaned]:
    """The pairs that the decisions become, before and after cleaning."""
    found = logged_preferences(task.spec, read_logs(task, kept).rows).preferences
    return [(p.log, p.chosen, p.rejected) for p in found], clean_preferences(found, task.spec, [], [])


def test_decisions_are_pairs_of_a_second_stage_with_the_preferred_side_as_shown(
    task: Task, kept: ArtifactStore
) -> None:
    task = unreserved(task)
    log(task, *(line for i in range(60) for line in answered(i)))
    firsts = {item["id"]: item["sides"][0]["text"] for item in queue_of(task, kept).items}
    decide(task, kept, lambda first, second: "first" if int(first.split()[-1]) % 2 else "second")
    pairs, cleaned = pairs_of(task, kept)
    assert len(pairs) == 60 == len(cleaned.kept)
    for name, chosen, rejected in pairs:
        assert name is not None and chosen is not None and rejected is not None
        number = int(name[1:])
        assert (chosen == firsts[name]) is bool(number % 2), "what was shown first is chosen if the reviewer said so"
        assert {chosen, rejected} == {f"by champion {number}", f"by candidate {number}"}


def test_decisions_on_equal_answers_and_opposite_ones_on_a_question_are_left_out(
    task: Task, kept: ArtifactStore
) -> None:
    task = unreserved(task)
    said = {"champion": "t:1", "model_version": "t:2", "choice": "champion"}
    equal = answered(1, shadow={"output": " by champion 1 "})
    one, other = answered(2), answered(3, input="question 2", shadow={"output": "by candidate 2"})
    other = [{**other[0], "output": "by champion 2"}, {**other[1]}]
    other[1]["shadow"] = {**other[1]["shadow"], "champion_output": "by champion 2"}
    log(task, *equal, *one, *other, *answered(4))
    choices = {"r1": "champion", "r2": "champion", "r3": "shadow", "r4": "champion"}
    lines = [
        {**line, "feedback": {"preferred": {**said, "choice": choices[line["id"]]}}}
        for line, _ in (equal, one, other, answered(4))
    ]
    (task.folder / "logs" / "reviewed-Ada.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pairs, cleaned = pairs_of(task, kept)
    assert len(pairs) == 4 and [p.log for p in cleaned.kept] == ["r4"]
    assert cleaned.left_out == {"equal_pair": 1, "swapped_pair": 2}


def test_an_answer_logged_again_with_another_text_is_not_the_one_that_was_compared(
    task: Task, kept: ArtifactStore
) -> None:
    task = unreserved(task)
    log(task, *answered(1))
    decide(task, kept, prefers("candidate"))
    before = pairs_of(task, kept)[0]
    again = answered(1, shadow={"output": "quite another answer"})[1]
    (task.folder / "logs" / "z-restarted.jsonl").write_text(
        f"{json.dumps({**again, 'timestamp': '2026-05-01T11:00:00Z'})}\n"
    )
    assert pairs_of(task, kept)[0] == before == [("r1", "by candidate 1", "by champion 1")]


def unreserved(task: Task) -> Task:
    """The task, with no question reserved for evaluation."""
    logs = task.spec.logs.model_copy(update={"judging_share": 0.0})
    return Task(spec=task.spec.model_copy(update={"logs": logs}), folder=task.folder)


def test_decisions_are_forgotten_with_their_user(task: Task, kept: ArtifactStore) -> None:
    log(task, *answered(1), *answered(2))
    assert decide(task, kept, prefers("candidate")) == 2
    settle(task)
    forget(task, kept, ["u1"], [])
    reviewed = (task.folder / "logs" / "reviewed-Ada.jsonl").read_text()
    assert "question 1" not in reviewed and "question 2" in reviewed
    rows = read_logs(task, kept).rows
    assert [row["id"] for row in rows] == ["r2"] and question_losses(rows, task.spec, PAIR) == ([-1], 0)
    assert pairs_of(unreserved(task), kept)[0] == [("r2", "by candidate 2", "by champion 2")]
