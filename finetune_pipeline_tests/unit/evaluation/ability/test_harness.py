"""Tasks of lm-evaluation-harness on a tiny model, against lm_eval's own HFLM; and rows that cannot be asked are named."""

import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_pipeline.evaluation.ability.harness_tasks import HarnessTask, harness_version, read_tasks
from finetune_pipeline.evaluation.ability.items import Item
from finetune_pipeline.evaluation.ability.scoring import forbid_downloads, make_task, run_tasks, score_items
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.evaluation.ability import harness_files
from finetune_pipeline_tests.unit.evaluation.ability.harness_files import CHOICES, ROWS, WRITING, write_task

LIMIT = 12


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[HarnessTask]:
    folder = tmp_path_factory.mktemp("tasks")
    for config in (CHOICES, harness_files.ENDING, harness_files.TEXTS, WRITING):
        write_task(folder, config)
    return read_tasks(folder, ["*.yaml"])


def reference(answerer: Answerer, tasks: list[HarnessTask], scratch: Path, chat: bool) -> dict[str, Any]:
    """What lm_eval makes of the same tasks with a model class of its own."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    forbid_downloads()
    model = HFLM(pretrained=answerer.model, tokenizer=answerer.tokenizer, batch_size=4, device="cpu")
    task_dict = {"tasks": {t.name: make_task(t, str(scratch)) for t in tasks}, "groups": {}, "group_map": {}}
    turns = {"apply_chat_template": chat, "fewshot_as_multiturn": chat}
    return evaluate(model, task_dict, limit=LIMIT, bootstrap_iters=0, **turns)


@pytest.mark.parametrize("chat", [False, True])
def test_scores_equal_those_of_lm_evals_own_model(tiny, tasks, tmp_path, chat, monkeypatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)
    rows, facts = run_tasks(tiny, tasks, LIMIT, chat, 4, "test")
    theirs = reference(tiny, tasks, tmp_path, chat)
    assert facts["lm_eval"] == harness_version()
    for task in tasks:
        task_rows = [r for r in rows if r["category"] == f"harness: {task.name}"]
        samples = [s for s in theirs["samples"][task.name] if s["filter"] == theirs["samples"][task.name][0]["filter"]]
        assert len(task_rows) == len(samples) == min(LIMIT, len(ROWS[task.name])) == facts["tasks"][task.name]["rows"]
        for row, sample in zip(task_rows, samples, strict=True):
            assert (row["id"], row["error"]) == (f"{task.name}:{sample['doc_id']}", "")
            if task.text:
                nats, length = sample["bits_per_byte"]
                assert row["bits_per_byte"] == pytest.approx(-nats / math.log(2) / length, abs=1e-5)
            else:
                assert row["right"] is bool(sample[task.metric])
        measured = theirs["results"][task.name]
        for metric, value in facts["tasks"][task.name]["results"].items():
            expected = measured.get(f"{metric},none", measured.get(metric))
            assert value == pytest.approx(expected, rel=1e-4), (task.name, metric)
    assert facts["tasks"]["writing"]["shots"] == 2 and set(facts["tasks"]["pick"]["results"]) == {"acc", "acc_norm"}


def test_a_row_too_long_for_the_model_is_an_error_and_is_not_cut(tiny: Answerer, tmp_path: Path) -> None:
    limit = tiny.model.config.max_position_embeddings
    long = {"question": "invoice " * limit, "choices": ["a", "b"], "right": 0}
    write_task(tmp_path, CHOICES, [ROWS["pick"][0], long])
    questions = [{"question": "invoice " * limit, "answer": "x"}, ROWS["writing"][0]]
    write_task(tmp_path, WRITING | {"num_fewshot": 0}, questions)
    rows, facts = run_tasks(tiny, read_tasks(tmp_path, ["*.yaml"]), 10, False, 4, "test")
    measured = {r["id"]: r for r in rows}
    assert measured["pick:0"]["error"] == measured["writing:1"]["error"] == ""
    assert all("more than the model's" in measured[name]["error"] for name in ("pick:1", "writing:0"))
    assert measured["pick:1"]["right"] is None
    assert facts["tasks"]["pick"]["results"] == {}


def test_rows_that_a_task_cannot_read_name_the_task(tiny: Answerer, tmp_path: Path) -> None:
    for text, message in (
        ("{{nowhere}}", "ability.harness: pick cannot be made: UndefinedError: 'nowhere' is undefined"),
        ("{{question.__class__.__mro__[1].__subclasses__()}}", "pick cannot be made: SecurityError"),
    ):
        write_task(tmp_path, CHOICES | {"doc_to_text": text})
        with pytest.raises(ValueError, match=message):
            run_tasks(tiny, read_tasks(tmp_path, ["*.yaml"]), 10, False, 4, "test")


ITEMS = [
    Item("a", "s", "chat", "my invoice is wrong", ("billing", "the app crashes"), 0),
    Item("b", "s", "bare", "where is the", ("export", "map", "user"), 2, chat=False),
    Item("c", "s", "text", "", text="please refund the second payment", chat=False),
    Item("d", "s", "cloze", "charged twice this", text="month", chat=False),
]


def plain(model, tokenizer, before: str, after: str) -> float:
    start, continuation = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (before, after))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([start + continuation])).logits[0].log_softmax(-1)
    return sum(logits[len(start) - 1 + i, t].item() for i, t in enumerate(continuation))


def test_scores_equal_the_plain_way(tiny: Answerer) -> None:
    model, tokenizer = tiny.model, tiny.tokenizer
    rows = {r["id"]: r for r in score_items(tiny, ITEMS, batch_size=2)}
    turns = [{"role": "user", "content": "my invoice is wrong"}]
    chat = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for name, before, item in (("a", chat, ITEMS[0]), ("b", "<|im_start|>where is the", ITEMS[1])):
        lead = "" if item.chat else " "
        scores = [plain(model, tokenizer, before, lead + c) for c in item.choices]
        weights = [math.exp(s - max(scores)) for s in scores]
        assert rows[name]["probability"] == pytest.approx(weights[item.right] / sum(weights), abs=1e-4)
        assert rows[name]["right"] is (scores.index(max(scores)) == item.right)
        assert rows[name]["bits_per_byte"] is None
    for name, before, after in (("c", "", ITEMS[2].text), ("d", "charged twice this", " month")):
        bits = -plain(model, tokenizer, f"<|im_start|>{before}", after) / math.log(2) / len(after.strip())
        assert rows[name]["bits_per_byte"] == pytest.approx(bits, abs=1e-4) and rows["c"]["right"] is None


def test_an_item_too_long_for_the_model_is_an_error_and_loses_no_other(tiny: Answerer) -> None:
    limit = tiny.model.config.max_position_embeddings
    long = Item("long", "s", "chat", "invoice " * limit, ("billing", "map"), 0)
    rows = score_items(tiny, [ITEMS[0], long], batch_size=2)
    assert rows[0]["error"] == "" and "more than" in rows[1]["error"] and rows[1]["right"] is None
