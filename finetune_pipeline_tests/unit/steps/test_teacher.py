"""A teacher behind a real server: what it is asked, what is kept, what it costs; and that its rows judge nothing."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.data.examples import (
    Example,
    decode_examples,
    examples_of,
    read_examples,
    seal_key,
    unseal,
    write_examples,
)
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.engine.step import StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.decisions import TeacherRival
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.result_parts import Primary
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher, surely_worse_labels
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.steps.teacher import identity_of
from finetune_pipeline.steps.teacher_rival import ask_about_test
from finetune_pipeline_tests.graph.project import rows
from finetune_pipeline_tests.hosted_schedules import processes
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.skilled_model import LABELS, truth
from finetune_pipeline_tests.unit.evaluation.fake_run import report_facts

PRICE = {"input": 10.0, "output": 30.0}
"""Dollars per million tokens; a call of the test server takes 7 and 3 tokens."""
CALL_USD = (7 * PRICE["input"] + 3 * PRICE["output"]) / 1e6
KEY = "sk-test-teacher"
KILLS = 6


class Class:
    """A task with rows by people, unlabelled rows and a teacher."""

    def __init__(self, root: Path, url: str, people: int = 60, unlabelled: int = 90, **teacher: Any) -> None:
        self.folder, self.store = root / "colours", ArtifactStore(root / "home" / "artifacts")
        for name in ("raw", "unlabelled"):
            (self.folder / name).mkdir(parents=True)
        every = rows(people + unlabelled)
        self.write("raw/people.jsonl", every[:people])
        self.write("unlabelled/a.jsonl", [{"text": row["text"]} for row in every[people:]])
        line = {"engine": "test", "model": "large", "date": "2026-12-01", "note": "made up", "unit": "million_served"}
        (self.folder / "prices.yaml").write_text(json.dumps([{**line, **PRICE}]))
        self.spec: dict[str, Any] = {
            "name": "colours", "description": "The last colour named counts.", "system_prompt": "Answer red or blue.",
            "output": {"kind": "labels", "labels": LABELS},
            "data": {"min_examples": 10, "min_per_label": 5, "unlabelled": ["unlabelled/*"]},
            "teacher": {
                "endpoint": {"url": url, "model": "large", "key_variable": "TEACHER_KEY", "tries": 1},
                "allowed": True, "budget_usd": 5.0, **teacher,
            },
        }  # fmt: skip
        self.write_spec()

    def write(self, name: str, examples: list[dict[str, Any]]) -> None:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in examples))

    def write_spec(self) -> None:
        (self.folder / "task.yaml").write_text(yaml.safe_dump(self.spec))

    def run(self, step: str = "splits", **tools: Any) -> Mapping[str, Artifact]:
        """The artifacts of the data stage up to a step, made with tools, as in `finetune run`."""
        task = load_task(self.folder)
        inputs, names = collect_run_inputs(task, None, self.store), list(PIPELINE.steps)
        made = names[: names.index(step) + 1]
        return {
            name: PIPELINE.run(name, task, inputs, self.store, **(tools or {"launch": lambda job: {}}))
            for name in made
            if not PIPELINE.steps[name].view_of
        }

    def made(self, step: str, inputs: dict[str, str], facts: dict[str, Any]) -> Artifact:
        """An artifact of a step with these facts."""

        def make(builder: Builder) -> None:
            builder.facts.update(facts)

        return self.store.build("colours", step, code_version="1", inputs=inputs, settings=None, make=make)

    def held_back(self, artifacts: Mapping[str, Artifact]) -> list[str]:
        task = load_task(self.folder)
        results = {
            check.name: check.holds_back(artifacts[step], task.spec) for step, check in CHECKS if step in artifacts
        }
        return [name for name, result in results.items() if result]


def user(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def wrong(label: str) -> str:
    return LABELS[1 - LABELS.index(label)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)


def splits_of(artifacts: Mapping[str, Artifact], name: str) -> list[Example]:
    return read_examples(examples_of(artifacts["splits"].folder, name))


def test_texts_become_synthetic_training_rows_and_people_keep_the_sealed_splits(tmp_path: Path) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url)
        artifacts = lesson.run()
    assert not lesson.held_back(artifacts)
    facts = artifacts["teacher_answers"].facts
    assert (facts["rows_in"], facts["kept"], facts["left_out"], facts["by_reason"]) == (90, 90, 0, {})
    assert facts["spent_usd"] == pytest.approx(270 * CALL_USD) and len(server.requests) == facts["calls"] == 270
    temperatures = Counter(body["temperature"] for body in server.requests)
    assert temperatures == {0: 90, 1: 180} and server.requests[0]["key"] == f"Bearer {KEY}"
    counts, origins = artifacts["splits"].facts["counts"], artifacts["splits"].facts["origins"]
    assert origins == {"train": {"human": 9, "synthetic": 90}, "validation": {"human": 20}, "test": {"human": 31}}
    assert sum(counts.values()) == 150
    taught = [e for e in splits_of(artifacts, "train") if e.origin == "synthetic"]
    assert {e.generator for e in taught} == {"teacher large"} and all(e.label == truth(e.user_text) for e in taught)
    assert {tag for e in taught for tag in e.tags} == {"agreement:1.00"}


def test_what_the_teacher_disagrees_on_and_answers_out_of_form_is_left_out_and_counted(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        number = int(user(body).rsplit(" ", 1)[1]) % 5
        answer = truth(user(body))
        if number == 0:
            return f"I would say {answer}."
        if number == 1 and body["temperature"]:
            return wrong(answer)  # two of three disagree with the first: the majority decides
        if number == 2 and body["temperature"]:
            return answer if seen else "green"
        if number == 3:
            return completion(answer, "content_filter")
        return answer

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, unlabelled=50, min_agreement=0.9)
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
    assert facts["by_reason"] == {"form": 10, "filtered": 10, "agreement": 20} and facts["kept"] == 10
    assert facts["agreement"] == {"0.00": 10, "0.67": 20, "1.00": 20}


def test_nothing_is_bought_twice_and_more_rows_cost_only_themselves(tmp_path: Path) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url, rows=40)
        lesson.run("teacher_answers")
        assert len(server.requests) == 120
        lesson.spec["teacher"] |= {"rows": 60, "min_agreement": 1.0}
        lesson.write_spec()
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert len(server.requests) == 180 == facts["calls"] and facts["spent_usd"] == pytest.approx(180 * CALL_USD)


def test_a_command_that_only_looks_buys_nothing(tmp_path: Path) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url)
        with pytest.raises(FindingsError, match="270 answers of the teacher are not bought yet"):
            lesson.run("teacher_answers", launch=no_tool)
        assert server.requests == []
        lesson.run("unlabelled_rows")
        bought = lesson.run("teacher_answers")["teacher_answers"]
        assert lesson.run("teacher_answers", launch=no_tool)["teacher_answers"].version == bought.version


def answers_about_test(lesson: Class, root: Path) -> tuple[AskedTeacher, Path]:
    """Ask about 100 rows of people as about a sealed test; returns the facts and the folder of the answers."""
    people = [
        Example(
            f"{i:016x}",
            [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}],
            label=row["label"],
        )
        for i, row in enumerate(rows(102)[:100])
    ]
    write_examples(root / "people.jsonl", people)
    task, out = load_task(lesson.folder), root / "out"
    out.mkdir(exist_ok=True)
    inputs = collect_run_inputs(task, None, lesson.store)
    context = StepContext(task, inputs, {}, Builder(out, out / "work"), lesson.store, no_tool, no_tool)
    asked = ask_about_test(context, root / "people.jsonl")
    assert asked is not None
    return asked, out


@pytest.mark.parametrize("share", [0, 20, 10, 5])
def test_the_noise_of_the_teachers_rows_is_estimated_from_peoples_rows(tmp_path: Path, share: int) -> None:
    """Every share-th answer is wrong; the first answer and what it costs are the rival's."""

    def mind(body: dict[str, Any], seen: int) -> Any:
        number, right = int(user(body).rsplit(" ", 1)[1]), truth(user(body))
        if number == 7:
            return completion(None, "content_filter")
        return wrong(right) if share and number % share == 0 else right

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, people=100, unlabelled=2)
        asked, out = answers_about_test(lesson, tmp_path)
        assert answers_about_test(lesson, tmp_path)[0] == asked and len(server.requests) == 300
    assert (asked.kept, asked.kept_wrong) == (99, 100 // share if share else 0)
    assert asked.dollars_per_1k == pytest.approx(1000 * CALL_USD) and asked.spent_usd == pytest.approx(300 * CALL_USD)
    answers = read_predictions(out / "teacher.parquet")
    assert Counter(row["status"] for row in answers) == {"ok": 99, "empty": 1}
    assert sum(row["text"] == row["gold"] for row in answers) == 99 - asked.kept_wrong


@pytest.mark.parametrize(("label", "worse"), [("red", ["red"]), (None, [])])
def test_a_label_on_which_the_teacher_errs_is_named(tmp_path: Path, label: str | None, worse: list[str]) -> None:
    """Of the rows of one label every third is answered wrong; without one, every sixth of all rows. The rows are kept all the same:
    a teacher that always errs in the same way agrees with itself."""

    def mind(body: dict[str, Any], seen: int) -> Any:
        number, right = int(user(body).rsplit(" ", 1)[1]), truth(user(body))
        every = 6 if label is None else 3 if right == label else 0
        return wrong(right) if every and number // 2 % every == 0 else right

    with openai_server(mind) as server:
        asked = answers_about_test(Class(tmp_path, server.url, people=100, unlabelled=2), tmp_path)[0]
    assert (asked.kept, sum(errors.n for errors in asked.by_label)) == (100, 100)
    assert asked.kept_wrong == sum(errors.wrong for errors in asked.by_label) >= 12
    surely = surely_worse_labels(asked.by_label, 0.05)
    assert [errors.label for errors in surely] == worse and all(errors.instead == "blue" for errors in surely)


@pytest.mark.parametrize(
    ("beaten_by", "prompt", "buys"), [(["TF-IDF"], None, False), (["TF-IDF"], "Other", True), ([], None, True)]
)
def test_no_more_is_bought_of_a_teacher_that_a_simple_model_beats(
    tmp_path: Path, beaten_by: list[str], prompt: str | None, buys: bool
) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url, rows=10)
        lesson.run("teacher_answers")
        digest = identity_of(load_task(lesson.folder).spec)
        asked = AskedTeacher(
            name="t", asked=digest, dollars_per_1k=1.0, milliseconds=None, kept=20, kept_wrong=2, spent_usd=0.1
        )
        sealed = SealedAnswers(rows=0, sets={}, kinds={}, champion={}, api=None, teacher=asked, untrained="")
        predictions = lesson.made("test_predictions", {}, sealed.to_json())
        rival = TeacherRival(
            name="t", n=9, score=Primary(name="accuracy"), comparison=None, decision=None, beaten_by=beaten_by
        )
        judged = report_facts(teacher=rival.to_json())
        lesson.made("evaluation_report", {"test_predictions": predictions.version}, judged)
        assert lesson.run("teacher_answers")["teacher_answers"].reused, "what is bought is kept"
        lesson.spec["teacher"] |= {"rows": 20, **({"prompt": prompt} if prompt else {})}
        lesson.write_spec()
        if buys:
            assert lesson.run("teacher_answers")["teacher_answers"].facts["kept"] == 20
        else:
            assert "TF-IDF is surely better than the teacher" in refused(lesson)
            assert len(server.requests) == 30


