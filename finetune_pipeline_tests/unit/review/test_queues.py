"""What is shown on the page, and which lines may come back, on the page or by file."""

import json
from pathlib import Path

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.json_lines import append_line
from finetune_pipeline.data.quality.noise import Suspect
from finetune_pipeline.data.review import read_decisions, reviews_digest
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_merging import cached_choice, read_logs
from finetune_pipeline.review.flagged_queue import flagged_queue
from finetune_pipeline.review.queues import (
    ReviewQueue,
    outputs_queue,
    rows_queue,
    suspects_queue,
    synthetic_queue,
)
from finetune_pipeline.review.ratings import read_ratings
from finetune_pipeline.review.sheet import RANDOM, SheetItem, sheet_name
from finetune_pipeline.review.sheet_files import read_table, store, write_table
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline_tests.unit.review.test_ratings import VERSION

SHEET = sheet_name(VERSION, 3)
QUESTIONS = ("=1+1", "question 1", "question 2")
ITEMS = [SheetItem(f"e{i}", text, "ref", f"left {i}", f"right {i}", RANDOM) for i, text in enumerate(QUESTIONS)]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    cached_choice = {"name": "demo", "description": "d", "system_prompt": "Say yes or no."}
    spec = TaskSpec.model_validate({**cached_choice, "output": {"kind": "labels", "labels": ["yes", "no"]}})
    (tmp_path / "demo").mkdir()
    return Task(spec=spec, folder=tmp_path / "demo")


def test_the_page_gives_nothing_away(task: Task) -> None:
    page = outputs_queue(task, SHEET, ITEMS).page(rater="Ada")
    for word in ("candidate", "fine-tuned", RANDOM, "selected"):
        assert word not in page.split('id="data">')[1].split("</script>")[0]


def test_texts_of_strangers_stay_data(task: Task) -> None:
    evil = [SheetItem("e0", "</script><script>alert(1)</script>", "<b>", "\u2028", "&lt;", RANDOM)]
    page = outputs_queue(task, SHEET, evil).page()
    assert "<script>alert" not in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["items"][0]["blocks"][0]["text"] == evil[0].text
    assert data["items"][0]["sides"][0]["text"] == "\u2028" and data["server"] is False


def test_ratings_of_this_sheet_only(task: Task) -> None:
    queue = outputs_queue(task, SHEET, ITEMS)
    rating = {"sheet": SHEET, "id": "e1", "choice": "both", "rater": "Ada"}
    assert queue.take(rating) == (rating, [])
    assert "belongs to the sheet" in queue.take({**rating, "sheet": sheet_name(VERSION, 9)})[1][0]
    assert "no item 'e9'" in queue.take({**rating, "id": "e9"})[1][0]
    assert queue.take({**rating, "choice": ""}) == (None, [])


def fill_in(file: Path, *changes: dict[str, str]) -> None:
    """Add to the rows of a sheet, in order, as somebody does in an editor; the last line end is lost."""
    rows = [json.loads(line) | more for line, more in zip(file.read_text("utf-8").splitlines(), changes, strict=True)]
    file.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")


def test_a_sheet_goes_out_and_comes_back_by_file(task: Task, tmp_path: Path) -> None:
    queue, file = outputs_queue(task, SHEET, ITEMS), tmp_path / "sheet.jsonl"
    write_table(queue, file)
    assert json.loads(file.read_text("utf-8").splitlines()[0])["text"] == "=1+1"
    fill_in(file, *({"choice": choice, "rater": "Ada", "comment": "two\nlines"} for choice in ("A", "c", "")))
    file.write_text(file.read_text("utf-8") + "\nno json\n", "utf-8")
    sheet = read_table(queue, file)
    assert [r["id"] for r in sheet.rows["Ada"]] == ["e0"]
    assert any("`choice` is 'c'" in problem for problem in sheet.problems) and len(sheet.problems) == 2
    assert (store(queue, sheet.rows).added, store(queue, sheet.rows).known) == (1, 1), "stored once, however often"


