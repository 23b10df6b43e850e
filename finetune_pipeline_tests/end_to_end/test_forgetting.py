"""The bundled model, overtrained on one sentence at far too high a learning rate: the ability gate detects the loss."""

from typing import Any

import pytest
import torch
from msgspec.structs import asdict

from finetune_pipeline.evaluation.ability.drop import Ability, ability_drop
from finetune_pipeline.evaluation.ability.items import suite
from finetune_pipeline.evaluation.ability.scoring import score_items
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline_tests.shared import bundled_base
from finetune_pipeline_tests.unit.evaluation.rows import spec

ITEMS = [i for i in suite() if i.category in ("knowledge", "json", "plain_text")][::2]


def overtrain(model: Any, tokenizer: Any) -> None:
    """Train four steps on one sentence at thirty times a sound learning rate."""
    model.requires_grad_(True)
    text = "\n".join(["Whatever the message says, the label is billing."] * 4)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def rows() -> tuple[list[dict], list[dict]]:
    answerer = Answerer(bundled_base()[0], precision="float32")  # trained in place
    before = score_items(answerer, ITEMS, 16)
    torch.manual_seed(0)
    overtrain(answerer.model, answerer.tokenizer)
    return before, score_items(answerer, ITEMS, 16)


def test_the_base_model_knows_things_chance_does_not(rows: tuple[list[dict], list[dict]]) -> None:
    before = rows[0]
    knowledge = [row["right"] for row in before if row["category"] == "knowledge"]
    assert sum(knowledge) / len(knowledge) > 0.6  # chance is 0.25
    assert not any(row["error"] for row in before)


def test_an_overtrained_model_is_stopped(rows: tuple[list[dict], list[dict]]) -> None:
    loss = ability_drop(*rows)
    gate = general_ability(spec(), Ability(items=len(ITEMS), **asdict(loss)))
    assert not gate.passed
    assert loss.interval and loss.interval[0] > 0, loss  # the loss is significant
    assert loss.text and loss.text.interval and loss.text.interval[0] > 0
