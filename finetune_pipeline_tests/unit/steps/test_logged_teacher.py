"""A teacher whose answers are in the logs: which of them become rows, what is left out, and that nothing else changes them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.cli.check import check_task
from finetune_pipeline.cli.review import _queue
from finetune_pipeline.data import people as people_module
from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.data.json_lines import append_decision
from finetune_pipeline.data.people import PeopleAnswers, PersonAnswer, ReviewersAgreement, erase_people, read_people
from finetune_pipeline.data.scrub import kinds_left
from finetune_pipeline.data.split.placement import expected_rows
from finetune_pipeline.engine.step import StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.reviewers import agreement_sentence, reviewers_agreement
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_markdown, plain
from finetune_pipeline.review.people_queue import progress
from finetune_pipeline.review.queues import ReviewQueue
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.outputs import JsonOutput
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.steps.teacher_rival import ask_about_test
from finetune_pipeline_tests.graph.project import rows
from finetune_pipeline_tests.skilled_model import LABELS
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation
from finetune_pipeline_tests.unit.production.test_erasure import everything


class Traffic:
    """A task without raw files; its logs hold the answers of a model named large."""

    def __init__(self, root: Path, **teacher: Any) -> None:
        self.folder, self.store = root / "colours", ArtifactStore(root / "home" / "artifacts")
        (self.folder / "logs").mkdir(parents=True)
        self.lines: list[dict[str, Any]] = []
        spec = {
            "name": "colours", "description": "The last colour named counts.", "system_prompt": "Answer red or blue.",
            "output": {"kind": "labels", "labels": LABELS}, "data": {"min_examples": 10, "min_per_label": 5},
            "teacher": {"from_logs": True, "models": ["large"], "allowed": True, **teacher},
        }  # fmt: skip
        (self.folder / "task.yaml").write_text(yaml.safe_dump(spec))

    def log(self, question: str, output: str, model: str = "large", **more: Any) -> str:
        row_id = f"r{len(self.lines)}"
        line = {"id": row_id, "timestamp": f"2026-11-01T10:{len(self.lines) // 60:02}:{len(self.lines) % 60:02}Z"}
        self.lines.append({**line, "input": question, "output": output, "model_version": model, **more})
        return str(self.lines[-1]["id"])

    def answer(self, people: list[dict[str, Any]]) -> None:
        """Add rows that people answered to the raw files."""
        (self.folder / "raw").mkdir()
        (self.folder / "raw" / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in people))

    def run(self, last: str = "teacher_answers") -> dict[str, Artifact]:
        (self.folder / "logs" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        task, names = load_task(self.folder), list(PIPELINE.steps)
        inputs = collect_run_inputs(task, None, self.store)
        return {
            name: PIPELINE.run(name, task, inputs, self.store)
            for name in names[: names.index(last) + 1]
            if not PIPELINE.steps[name].view_of
        }


def kept(artifacts: dict[str, Artifact]) -> dict[str, Example]:
    """The rows that the teacher's answers become, by the user's text."""
    return {e.user_text: e for e in read_examples(artifacts["teacher_answers"].path("examples.jsonl"))}


def test_uncorrected_answers_of_the_named_model_become_rows_and_others_are_counted(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.log("fire", "red")
    traffic.log("the sea", "blue", feedback={"correction": "red"})
    traffic.log("The sea!", "blue")  # the same question, which a person has answered
    traffic.log("sky", "red", feedback={"flag": "wrong"})
    traffic.log("rose", "I think red")
    traffic.log("ember", "red", model="colours:3")
    traffic.log("lake", "red", model="colours:3", answered_by="large", passed_on=True)
    traffic.log("river", "blue", model="colours:3", answered_by="refusal", passed_on=True)
    artifacts = traffic.run()
    facts = artifacts["unlabelled_rows"].facts
    assert (facts["rows_in"], facts["kept"], facts["quarantined"], facts["repeats"]) == (6, 3, 3, 0)
    assert facts["by_reason"] == {"corrected": 2, "objected": 1}
    answers = artifacts["teacher_answers"].facts
    assert (answers["kept"], answers["by_reason"], answers["calls"], answers["spent_usd"]) == (2, {"form": 1}, 0, 0.0)
    taught = kept(artifacts)
    assert {text: e.label for text, e in taught.items()} == {"fire": "red", "lake": "red"}
    assert {(e.origin, e.generator) for e in taught.values()} == {("synthetic", "teacher large")}
    assert taught["fire"].tags == ["log:r0", "agreement:1.00"]


def test_several_answers_to_a_question_agree_or_leave_it_out(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path, models=["large", "larger"])
    for answer, model in (("blue", "larger"), ("red", "large"), ("red", "larger")):
        traffic.log("Fire?", answer, model=model)
    traffic.log("dusk", "red")
    traffic.log("Dusk.", "blue")
    artifacts = traffic.run()
    assert artifacts["unlabelled_rows"].facts["repeats"] == 3
    assert artifacts["teacher_answers"].facts["by_reason"] == {"agreement": 1}
    (example,) = kept(artifacts).values()
    assert (example.label, example.generator) == ("red", "teacher large")
    assert example.tags == ["log:r0", "log:r1", "log:r2", "agreement:0.67"]


def test_rows_of_other_models_change_nothing_and_new_answers_do(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.log("fire", "red")
    before = traffic.run("unlabelled_rows")["unlabelled_rows"].version
    traffic.log("ice", "blue", model="other")
    assert traffic.run("unlabelled_rows")["unlabelled_rows"].version == before
    traffic.log("ice", "blue")
    assert traffic.run("unlabelled_rows")["unlabelled_rows"].version != before


def test_a_log_without_the_teacher_is_refused_and_its_models_are_named(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    traffic.log("fire", "red", model="small")
    with pytest.raises(FindingsError, match=r"no row of the logs is an answer of large; they hold small \(1 rows\)"):
        traffic.run()


def test_people_answer_the_sealed_splits_and_the_teacher_only_trains(tmp_path: Path) -> None:
    """Also what a person corrected in the logs is for training: people correct what is wrong, which is no random sample."""
    traffic, every = Traffic(tmp_path), rows(180)
    for number, row in enumerate(every[60:]):
        confirmed = {"feedback": {"correction": row["label"]}} if number < 20 else {}
        traffic.log(row["text"], row["label"], **confirmed)
    with pytest.raises(FindingsError, match="none of 120 rows is answered by people") as refused:
        traffic.run("splits")
    assert "take the first 52 of them" in str(refused.value) and "review colours --what test" in str(refused.value)
    traffic.answer(every[:60])
    origins = traffic.run("splits")["splits"].facts["origins"]
    assert set(origins["test"]) == set(origins["validation"]) == {"human"}
    assert (origins["train"]["synthetic"], origins["train"]["production"]) == (100, 20)


def test_the_rival_is_looked_up_and_rows_without_its_answer_are_counted(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path)
    every = rows(40)
    for number, row in enumerate(every[:30]):
        answer = row["label"] if number % 10 else LABELS[1 - LABELS.index(row["label"])]
        traffic.log(row["text"], answer, feedback={"correction": row["label"]})
    artifacts = traffic.run("production_logs")
    people = [
        Example(
            f"{i:016x}",
            [{"role": "user", "content": row["text"].upper()}, {"role": "assistant", "content": row["label"]}],
            label=row["label"],
        )
        for i, row in enumerate(every)
    ]
    write_examples(tmp_path / "people.jsonl", people)
    task, out = load_task(traffic.folder), tmp_path / "out"
    out.mkdir()
    inputs = collect_run_inputs(task, None, traffic.store)
    context = StepContext(task, inputs, artifacts, Builder(out, out / "work"), traffic.store, no_tool, no_tool)
    asked = ask_about_test(context, tmp_path / "people.jsonl")
    assert asked is not None
    assert (asked.missing, asked.kept, asked.kept_wrong, asked.spent_usd, asked.dollars_per_1k) == (
        10,
        30,
        3,
        0.0,
        None,
    )
    answers = read_predictions(out / "teacher.parquet")
    assert len(answers) == 30 and sum(row["text"] != row["gold"] for row in answers) == 3


def test_forgetting_a_person_reaches_the_rows_that_a_teacher_answered(tmp_path: Path) -> None:
    """Also where the person's question is a repeat of another person's."""
    traffic = Traffic(tmp_path)
    every = rows(120)
    traffic.answer(every[60:])
    for number, row in enumerate(every[:60]):
        traffic.log(row["text"], row["label"], user=f"u{number}")
    traffic.log(f"  {every[50]['text'].upper()}", every[50]["label"], user="anna")
    before = traffic.run("splits")
    store, task = traffic.store, load_task(traffic.folder)
    os.utime(traffic.folder / "logs" / "a.jsonl", (1, 1))  # nobody is writing to it
    result = forget(task, store, ["anna"])
    gone = {name.split("/")[0] for name in result.artifacts}
    assert {"unlabelled_rows", "teacher_answers", "raw_examples", "splits"} <= gone
    assert result.splits == [before["splits"].version] and all(searched.left == 0 for searched in result.searched)
    after = traffic_again(traffic)
    tags = [tag for e in read_examples(examples_of(after["splits"].folder, "train")) for tag in e.tags]
    assert "log:r50" in tags and "log:r60" not in tags


def traffic_again(traffic: Traffic) -> dict[str, Artifact]:
    """The data stage once more, from the log files as they are."""
    files = (traffic.folder / "logs" / "a.jsonl").read_text().splitlines()
    traffic.lines = [json.loads(line) for line in files]
    return traffic.run("splits")


def review(traffic: Traffic, rater: str, answers: dict[str, str]) -> ReviewQueue:
    """Hand in answers by question, as the page does. Returns the queue as it was before."""
    task = load_task(traffic.folder)
    queue = _queue(task, "test", 100, rater, taking=False)
    names = {item["blocks"][0]["text"]: item["id"] for item in queue.items}
    for question, answer in answers.items():
        line, problems = queue.take({"id": names[question], "decision": "answer", "answer": answer, "reviewer": rater})
        assert line is not None, problems
        append_decision(queue.target(rater), line)
    return queue


@pytest.fixture
def traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Traffic in the home that commands use."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return Traffic(tmp_path)


def test_people_answer_questions_of_the_logs_also_those_that_the_teacher_got_wrong(traffic: Traffic) -> None:
    traffic.log("fire", "red")
    traffic.log("the sea", "red", feedback={"correction": "blue"})
    traffic.log("sky", "red", feedback={"flag": "wrong"})
    traffic.log("Fire!", "red")
    traffic.log("ember", "red", model="colours:3")
    traffic.run()
    queue = review(traffic, "Ada", {"the sea": "blue", "fire": "red"})
    assert sorted(item["blocks"][0]["text"] for item in queue.items) == ["fire", "sky", "the sea"]
    said = {line["messages"][-1]["content"]: queue.reveal(line) for line in people_lines(traffic)}
    assert said == {"the sea": "red\n\nYour answer is stored and counts: blue", "fire": ""}
    facts = traffic.run()["unlabelled_rows"].facts
    assert facts["by_reason"] == {"judges": 3, "objected": 1} and facts["kept"] == 0
    traffic.lines.insert(0, {**traffic.lines[0], "id": "early", "input": "FIRE", "timestamp": "2026-10-01T10:00:00Z"})
    assert [item["blocks"][0]["text"] for item in review(traffic, "Ada", {}).items] == ["sky"], "asked again"


def people_lines(traffic: Traffic) -> list[dict[str, Any]]:
    files = sorted((traffic.folder / "people").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_forgetting_a_person_reaches_what_people_answered_to_their_rows(traffic: Traffic) -> None:
    every = rows(60)
    for number, row in enumerate(every):
        traffic.log(row["text"], row["label"], user=f"u{number}")
    traffic.log("annas secret rose is red", "red", user="anna")
    traffic.run()
    answers = {row["text"]: row["label"] for row in every[:40]} | {"annas secret rose is red": "red"}
    queue = review(traffic, "Ada", answers)
    late = next(item["id"] for item in queue.items if item["blocks"][0]["text"].startswith("annas"))
    before, task = traffic.run("splits"), load_task(traffic.folder)
    assert b"annas secret" in everything(traffic.folder.parent)
    origins = before["splits"].facts["origins"]
    assert origins["test"].get("human") and not origins["test"].get("synthetic")
    os.utime(traffic.folder / "logs" / "a.jsonl", (1, 1))
    traffic.lines.pop()
    ada = traffic.folder / "people" / "Ada.jsonl"
    with ada.open("ab") as out:
        out.write(b'{"id": "cut')  # by a kill
    result = forget(task, traffic.store, ["anna"])
    assert {s.store: (s.found, s.left) for s in result.searched}["lines of people/"] == (1, 0)
    assert result.unclear == [f"{ada}:42"] and ada.read_bytes().endswith(b'{"id": "cut')
    assert b"annas secret" not in everything(traffic.folder.parent)
    line, problems = queue.take({"id": late, "decision": "answer", "answer": "red", "reviewer": "Bo"})
    assert line is None and problems == ["this row was forgotten meanwhile: load the page again"]
    after = traffic_again(traffic)
    judged = read_examples(examples_of(after["splits"].folder, "validation"))
    assert judged and all(e.origin == "human" and e.tags[0].startswith("log:r") for e in judged)
    assert sum(line.endswith(b"}") for line in ada.read_bytes().splitlines()) == 40, "nobody else's answer is lost"
    assert b"annas secret" not in everything(traffic.folder.parent)


@pytest.mark.parametrize("call", ["copymode", "fsync", "replace", "sync_folder"])
def test_killed_while_peoples_answers_are_erased_and_repeated(traffic: Traffic, monkeypatch: Any, call: str) -> None:
    traffic.log("fire", "red", user="bo")
    traffic.log("annas rose", "red", user="anna")
    traffic.run("production_logs")
    review(traffic, "Ada", {"fire": "red", "annas rose": "red"})
    os.utime(traffic.folder / "logs" / "a.jsonl", (1, 1))

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        owner = {"copymode": people_module.shutil, "sync_folder": people_module}.get(call, people_module.os)
        patch.setattr(owner, call, dies)
        erase_people(traffic.folder, lambda source: source.id == "r0")
    assert len(people_lines(traffic)) == (1 if call == "sync_folder" else 2), "a file has all lines or none of them"
    forget(load_task(traffic.folder), traffic.store, ["anna", "bo"])
    assert people_lines(traffic) == [] and b"annas rose" not in everything(traffic.folder)
    assert [path.name for path in (traffic.folder / "people").iterdir()] == ["Ada.jsonl"]


@pytest.mark.parametrize(
    ("generator", "file", "left"),
    [("teacher large", "a", []), ("script", "a", ["email"]), (None, "people.jsonl", []), (None, "a", ["email"])],
)
def test_the_id_of_a_log_row_stays_though_it_looks_like_an_address(
    generator: str | None, file: str, left: list[str]
) -> None:
    messages = [{"role": "user", "content": "fire"}, {"role": "assistant", "content": "red"}]
    source = {"file": file, "line": 1}
    origin = "synthetic" if generator else "human"
    example = Example("0" * 16, messages, None, None, origin, source, ["log:anna.meier@web.de"], generator=generator)
    assert kinds_left(example) == left


def test_only_peoples_rows_count_as_test_rows_before_there_are_splits(traffic: Traffic) -> None:
    every = rows(160)
    traffic.answer(every[:40])
    for row in every[40:]:
        traffic.log(row["text"], row["label"])
    reviewed = traffic.run("reviewed_examples")["reviewed_examples"]
    spec, examples = load_task(traffic.folder).spec, read_examples(reviewed.folder)
    expected = expected_rows(spec, examples)
    assert len(examples) == 160 and sum(expected) == 40
    counts = traffic.run("splits")["splits"].facts["counts"]
    assert abs(counts["validation"] - expected[0]) <= 4 and abs(counts["test"] - expected[1]) <= 4, (counts, expected)
    without = spec.model_copy(update={"teacher": None})
    assert expected_rows(without, examples) == (16, 32)
    some = spec.model_copy(update={"split": spec.split.model_copy(update={"test": ["raw/*", "teacher.jsonl"]})})
    assert expected_rows(some, examples)[1] == 40
    checked = check_task(traffic.folder, traffic.store, traffic.folder / "checks")
    assert checked.power is not None and checked.power.test_rows == expected[1]
    assert "examples in all" not in checked.power.sentence


def agreement_in(traffic: Traffic) -> tuple[ReviewersAgreement | None, dict[str, str]]:
    """The agreement that a run's report says, and the versions of this run's steps."""
    task = load_task(traffic.folder)
    inputs = collect_run_inputs(task, None, traffic.store)
    return inputs.agreement and ReviewersAgreement.of(inputs.agreement), PIPELINE.versions(task, inputs, traffic.store)


def test_the_report_says_how_far_the_people_agree_who_answered_its_rows(traffic: Traffic) -> None:
    """As the page of the rows says it: of their first answers, before they settled. Where they only agree, no step before the
    report is made again."""
    every = rows(40)
    for row in every:
        traffic.log(row["text"], row["label"])
    right = {row["text"]: row["label"] for row in every}
    traffic.run("production_logs")
    shared = [item["blocks"][0]["text"] for item in review(traffic, "Ada", right).items][::5]
    nobody, before = agreement_in(traffic)
    review(traffic, "Bo", {text: right[text] for text in shared[1:]})
    alike, after = agreement_in(traffic)
    assert nobody is None and alike is not None and (alike.rows, alike.same) == (7, 7)
    assert {step for step in after if after[step] != before[step]} == {"evaluation_report", "model_version"}
    review(traffic, "Bo", {shared[0]: LABELS[1 - LABELS.index(right[shared[0]])]})
    agreement, _ = agreement_in(traffic)
    assert agreement is not None and (agreement.rows, agreement.same) == (8, 7)
    assert agreement.kappa is not None and 0 < agreement.kappa < 1 and agreement.interval is not None
    task = load_task(traffic.folder)
    said = agreement_sentence(agreement)
    assert said.startswith(f"Two people answered 8 rows, 7 of them alike (kappa {agreement.kappa:.2f}, ")
    assert said in progress(read_people(task.folder, task.spec), task.spec)
    pages = [page_markdown(evaluation_page(evaluation(agreement=facts), [])) for facts in (agreement.to_json(), None)]
    assert [f"People answered the rows of validation and test. {plain(said)}" in page for page in pages] == [
        True,
        False,
    ]


def test_equal_json_is_the_same_answer_of_two_people_and_many_answers_are_counted_quickly(tmp_path: Path) -> None:
    """Kappa counts two answers as same where the number of rows answered alike does, and takes no table of all answers by all."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    spec = load_task(Traffic(tmp_path).folder).spec.model_copy(
        update={"output": JsonOutput(kind="json", json_schema=schema)}
    )
    people = PeopleAnswers()
    for n in range(500):
        for name, answer in (("Ada", f'{{"a": {n}, "b": 1}}'), ("Bo", f'{{"b": 1, "a": {n + n % 2}}}')):
            people.first[f"{n:016x}"][name] = PersonAnswer(f"{n:016x}", [], "answer", name, answer)
    agreement = reviewers_agreement(people, spec)
    assert agreement is not None and (agreement.rows, agreement.same) == (500, 250)
    assert agreement.kappa == pytest.approx(0.5, abs=0.01) and agreement.interval is not None
    assert 0.44 < agreement.interval[0] < agreement.interval[1] < 0.56
