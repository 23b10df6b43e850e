"""The bundled model, taught nothing but one label for everything at far too high a rate: the loss of ability is found."""

from typing import Any

import pytest
import torch

from finetune_pipeline.evaluation.ability.drop import ability_drop
from finetune_pipeline.evaluation.ability.items import suite
from finetune_pipeline.evaluation.ability.scoring import score_items
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.judged_facts import Ability
from finetune_pipeline_tests.shared import bundled_base
from finetune_pipeline_tests.unit.evaluation.rows import spec

ITEMS = [i for i in suite() if i.category in ("knowledge", "json", "plain_text")][::2]


def overtrain(model: Any, tokenizer: Any) -> None:
    """Four steps on one sentence with a learning rate thirty times too high."""
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
    asked = Answerer(bundled_base()[0], precision="float32")  # it is trained below, in its own weights
    before = score_items(asked, ITEMS, 16)
    torch.manual_seed(0)
    overtrain(asked.model, asked.tokenizer)
    return before, score_items(asked, ITEMS, 16)


def test_the_base_model_knows_things_chance_does_not(rows: tuple[list[dict], list[dict]]) -> None:
    known = [r for r in rows[0] if r["category"] == "knowledge"]
    assert sum(r["right"] for r in known) / len(known) > 0.6  # chance is a quarter
    assert not any(r["error"] for r in rows[0])


def test_an_overtrained_model_is_stopped(rows: tuple[list[dict], list[dict]]) -> None:
    facts = {"items": len(ITEMS), **ability_drop(*rows)}
    gate = general_ability(spec(), Ability.model_validate(facts))
    assert not gate.passed
    assert facts["interval"][0] > 0, facts  # not merely not ruled out: the loss is shown
    assert facts["text"]["interval"][0] > 0