def test_a_line_that_is_not_ended_costs_no_other(task: Task, tmp_path: Path) -> None:
    queue, file = outputs_queue(task, SHEET, ITEMS), tmp_path / "sheet.jsonl"
    lines = [json.dumps({"sheet": SHEET, "id": f"e{n}", "choice": "A", "rater": "Ada"}) for n in range(3)]
    file.write_text("\n".join([lines[0][:-9], *lines[1:]]), "utf-8")
    sheet = read_table(queue, file)
    assert [row["id"] for row in sheet.rows["Ada"]] == ["e1", "e2"]
    assert [problem.split(":")[0] for problem in sheet.problems] == ["sheet.jsonl, line 1"]
    target = queue.target("Ada")
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps({**sheet.rows["Ada"][0], "id": "e0"}), "utf-8")  # as some editors leave it
    store(queue, sheet.rows)
    assert [rating.id for rating in read_ratings(task.folder / "reviews")[0]] == ["e0", "e1", "e2"]


def test_a_sheet_of_another_format_is_refused(task: Task, tmp_path: Path) -> None:
    file = tmp_path / "sheet.csv"
    file.write_text("sheet,id,choice,rater\n")
    for work in (read_table, write_table):
        with pytest.raises(ValueError, match=r"named \.jsonl"):
            work(outputs_queue(task, SHEET, ITEMS), file)


def take(queue: ReviewQueue, rater: str, row: dict) -> None:
    entry, wrong = queue.take(row)
    assert entry is not None, wrong
    append_line(queue.target(rater), entry, sync=True)


def test_decisions_about_suspects_and_rows_are_what_the_data_stage_reads(task: Task) -> None:
    system = {"role": "system", "content": "Say yes or no."}
    turns = [{"role": "user", "content": "is ice hot?"}, {"role": "assistant", "content": "yes"}]
    longer = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, *turns]
    a, b = "a" * 16, "b" * 16
    rows = {
        a: Example(a, [system, *turns], "yes", source={"file": "raw/a.csv", "line": 7}),
        b: Example(b, longer, "yes"),
    }
    suspect = Suspect(
        id=a,
        place="",
        given="yes",
        suggested="no",
        confidence=0.93,
        self_confidence=0.1,
        margin=0.1,
        text="is ice hot?",
    )
    doubts, sample = suspects_queue(task, [suspect], rows), rows_queue(task, list(rows.values()), rows)
    assert doubts.items[0]["blocks"] == [
        {"title": "Input (raw/a.csv:7)", "text": "is ice hot?"},
        {"title": "Label in the data", "text": "yes"},
        {"title": "A simple model expects (93.0% sure)", "text": "no"},
    ]
    assert sample.items[1]["blocks"][0]["text"] == "user: hi\n\nassistant: hello\n\nuser: is ice hot?"
    assert doubts.answers == sample.answers == ["yes", "no"]
    take(doubts, "Ada", {"id": a, "decision": "relabel", "label": "no", "reviewer": "Ada"})
    take(sample, "Ada", {"id": b, "decision": "drop", "reviewer": "Ada"})
    decisions, findings, _ = read_decisions(task.folder / "reviews", task.spec)
    assert [(d.id, d.decision, d.label) for d in decisions] == [
        (b, "drop", None),
        (a, "relabel", "no"),
    ] and not findings
    assert "there is no row" in sample.take({"id": "c" * 16, "decision": "drop", "reviewer": "Ada"})[1][0]


def test_decisions_about_synthetic_rows_are_what_the_data_stage_reads(task: Task) -> None:
    rows = [{"id": "a" * 16, "generator": "g", "text": "is ice hot?", "answer": "yes"}]
    queue = synthetic_queue(task, rows)
    before = reviews_digest(task.folder / "reviews")
    take(queue, "Ada Byron", {"id": "a" * 16, "decision": "relabel", "label": "no", "reviewer": "Ada Byron"})
    decisions, findings, lines = read_decisions(task.folder / "reviews", task.spec)
    assert not findings and lines == 1
    assert (decisions[0].decision, decisions[0].label, decisions[0].reviewer) == ("relabel", "no", "Ada Byron")
    assert reviews_digest(task.folder / "reviews") != before
    for bad, entry in (
        ({"label": "maybe"}, "not a label"),
        ({"id": "b" * 16}, "no row"),
        ({"reviewer": ""}, "`reviewer`"),
    ):
        row, wrong = queue.take({"id": "a" * 16, "reviewer": "Ada", "decision": "relabel", "label": "no", **bad})
        assert row is None and entry in "; ".join(wrong)


