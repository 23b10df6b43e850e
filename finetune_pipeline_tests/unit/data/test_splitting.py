import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split import splitting
from finetune_pipeline.data.split.ledger import read_ledger, record_assignments
from finetune_pipeline.data.split.placement import place
from finetune_pipeline.data.split.splitting import SplitFacts, assignments_in
from finetune_pipeline.engine.checks import Check, CheckResult
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.data_checks import named_files_are_the_test, split_sizes, time_decides
from finetune_pipeline_tests.unit.data.rows import LABELS, example, make_spec, random_text, read_lines, split_rows
from finetune_pipeline_tests.unit.data.test_together import request

SPEC = make_spec()


def rows(start: int, stop: int, **more: Any) -> list[Example]:
    return [example(random_text(i), LABELS[i % 10 // 4], i, **more) for i in range(start, stop)]


def run(folder: Path, name: str, examples: list[Example], spec: Any = SPEC, **clean: Any) -> tuple[Any, dict[str, str]]:
    """(facts, split by id) of a split that is recorded in the ledger in `folder`."""
    facts, placed = split_rows(folder, examples, spec, name, **clean)
    record_assignments(assignments_in(folder / name), folder / "ledger")
    assert facts.rows_in == facts.kept + facts.quarantined == len(examples) - len(clean.get("removed", ()))
    assert facts.kept == len(placed) == sum(facts.counts.values())
    return facts, placed


def test_shares_hold_in_every_label(tmp_path: Path) -> None:
    facts, _ = run(tmp_path, "a", rows(0, 400))
    assert facts.counts == {"train": 280, "validation": 40, "test": 80}
    rows_of = {name: [*labels.values()] for name, labels in facts.labels.items()}
    assert rows_of == {"train": [112, 112, 56], "validation": [16, 16, 8], "test": [32, 32, 16]}
    assert facts.shares == facts.wanted_shares == {"train": 0.7, "validation": 0.1, "test": 0.2}
    assert (facts.clusters, facts.quarantined) == (400, 0)


def test_no_row_moves_when_data_grows_and_shares_still_hold(tmp_path: Path) -> None:
    _, first = run(tmp_path, "a", rows(0, 200))
    grown = rows(0, 200) + rows(300, 500)
    random.Random(1).shuffle(grown)
    facts, second = run(tmp_path, "b", grown)
    assert {i: second[i] for i in first} == first
    assert facts.counts["test"] == pytest.approx(80, abs=3)
    _, third = run(tmp_path, "c", grown[50:], make_spec(split={"seed": 9}))
    assert all(second[i] == s for i, s in third.items())


def test_a_row_keeps_its_split_with_another_label_or_id(tmp_path: Path) -> None:
    _, before = run(tmp_path, "a", rows(0, 100))
    relabelled = [example(e.user_text, "P0_incident", line=i) for i, e in enumerate(rows(0, 100))]
    changed = [replace(e, id=f"{i:016x}") for i, e in enumerate(relabelled)]
    _, after = run(tmp_path, "b", changed)
    assert [after[e.id] for e in changed] == [before[e.id] for e in rows(0, 100)]


def test_clusters_and_groups_stay_together(tmp_path: Path) -> None:
    groups = [rows(start, start + 4, group=f"g{start}") for start in range(0, 40, 4)]
    pairs = [rows(start, start + 2) for start in range(40, 80, 2)]
    clusters = {e.id: min(x.id for x in pair) for pair in pairs for e in pair}
    facts, placed = run(tmp_path, "a", [e for some in (*groups, *pairs) for e in some], clusters=clusters)
    assert all(len({placed[e.id] for e in some}) == 1 for some in (*groups, *pairs))
    assert facts.clusters == 30 and min(facts.counts.values()) > 0


def test_only_people_judge(tmp_path: Path) -> None:
    examples = rows(0, 100) + rows(100, 200, origin="production") + rows(200, 250, origin="synthetic")
    facts, _ = run(tmp_path, "a", examples)
    assert facts.origins["test"] == {"human": facts.counts["test"]}
    assert 35 <= facts.counts["test"] <= 50 and {*facts.origins["train"]} == {"human", "production", "synthetic"}


def test_a_few_rows_of_people_fill_both_splits_that_judge_a_teachers_student(tmp_path: Path) -> None:
    """400 test and 200 validation rows are wanted of 2,000; 60 people's rows are no reason for an empty validation."""
    teacher = {"endpoint": {"url": "http://localhost:1", "model": "large"}, "allowed": True, "budget_usd": 1.0}
    fields = make_spec(split={"test": 0.2, "validation": 0.1}).model_dump(exclude_unset=True)
    spec = TaskSpec.model_validate({**fields, "teacher": teacher})
    facts, _ = run(tmp_path, "a", rows(0, 60) + rows(60, 2000, origin="synthetic"), spec=spec)
    assert facts.origins["train"] == {"synthetic": 1940}
    assert 35 <= facts.counts["test"] <= 45 and facts.counts["test"] + facts.counts["validation"] == 60


def one_of(placed: dict[str, str], name: str) -> Example:
    return next(e for e in rows(0, 50) if placed[e.id] == name)


def test_a_new_row_follows_its_cluster_even_if_the_old_one_was_removed(tmp_path: Path) -> None:
    """One that no person wrote is left out where its cluster is tested."""
    _, before = run(tmp_path, "a", rows(0, 50))
    old = one_of(before, "test")
    made = example(old.user_text + " x", old.answer, line=99, origin="production")
    facts, placed = run(tmp_path, "p", [*rows(0, 50), made], clusters={made.id: old.id})
    assert placed == before and facts.by_rule == {"data.not_human_in_test_cluster": 1}
    new = example(old.user_text + " please", old.answer, line=99)
    facts, placed = run(tmp_path, "b", [old, new], clusters={new.id: old.id}, removed=(old.id,))
    assert facts.counts == {"train": 0, "validation": 0, "test": 1} and placed == {new.id: "test"}


def test_rows_between_two_splits_are_quarantined(tmp_path: Path) -> None:
    _, before = run(tmp_path, "a", rows(0, 50))
    one, two = one_of(before, "train"), one_of(before, "test")
    new = example(one.user_text + " " + two.user_text + " a@example.com", line=99)
    facts, placed = run(tmp_path, "b", [new, *rows(0, 50)], clusters={new.id: one.id, two.id: one.id})
    assert placed == before and facts.by_rule == {"data.bridges_splits": 1}
    report = read_lines(tmp_path / "b/quarantine.jsonl")
    assert (report[0]["file"], report[0]["line"], len(report)) == ("raw/a.jsonl", 99, 1)
    assert "rows of different splits" in report[0]["findings"][0]["message"]
    assert "[EMAIL_1]" in report[0]["raw"] and "a@example" not in report[0]["raw"]
    both = (one.id, two.id)  # it is better than either, so they are its repeats
    facts, placed = run(tmp_path, "c", [new, *rows(0, 50)], clusters={new.id: one.id, two.id: one.id}, removed=both)
    assert placed == {i: s for i, s in before.items() if i not in both} and facts.quarantined == 1


def test_the_newest_rows_are_the_test_when_time_decides(tmp_path: Path) -> None:
    spec = make_spec(split={"by": "time"})
    times = [f"2026-01-{1 + i // 4:02d}T00:00:{i % 4:02d}+00:00" for i in range(100)]
    timed = [row for i, time in enumerate(times) for row in rows(i, i + 1, time=time)]
    random.Random(3).shuffle(timed)
    facts, placed = run(tmp_path, "a", timed, spec)
    newest = {e.id for e in sorted(timed, key=lambda e: str(e.time))[-20:]}
    assert {i for i, s in placed.items() if s == "test"} == newest
    assert facts.counts == {"train": 70, "validation": 10, "test": 20}


GOLDEN = make_spec(split={"test": ["raw/golden*.jsonl"]})


def golden(start: int, stop: int, **more: Any) -> list[Example]:
    """Rows of a file that split.test names."""
    return rows(start, stop, source={"file": "raw/golden.jsonl", "line": 1}, **more)


def splits_of(examples: list[Example], placed: dict[str, str]) -> set[str | None]:
    return {placed.get(e.id) for e in examples}


def test_a_share_that_the_ledger_does_not_allow_is_said_with_what_to_do(tmp_path: Path) -> None:
    run(tmp_path, "a", rows(0, 100))
    wider = make_spec(split={"test": 0.4})
    facts, _ = run(tmp_path, "b", rows(0, 100), wider)
    answer = judged(facts, wider, split_sizes)
    assert not answer.passed and "test 0.200 (wanted 0.4)" in answer.message
    assert "Rows keep the split that earlier runs gave them" in answer.message and "split.restart" in answer.message


def test_the_rows_of_named_files_are_the_test(tmp_path: Path) -> None:
    own, others = golden(0, 30), rows(100, 200)
    facts, placed = run(tmp_path, "a", [*others, *own], GOLDEN)
    assert splits_of(own, placed) == {"test"} and "test" not in splits_of(others, placed)
    assert facts.counts == {"train": 90, "validation": 10, "test": 30}, "validation is a tenth of the other rows"
    assert judged(facts, GOLDEN, named_files_are_the_test).passed
    assert judged(facts, GOLDEN, split_sizes).passed
    more = golden(40, 50)
    facts, later = run(tmp_path, "b", [*others, *rows(200, 220), *own, *more], GOLDEN)
    assert splits_of(more, later) == {"test"} and {i: later[i] for i in placed} == placed


def test_rows_like_those_of_a_test_file_leave_training(tmp_path: Path) -> None:
    """Groups, prompts and near copies: the test keeps its rows, and training has none of the same."""
    own = [*golden(0, 20), *golden(20, 24, group="g"), example("the same prompt", source={"file": "raw/golden.jsonl"})]
    copy = example(own[0].user_text + " thanks", line=7)
    like = [*rows(300, 304, group="g"), example("The same prompt!", "feature_request", line=5), copy]
    others = rows(100, 200)
    facts, placed = run(tmp_path, "a", [*others, *like, *own], GOLDEN, clusters={copy.id: own[0].id})
    assert splits_of(own, placed) == {"test"} and splits_of(like, placed) == {None}
    assert facts.by_rule == {"data.like_test_row": 6} and facts.counts["test"] == 25
    result = judged(facts, GOLDEN, named_files_are_the_test)
    assert not result.passed and result.warns and "6 rows left" in result.message
    _, again = run(tmp_path, "b", [*others, *like, *own], GOLDEN, clusters={copy.id: own[0].id})
    assert again == placed, "the ledger has none of those that left"


def test_the_row_that_replaces_a_duplicate_in_a_test_file_is_tested(tmp_path: Path) -> None:
    own, kept = golden(0, 20), example(golden(0, 1)[0].user_text + " and more", line=3)
    _, placed = run(
        tmp_path, "a", [*rows(100, 200), kept, *own], GOLDEN, clusters={kept.id: own[0].id}, removed=[own[0].id]
    )
    assert placed[kept.id] == "test" and sum(split == "test" for split in placed.values()) == 20


def test_test_files_without_a_row_by_a_person_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FindingsError, match=r"(?s)match no file with valid rows.*raw/a\.jsonl"):
        run(tmp_path, "a", rows(0, 50), GOLDEN)
    with pytest.raises(FindingsError, match="rows that a person wrote"):
        run(tmp_path, "b", [*rows(0, 50), *golden(60, 70, origin="synthetic")], GOLDEN)
    facts, placed = run(tmp_path, "c", [*rows(0, 50), *golden(60, 70), *golden(70, 75, origin="synthetic")], GOLDEN)
    assert facts.counts["test"] == 10 and facts.by_rule == {"data.not_human_in_test_cluster": 5}


def test_another_test_than_that_of_the_ledger_asks_for_a_restart(tmp_path: Path) -> None:
    examples = [*rows(100, 200), *golden(0, 30)]
    _, before = run(tmp_path, "a", examples)
    facts, placed = run(tmp_path, "b", examples, GOLDEN)
    assert placed == before
    result = judged(facts, GOLDEN, named_files_are_the_test)
    assert not result.passed and not result.warns and "split.restart: true" in result.message


def test_recording_is_idempotent_and_refuses_moves(tmp_path: Path) -> None:
    facts, _ = run(tmp_path, "a", rows(0, 30))
    ledger, report = tmp_path / "ledger", assignments_in(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in ledger.glob("*.npy")}
    assert record_assignments(report, ledger) == 0 and len(read_ledger(ledger)) == 30
    report["split"][report["split"] == 2] = 0
    said = f"{facts.counts['test']} rows would move between splits: .* was in test, now train"
    with pytest.raises(RuntimeError, match=said):
        record_assignments(report, ledger)
    assert {p.name: p.read_bytes() for p in ledger.glob("*.npy")} == before


def test_a_broken_ledger_is_not_guessed_at(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    path = tmp_path / "ledger/000001.npy"
    np.save(path, np.zeros(3))
    for content in (path.read_bytes(), b"", b"no array"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"000001\.npy.*restore"):
            run(tmp_path, "a", rows(0, 5))


def test_same_input_same_files_also_once_recorded(tmp_path: Path) -> None:
    examples = rows(0, 50) + rows(50, 60, origin="production")
    files = []
    for name in "ab":
        run(tmp_path, name, examples)
        paths = [p for p in (tmp_path / name).rglob("*") if p.is_file()]
        files.append({p.relative_to(tmp_path / name): p.read_bytes() for p in paths})
    assert files[0] == files[1] and len(files[0]) == 7


TIMED = make_spec(split={"by": "time"})


def day(number: int) -> str:
    return f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T00:00:00+00:00"


def requests_by_day(start: int, stop: int) -> list[Example]:
    """Everyday requests, one a day: any two have words in common, and many are linked as similar."""
    dice = random.Random(start)
    return [example(request(dice), LABELS[i % 3], line=i, time=day(i)) for i in range(start, stop)]


def judged(facts: SplitFacts, spec: Any = TIMED, question: Check = time_decides) -> CheckResult:
    return question.ask(Artifact("tickets", "splits", "1", Path("splits"), facts.to_json(), {}), spec)


def test_time_decides_even_among_similar_rows(tmp_path: Path) -> None:
    timed = requests_by_day(0, 300)
    random.Random(3).shuffle(timed)
    facts, placed = run(tmp_path, "a", timed, TIMED)
    newest_first = sorted(timed, key=lambda e: str(e.time), reverse=True)
    assert {placed[e.id] for e in newest_first[:60]} == {"test"} and facts.counts["test"] == 60
    assert {placed.get(e.id) for e in newest_first[90:]} <= {"train", None}
    result = judged(facts)
    assert result.passed and "0 of" in result.message and facts.time_order.oldest_test == newest_first[59].time


def test_rows_without_any_time_cannot_be_split_by_it(tmp_path: Path) -> None:
    facts, _ = run(tmp_path, "a", [example(random_text(i), line=i) for i in range(50)], TIMED)
    result = judged(facts)
    assert not result.passed and not result.warns and "data.fields.time" in result.message


def test_rows_like_a_newer_test_row_leave_training_and_are_named(tmp_path: Path) -> None:
    """Older copies, edited a little, and older rows of the group of a test row; a rerun does the same."""
    timed = [example(random_text(i), line=i, time=day(i)) for i in range(100)]
    copies = [example(f"Hello, {e.user_text} thanks", line=200 + i, time=day(i)) for i, e in enumerate(timed[90:95])]
    grouped = [
        example(random_text(300 + i), line=300 + i, group="one", time=day(i % 5 + 98 * (i > 4))) for i in range(6)
    ]
    for name in "ab":
        facts, placed = run(tmp_path, name, [*timed, *copies, *grouped], TIMED)
        left = {e.id for e in [*copies, *grouped[:5]]}
        assert left.isdisjoint(placed) and placed[grouped[5].id] == "test"
        assert facts.by_rule == {"data.like_newer_row": 10} and facts.quarantined == 10
        refused = read_lines(tmp_path / name / "quarantine.jsonl")
        assert {(row["findings"][0]["rule"]) for row in refused} == {"data.like_newer_row"} and len(refused) == 10
        result = judged(facts)
        assert not result.passed and result.warns and "10 rows left" in result.message


def test_later_rounds_are_newer_than_the_first_test_and_the_share_is_stated(tmp_path: Path) -> None:
    first = [example(random_text(i), line=i, time=day(i)) for i in range(100)]
    later = [example(random_text(i), line=i, time=day(i)) for i in range(100, 200)]
    _, before = run(tmp_path, "a", first, TIMED)
    facts, after = run(tmp_path, "b", [*first, *later], TIMED)
    assert {i: after[i] for i in before} == before and facts.counts["test"] == 40
    assert {e.id for e in later if after[e.id] == "test"} == {e.id for e in later[-20:]}
    assert judged(facts).passed and facts.time_order.later_rounds == sum(after[e.id] == "train" for e in later) == 70


def test_a_placement_that_ignores_time_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check compares times by itself."""
    monkeypatch.setattr(splitting, "place_by_time", lambda *arguments: place(*arguments)[:2])
    facts, _ = run(tmp_path, "a", requests_by_day(0, 100), TIMED)
    result = judged(facts)
    assert not result.passed and not result.warns and facts.time_order.misplaced > 20


def test_rows_from_production_that_are_newer_than_the_test_are_stated(tmp_path: Path) -> None:
    people = [example(random_text(i), line=i, time=day(i)) for i in range(80)]
    logged = [example(random_text(i), line=i, time=day(i), origin="production") for i in range(80, 100)]
    facts, placed = run(tmp_path, "a", [*people, *logged], TIMED)
    assert {placed[e.id] for e in people[-20:]} == {"test"}
    assert judged(facts).passed and facts.time_order.not_human == sum(placed[e.id] == "train" for e in logged) > 0
