"""Helper: rows to train on, as collators take them."""

from __future__ import annotations

import random
from typing import Any

import torch

from finetune_pipeline.training.shared_prefix import logits_to_learn


def rows(number: int = 6, prefix: int = 10, seed: int = 0, answers: tuple[int, int] = (1, 4)) -> list[dict[str, Any]]:
    """Rows with `prefix` common tokens, prompts of different lengths, and an answer that is to be learned."""
    draw = random.Random(seed)
    common = [draw.randrange(3, 390) for _ in range(prefix)]
    made = []
    for i in range(number):
        prompt = [draw.randrange(3, 390) for _ in range(draw.randint(1, 25))]
        answer = [draw.randrange(3, 390) for _ in range(draw.randint(*answers))] + [2]
        ids = [*common, 390 + i % 10, *prompt, *answer, 5]
        loss = [False] * (len(ids) - len(answer) - 1) + [True] * len(answer) + [False]
        made.append({"id": f"row{i}", "ids": ids, "loss": loss})
    return made


def _named(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": f"row{i}"} for i, row in enumerate(made)]


def several_prompts() -> list[dict[str, Any]]:
    """Rows of three tasks in one batch: prompts of 20, 20 and 33 tokens, and a row that shares nothing."""
    made = [*rows(3, 20, seed=1), *rows(4, 33, seed=2), *rows(3, 20, seed=3), *rows(1, 4, seed=4)]
    return _named([made[i] for i in random.Random(0).sample(range(len(made)), len(made))])


def nested() -> list[dict[str, Any]]:
    """One system prompt of 20 tokens; behind it two documents of 18 and 30 tokens with three questions each, and a row."""
    common = rows(1, 20, seed=1)[0]["ids"][:20]
    documents = [[391, *rows(1, 17, seed=8)[0]["ids"][:17]], [392, *rows(1, 29, seed=9)[0]["ids"][:29]]]
    made = []
    for i, row in enumerate(rows(7, 0, seed=7)):
        before = [*common, *(documents[i % 2] if i < 6 else [])]
        made.append({"ids": [*before, *row["ids"]], "loss": [*[False] * len(before), *row["loss"]]})
    return _named(made)


def dialogues() -> list[dict[str, Any]]:
    """Rows of three turns with loss on each answer, behind a common prompt; some learn later answers only."""
    draw = random.Random(11)
    common = [draw.randrange(3, 390) for _ in range(12)]
    made = []
    for i in range(5):
        ids, loss = list(common), [False] * len(common)
        for turn in range(3):
            asked = [draw.randrange(3, 390) for _ in range(draw.randint(2, 9))]
            said = [draw.randrange(3, 390) for _ in range(draw.randint(1, 4))] + [2]
            ids += [390 + i, *asked, *said]
            loss += [False] * (len(asked) + 1) + [i != 2 or turn == 2] * len(said)
        made.append({"ids": ids, "loss": loss})
    return _named(made)


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Mean token loss by torch's own cross-entropy, and all gradients in one vector."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits_to_learn(model, batch).float(), batch["labels"])
    loss.backward()
    grads = [p.grad.flatten().float() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return loss.item(), torch.cat(grads)
