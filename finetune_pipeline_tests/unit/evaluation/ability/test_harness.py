"""Tasks of lm-evaluation-harness on a tiny model, against lm_eval's own HFLM; a planted loss; nothing asked twice."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.evaluation.ability.drop import ability_drop
from finetune_pipeline.evaluation.ability.harness_tasks import HarnessTask, harness_version, read_tasks
from finetune_pipeline.evaluation.ability.scoring import ability, close_ways_out, make_task, run_tasks
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.judged_facts import Ability
from finetune_pipeline.worker.jobs import ability_job
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.evaluation.ability.harness_files import (
    CHOICES,
    ENDING,
    ROWS,
    TEXTS,
    WRITING,
    write_task,
)
from finetune_pipeline_tests.unit.evaluation.rows import spec

LIMIT = 12


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[HarnessTask]:
    folder = tmp_path_factory.mktemp("tasks")
    for config in (CHOICES, ENDING, TEXTS, WRITING):
        write_task(folder, config)
    return read_tasks(folder, ["*.yaml"])


def reference(asked: Answerer, tasks: list[HarnessTask], scratch: Path, chat: bool) -> dict[str, Any]:
    """What lm_eval makes of the same tasks with a model class of its own."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    close_ways_out()
    return evaluate(
        HFLM(pretrained=asked.model, tokenizer=asked.tokenizer, batch_size=4, device="cpu"),
        {"tasks": {t.name: make_task(t, str(scratch)) for t in tasks}, "groups": {}, "group_map": {}},
        limit=LIMIT,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )


@pytest.mark.parametrize("chat", [False, True])
def test_scores_equal_those_of_lm_evals_own_model(
    tiny: Answerer, tasks: list[HarnessTask], tmp_path: Path, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: Any) -> None:
        raise AssertionError(f"{address} was to be reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rows, facts = run_tasks(tiny, tasks, LIMIT, chat, 4, "test")
    theirs = reference(tiny, tasks, tmp_path, chat)
    assert facts["lm_eval"] == harness_version()
    for task in tasks:
        own = [r for r in rows if r["category"] == f"harness: {task.name}"]
        samples = [s for s in theirs["samples"][task.name] if s["filter"] == theirs["samples"][task.name][0]["filter"]]
        assert len(own) == len(samples) == min(LIMIT, len(ROWS[task.name])) == facts["tasks"][task.name]["rows"]
        for row, sample in zip(own, samples, strict=True):
            assert row["id"] == f"{task.name}:{sample['doc_id']}"
            assert row["error"] == ""
            if task.text:
                nats, length = sample["bits_per_byte"]
                assert row["bits_per_byte"] == pytest.approx(-nats / math.log(2) / length, abs=1e-5)
            else:
                assert row["right"] is bool(sample[task.metric])
            if task.name == "pick":
                weights = [math.exp(score) for score, _ in sample["filtered_resps"]]
                assert row["probability"] == pytest.approx(weights[sample["target"]] / sum(weights), abs=1e-5)
        for metric, value in facts["tasks"][task.name]["results"].items():
            measured = theirs["results"][task.name]
            assert value == pytest.approx(measured.get(f"{metric},none", measured.get(metric)), rel=1e-4), (
                task.name,
                metric,
            )
    assert facts["tasks"]["writing"]["shots"] == 2
    assert set(facts["tasks"]["pick"]["results"]) == {"acc", "acc_norm"}


def test_a_row_too_long_for_the_model_is_an_error_and_is_not_cut(tiny: Answerer, tmp_path: Path) -> None:
    limit = tiny.model.config.max_position_embeddings
    long = {"question": "invoice " * limit, "choices": ["a", "b"], "right": 0}
    write_task(tmp_path, CHOICES, [ROWS["pick"][0], long])
    write_task(
        tmp_path, WRITING | {"num_fewshot": 0}, [{"question": "invoice " * limit, "answer": "x"}, ROWS["writing"][0]]
    )
    rows, facts = run_tasks(tiny, read_tasks(tmp_path, ["*.yaml"]), 10, False, 4, "test")
    measured = {r["id"]: r for r in rows}
    assert measured["pick:0"]["error"] == measured["writing:1"]["error"] == ""
    assert "more than the model's" in measured["pick:1"]["error"]
    assert "more than the model's" in measured["writing:0"]["error"]
    assert measured["pick:1"]["right"] is None
    assert facts["tasks"]["pick"]["results"] == {}


def test_rows_that_a_task_cannot_read_name_the_task(tiny: Answerer, tmp_path: Path) -> None:
    write_task(tmp_path, CHOICES | {"doc_to_text": "{{nowhere}}"})
    with pytest.raises(
        ValueError, match="ability.harness: pick cannot be made: UndefinedError: 'nowhere' is undefined"
    ):
        run_tasks(tiny, read_tasks(tmp_path, ["*.yaml"]), 10, False, 4, "test")
    write_task(tmp_path, CHOICES | {"doc_to_text": "{{question.__class__.__mro__[1].__subclasses__()}}"})
    with pytest.raises(ValueError, match="pick cannot be made: SecurityError"):
        run_tasks(tiny, read_tasks(tmp_path, ["*.yaml"]), 10, False, 4, "test")


def told_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ability.jsonl").read_text().splitlines()]


def test_the_job_writes_rows_of_items_and_tasks(tasks: list[HarnessTask], tmp_path: Path) -> None:
    folder = tmp_path / "task"
    write_task(folder / "bench", CHOICES)
    (folder / "own.jsonl").write_text(
        json.dumps({"query": "the app", "choices": ["works", "crashes"], "gold": 1}) + "\n"
    )
    facts, _ = ability(
        ability_job(
            model=make_tiny_model(tmp_path / "tiny"),
            adapter=None,
            files=[folder / "own.jsonl"],
            limit=5,
            suite=False,
            batch_size=4,
            out=tmp_path / "out",
            harness={"folder": str(folder), "tasks": ["bench"], "limit": 7, "chat": False},
        )
    )
    assert (facts["items"], facts["unscored"], facts["harness"]["tasks"]["pick"]["rows"]) == (8, 0, 7)
    assert [r["source"] for r in told_rows(tmp_path / "out")] == ["own.jsonl", *["lm-evaluation-harness"] * 7]


def test_a_model_that_has_unlearned_a_task_is_stopped_and_an_equal_one_is_not(tmp_path: Path) -> None:
    """Rows whose right choice is what the base model prefers; the candidate is taught the next one instead."""
    asked = Answerer(make_tiny_model(tmp_path / "tiny"))
    liked = _preferred(asked, tmp_path)
    write_task(
        tmp_path / "bench", CHOICES, [r | {"right": n} for r, n in zip(ROWS["pick"] * 2, liked * 2, strict=True)]
    )
    tasks = read_tasks(tmp_path, ["bench"])
    before, facts = run_tasks(asked, tasks, 100, False, 8, "test")
    assert all(r["right"] for r in before)
    again, _ = run_tasks(asked, tasks, 100, False, 8, "test")
    clean = {"items": len(before), "harness": facts, **ability_drop(before, again)}
    assert general_ability(spec(), Ability.model_validate(clean)).passed

    unlearn(asked, ROWS["pick"], liked)
    after, _ = run_tasks(asked, tasks, 100, False, 8, "test")
    measured = {"items": len(before), "harness": facts, **ability_drop(before, after)}
    gate = general_ability(spec(), Ability.model_validate(measured))
    assert not gate.passed
    assert measured["categories"]["harness: pick"]["interval"][0] > 0.1
    assert "harness: pick surely loses" in gate.message


def unlearn(asked: Answerer, rows: list[dict[str, Any]], right: list[int]) -> None:
    asked.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(asked.model.parameters(), lr=3e-3)
    texts = [f"{r['question']} {r['choices'][(n + 1) % 4]}" for r, n in zip(rows, right, strict=True)]
    for _ in range(3):
        for text in texts:
            ids = torch.tensor([asked.tokenizer.encode(text)])
            asked.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def _preferred(asked: Answerer, folder: Path) -> list[int]:
    """Which choice of each row the model finds likeliest."""
    liked = []
    for n in range(4):
        write_task(folder / "bench", CHOICES, [r | {"right": n} for r in ROWS["pick"]])
        rows, _ = run_tasks(asked, read_tasks(folder, ["bench"]), 100, False, 8, "test")
        liked.append([r["right"] for r in rows])
    return [next(n for n in range(4) if liked[n][i]) for i in range(len(ROWS["pick"]))]