def refused(lesson: Class, error: type[Exception] = JobError) -> str:
    with pytest.raises(error) as raised:
        lesson.run("teacher_answers")
    return str(raised.value)


def test_every_refusal_comes_before_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url)

        def with_teacher(**changes: Any) -> str:
            spec = json.loads(json.dumps(lesson.spec))
            lesson.spec["teacher"] |= changes
            lesson.write_spec()
            message = refused(lesson, ValueError)
            lesson.spec = spec
            lesson.write_spec()
            return message

        assert "read the provider's terms" in with_teacher(allowed=False)
        assert "270 calls would cost about $0.1" in (message := with_teacher(budget_usd=0.02))
        assert "nothing was sent" in message and "calls fit" in message
        endpoint = lesson.spec["teacher"]["endpoint"]
        assert "has no price of 'huge'" in with_teacher(endpoint={**endpoint, "model": "huge"})
        assert "neither https nor on this machine" in with_teacher(
            endpoint={**endpoint, "url": "http://example.com/v1"}
        )
        monkeypatch.delenv("TEACHER_KEY")
        assert "TEACHER_KEY is not set" in refused(lesson)
        assert server.requests == []


def test_an_endpoint_that_goes_down_at_call_700_stops_the_run_and_the_next_one_pays_for_the_rest(
    tmp_path: Path,
) -> None:
    up = 700

    def mind(body: dict[str, Any], seen: int) -> Any:
        return truth(user(body)) if len(server.requests) <= up else (429, {"Retry-After": "0"}, b"down")

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, unlabelled=750, answers=1)
        message = refused(lesson)
        kept = re.search(r"refused: 429.* ([0-9]+) answers are kept, and \$0\.1[1-3] spent so far", message, re.DOTALL)
        rest = re.search(r"`finetune run colours` buys the other ([0-9]+) only", message)
        assert kept and rest, message
        assert 705 <= len(server.requests) <= 715, "five failures in a row end the run"
        # of calls under way when the run ended nobody knows whether they were paid for: they count, and are not sent again
        interrupted = 750 - int(kept[1]) - int(rest[1])
        assert 697 <= int(kept[1]) <= 700 and 0 <= interrupted <= 3
        answered, up = len(server.requests), 10_000
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        assert len(server.requests) - answered == int(rest[1]) and facts["kept"] == 750 - interrupted
        assert facts["spent_usd"] >= (750 - interrupted) * CALL_USD - 1e-9


