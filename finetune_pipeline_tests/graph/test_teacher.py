"""From texts without labels to a verdict: a teacher behind a real server, a student in the real graph."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from finetune_pipeline.data.people import PeopleAnswers, read_people
from finetune_pipeline.data.unlabelled import read_unlabelled
from finetune_pipeline.review.people_queue import people_queue
from finetune_pipeline.review.sheet_files import store
from finetune_pipeline.spec.loading import load_task
from finetune_pipeline_tests.graph.project import Project, rows
from finetune_pipeline_tests.openai_server import openai_server
from finetune_pipeline_tests.skilled_model import LABELS, truth

PEOPLE, TEXTS, ANSWERED = 80, 160, 20
PRICE = {"engine": "test", "model": "large", "unit": "million_served", "input": 10.0, "output": 30.0}
CALL_USD = (7 * PRICE["input"] + 3 * PRICE["output"]) / 1e6  # type: ignore[operator]


def mind(body: dict[str, Any], seen: int) -> str:
    """Right on all texts but every tenth, in every answer."""
    text = str(body["messages"][-1]["content"])
    right = truth(text)
    return LABELS[1 - LABELS.index(right)] if int(text.rsplit(" ", 1)[1]) % 10 == 0 else right


def report_of(project: Project) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    return report


def test_from_texts_to_a_verdict_every_call_is_counted_and_none_is_repeated(tmp_path: Path) -> None:
    every = rows(PEOPLE + TEXTS)
    with openai_server(mind) as server:
        endpoint = {"url": server.url, "model": "large"}
        project = Project(
            tmp_path,
            teacher={"endpoint": endpoint, "allowed": True, "budget_usd": 1.0, "answers": 2},
            data={
                "min_examples": 60, "min_per_label": 20, "unlabelled": ["unlabelled/*"],
                "synthetic": {"review_share": 0.0}, "max_label_noise": 1.0,
            },
        )  # fmt: skip
        project.write_rows(every[:PEOPLE])
        (project.folder / "unlabelled").mkdir()
        texts = [json.dumps({"text": row["text"]}) for row in every[PEOPLE:]]
        (project.folder / "unlabelled" / "a.jsonl").write_text("\n".join(texts))
        task = load_task(project.folder)
        asked = read_unlabelled(task).rows[:ANSWERED]
        queue = people_queue(task, asked, PeopleAnswers(), {}, "Ada", ANSWERED)
        sheet = [
            {"id": row.id, "decision": "answer", "answer": truth(row.user_text), "reviewer": "Ada"} for row in asked
        ]
        lines = [queue.take(line)[0] for line in sheet]
        assert store(queue, {"Ada": [line for line in lines if line]}).added == ANSWERED
        priced = {**PRICE, "date": "2026-12-01", "note": "made up"}
        (project.folder / "prices.yaml").write_text(json.dumps([priced]))
        code, result = project.run()
        assert code in (0, 2), json.dumps(result)[:3000]
        calls = len(server.requests)
        assert project.run()[0] == code and len(server.requests) == calls, "the second run buys nothing"
        assert report_of(project)["agreement"] is None
        before = {name: project.artifact(name).name for name in ("splits", "adapter", "test_predictions")}
        bo = people_queue(task, asked, read_people(task.folder, task.spec), {}, "Bo", ANSWERED)
        alike = [bo.take({**line, "reviewer": "Bo"})[0] for line in sheet if line["id"] in {i["id"] for i in bo.items}]
        assert store(bo, {"Bo": [line for line in alike if line]}).added == len(alike) == ANSWERED // 5
        assert project.run()[0] == code
        shared = report_of(project)["agreement"]
        assert (shared["rows"], shared["same"]) == (len(alike), len(alike)) and len(server.requests) == calls
        assert {name: project.artifact(name).name for name in before} == before, "who only agrees changes no row"
        assert report_of(project)["seal"]["count"] == 1, "the sealed test is not opened again"
    bought, splits = project.facts("teacher_answers"), project.facts("splits")
    test = splits["counts"]["test"]
    assert splits["origins"]["test"] == {"human": test} and splits["origins"]["train"]["synthetic"] == TEXTS - ANSWERED
    human = sum(origins.get("human", 0) for origins in splits["origins"].values())
    assert human == PEOPLE + ANSWERED, "the teacher is not asked about a text that a person answered"
    assert calls == 2 * (TEXTS - ANSWERED + test), "each text that nobody answered and each sealed row, twice"
    assert set(Counter((b["messages"][-1]["content"], b["temperature"]) for b in server.requests).values()) == {1}
    report = report_of(project)
    teacher = report["teacher"]
    spent = bought["spent_usd"] + project.facts("test_predictions")["teacher"]["spent_usd"]
    assert round(spent, 9) == round(calls * CALL_USD, 9) and teacher["dollars_per_1k"] == round(1000 * CALL_USD, 6)
    assert teacher["n"] == teacher["kept"] == test and teacher["noise"][0] <= 0.1 <= teacher["noise"][1]
    gates = {gate["name"]: gate["status"] for gate in report["gates"]}
    assert gates["not_worse_than_teacher"] in ("passed", "failed")
    assert "the teacher" in project.facts("evaluation_report")["verdict"]


def test_from_the_log_of_a_model_alone_to_a_verdict(tmp_path: Path) -> None:
    """The run stops and says how many rows people have to answer; with these it goes on. Nothing is asked or paid."""
    every = rows(PEOPLE + TEXTS)
    project = Project(
        tmp_path,
        teacher={"from_logs": True, "models": ["large"], "allowed": True},
        data={
            "min_examples": 60, "min_per_label": 20, "synthetic": {"review_share": 0.0}, "max_label_noise": 1.0,
        },
    )  # fmt: skip
    (project.folder / "raw" / "a.jsonl").unlink()
    (project.folder / "logs").mkdir()
    # the log has the teacher's answers to some of the questions that people will answer
    logged = every[PEOPLE // 2 :]
    lines = [
        {"id": f"r{i}", "timestamp": f"2026-11-01T10:{i // 60:02}:{i % 60:02}Z", "input": row["text"],
         "output": row["label"], "model_version": "large"}
        for i, row in enumerate(logged)
    ]  # fmt: skip
    (project.folder / "logs" / "large.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, result = project.run()
    assert code == 1 and f"none of {len(logged)} rows is answered by people" in json.dumps(result)
    project.write_rows(every[:PEOPLE])
    code, result = project.run()
    assert code in (0, 2), json.dumps(result)[:3000]
    answers, splits = project.facts("teacher_answers"), project.facts("splits")
    assert (answers["kept"], answers["calls"], answers["spent_usd"]) == (len(logged), 0, 0.0)
    test = splits["counts"]["test"]
    assert splits["origins"]["test"] == {"human": test} and splits["origins"]["train"]["synthetic"] == TEXTS
    teacher = report_of(project)["teacher"]
    assert teacher["n"] + teacher["missing"] == test and 0 < teacher["missing"] < test
    assert teacher["score"]["value"] == 1.0 and teacher["dollars_per_1k"] is None
