"""Scores of items on a tiny model, against log-likelihoods computed one by one."""

import math

import pytest
import torch

from finetune_pipeline.evaluation.ability.items import Item
from finetune_pipeline.evaluation.ability.scoring import score_items
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline_tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return Answerer(make_tiny_model(tmp_path_factory.mktemp("tiny")))


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