SCHEMA = {"type": "object", "properties": {"colour": {"enum": LABELS}}, "required": ["colour"]}


def in_json(folder: Path, url: str, body: Mapping[str, Any] | None = None) -> Class:
    """A teacher of answers in JSON, without rows by people. body: more of each request."""
    lesson = Class(folder, url, answers=1)
    lesson.write("raw/people.jsonl", [])
    lesson.spec["output"] = {"kind": "json", "json_schema": SCHEMA}
    lesson.spec["teacher"]["endpoint"]["body"] = dict(body or {})
    lesson.write_spec()
    return lesson


@pytest.mark.parametrize(("decodes", "given"), [(True, {}), (False, {}), (True, {"response_format": None})])
def test_a_server_that_can_decodes_json_under_the_schema_and_another_is_asked_without(
    tmp_path: Path, decodes: bool, given: dict[str, Any]
) -> None:
    """What was bought either way is not bought again."""

    def mind(body: dict[str, Any], seen: int) -> Any:
        if "response_format" in body and not decodes:
            return 400, {}, b"response_format json_schema is not supported"
        return json.dumps({"colour": truth(user(body))})

    with openai_server(mind) as server:
        lesson = in_json(tmp_path, server.url, given)
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        asked = [body.get("response_format") for body in server.requests]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
        if given:
            assert asked == [None] * 90
        elif decodes:
            assert asked == [form] * 90
        else:
            refusals = [sent for sent in asked if sent is not None]
            assert refusals == [form] * len(refusals) and 1 <= len(refusals) <= 4 and len(asked) == 90 + len(refusals)
        assert ("does not decode under the schema (refused: 400" in facts["sentence"]) is not decodes
        assert (facts["kept"], facts["calls"]) == (90, 90) and facts["spent_usd"] == pytest.approx(90 * CALL_USD)
        sent = len(server.requests)
        lesson.spec["teacher"] |= {"min_agreement": 0.9}
        lesson.spec["teacher"]["endpoint"]["body"] = given
        lesson.write_spec()
        assert lesson.run("teacher_answers")["teacher_answers"].facts["kept"] == 90 and len(server.requests) == sent