def test_a_row_that_is_left_out_is_not_asked_again_nor_used(task: Task) -> None:
    logs = task.folder / "logs"
    logs.mkdir()
    logged = {"timestamp": "2026-01-01T00:00:00Z", "model_version": "3", "input": "is it on?", "output": "yes"}
    lines = [
        {**logged, "id": "log-1", "feedback": {"flag": "wrong", "label": "no", "score": 0.0}},
        {**logged, "id": "log-2", "input": "is it off?", "feedback": {"flag": "wrong"}},
        {**logged, "id": "log-3", "input": "is it odd?", "feedback": {"flag": "wrong", "left_out": True}},
    ]
    (logs / "day.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = ArtifactStore(task.folder / "store")
    before = read_logs(task, store)
    (example,) = cached_choice(task.spec, before).examples
    assert cached_choice(task.spec, read_logs(task, store)).examples[0] is example, (
        "the same rows are not sorted out again"
    )
    queue = flagged_queue(task, [{**row, "why": "flagged: wrong"} for row in before.rows], b"")
    for name in ("log-1", "log-2"):
        take(queue, "Ada", {"id": name, "decision": "drop", "reviewer": "Ada"})
    after = read_logs(task, store)
    assert not after.quarantine
    assert [(r["flag"], r["score"], r["correction"]) for r in after.rows[:2]] == [(None, None, None)] * 2
    chosen_rows = cached_choice(task.spec, after)
    assert chosen_rows.examples == []
    assert [row["id"] for row, _ in chosen_rows.queue] == ["log-3"], "what production says of itself leaves nothing out"
    take(queue, "Ada", {"id": "log-1", "decision": "relabel", "label": "no", "reviewer": "Ada"})
    (example,) = cached_choice(task.spec, read_logs(task, store)).examples
    assert (example.label, example.user_text) == ("no", "is it on?"), "the last decision counts"


def test_a_sheet_of_production_rows_comes_back_twice_and_from_two_people(task: Task, tmp_path: Path) -> None:
    logged = {"timestamp": "2026-01-01T00:00:00Z", "model_version": "3", "input": "is it on?", "output": "yes"}
    (task.folder / "logs").mkdir()
    (task.folder / "logs" / "a.jsonl").write_text(json.dumps({**logged, "id": "log-1", "feedback": {"flag": "wrong"}}))
    kept, file = ArtifactStore(task.folder / "store"), tmp_path / "sheet.jsonl"

    def comes_back(rater: str, **said: str) -> tuple[int, int]:
        logs = read_logs(task, kept)
        waiting = [{**r, "why": why} for r, why in cached_choice(task.spec, logs).queue]
        queue = flagged_queue(task, waiting, b"", logs.rows)
        file.write_text(json.dumps({"id": "log-1", "reviewer": rater, **said}))
        sheet = read_table(queue, file)
        assert not sheet.problems
        stored = store(queue, sheet.rows)
        return stored.added, stored.known

    later = {"decision": "relabel", "label": "no", "time": "2026-01-03T00:00:00Z"}
    assert [comes_back("Ada", **later) for _ in range(2)] == [(1, 0), (0, 1)], "stored once, though it waits no more"
    assert comes_back("Bob", decision="drop", time="2026-01-02T00:00:00Z") == (1, 0)
    assert comes_back("Cid", decision="keep") == (1, 0)
    (row,) = read_logs(task, kept).rows
    assert (row["correction"], row["left_out"]) == ("no", False), "the last decision counts, whoever made it"


def test_a_raters_name_is_no_path(task: Task) -> None:
    target = outputs_queue(task, SHEET, ITEMS).target("../../etc/passwd")
    assert target.parent == task.folder / "reviews" / "outputs"
