"""A teacher whose answers are in the logs: which of them become rows, what is left out, and that nothing else changes them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.data.scrub import kinds_left
from finetune_pipeline.engine.step import StepContext, no_tool
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.production.erasure import forget
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.steps.teacher_rival import ask_about_test
from finetune_pipeline_tests.graph.project import rows
from finetune_pipeline_tests.skilled_model import LABELS


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
    assert "take the first 52 of them" in str(refused.value)
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


@pytest.mark.parametrize(("generator", "left"), [("teacher large", []), ("script", ["email"])])
def test_the_id_of_a_log_row_stays_though_it_looks_like_an_address(generator: str, left: list[str]) -> None:
    messages = [{"role": "user", "content": "fire"}, {"role": "assistant", "content": "red"}]
    example = Example("0" * 16, messages, origin="synthetic", generator=generator, tags=["log:anna.meier@web.de"])
    assert kinds_left(example) == left