def test_a_row_that_is_refused_does_not_end_the_decoding_under_the_schema(tmp_path: Path) -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        if len(server.requests) == 40:
            return 400, {}, b"too long"
        return json.dumps({"colour": truth(user(body))})

    with openai_server(mind) as server:
        facts = in_json(tmp_path, server.url).run("teacher_answers")["teacher_answers"].facts
        assert all("response_format" in body for body in server.requests) and len(server.requests) == 90
        assert facts["by_reason"] == {"refused": 1}


def test_killed_at_any_call_nothing_is_paid_twice_and_the_budget_holds(tmp_path: Path) -> None:
    """Processes that buy answers are killed while they do, until one ends."""
    pace = 0.01

    def mind(body: dict[str, Any], seen: int) -> Any:
        time.sleep(pace)
        return truth(user(body))

    with openai_server(mind) as server:
        lesson = Class(tmp_path, server.url, unlabelled=60, budget_usd=1.0)
        kills = 0
        for number in range(KILLS):
            process = processes().Process(target=buy, args=(tmp_path,))
            process.start()
            wanted = len(server.requests) + 5 + number
            while len(server.requests) < wanted and process.is_alive():
                time.sleep(0.002)
            process.kill()
            process.join()
            kills += process.exitcode == -9
        assert kills == KILLS
        facts = lesson.run("teacher_answers")["teacher_answers"].facts
        drawn = Counter((user(body), body["temperature"]) for body in server.requests)
        assert all(n <= (2 if temperature else 1) for (_, temperature), n in drawn.items()), "a call was sent twice"
        sent = len(server.requests)
        assert 180 - 4 * kills <= sent <= 180 and facts["kept"] + facts["left_out"] == 60
        # four calls under way at each kill, so at most two rows with two of their three answers lost
        assert facts["by_reason"].get("interrupted", 0) <= 2 * kills and facts["kept"] >= 60 - 2 * kills
        assert sent * CALL_USD <= facts["spent_usd"] <= 1.0


def buy(root: Path) -> None:
    """Buy the answers of the task below `root`, as `finetune run` does."""
    os.environ["TEACHER_KEY"] = KEY  # the server of processes may have started before this test, without it
    task, store = load_task(root / "colours"), ArtifactStore(root / "home" / "artifacts")
    inputs = collect_run_inputs(task, None, store)
    for name in ("production_logs", "unlabelled_rows", "teacher_answers"):
        PIPELINE.run(name, task, inputs, store, launch=lambda job: {})


@pytest.mark.parametrize("splits", [{}, {"test": ["raw/people.jsonl"]}])
def test_a_planted_teacher_row_never_reaches_the_sealed_splits(tmp_path: Path, splits: dict[str, Any]) -> None:
    """Rows that a model wrote stand in people's files and repeat people's texts; the ledger has some of them in the test."""
    with openai_server(lambda body, seen: truth(user(body))) as server:
        lesson = Class(tmp_path, server.url, people=120, unlabelled=60)
        lesson.spec["split"] = splits
        people = rows(180)[:120]
        planted = [{**row, "text": f"{row['text']} indeed", "origin": "synthetic", "generator": "m"} for row in people]
        if splits:
            lesson.write("raw/more.jsonl", [{**row, "text": f"{row['text']} {row['text']}"} for row in people[:40]])
        lesson.write("raw/people.jsonl", [*people, *planted])
        lesson.write("unlabelled/a.jsonl", [{"text": row["text"].upper()} for row in people] + rows(180)[120:])
        lesson.write_spec()
        first = lesson.run()
        test = {e.id for e in splits_of_sealed(lesson, first)}
        assert test
        lesson.write(
            "raw/people.jsonl", [*people[:60], *planted]
        )  # what repeats a row that is gone takes no place of it
        second = lesson.run()
    for artifacts in (first, second):
        origins = artifacts["splits"].facts["origins"]
        assert "synthetic" not in origins["test"] and "synthetic" not in origins["validation"], origins
        assert origins["train"]["synthetic"] > 0
        assert {e.origin for e in splits_of(artifacts, "validation")} <= {"human"}


def splits_of_sealed(lesson: Class, artifacts: Mapping[str, Artifact]) -> list[Example]:
    key = seal_key(load_key(lesson.store.root / "scrubbing.key"))
    return decode_examples(unseal(examples_of(artifacts["splits"].folder, "test").read_bytes(), key))
