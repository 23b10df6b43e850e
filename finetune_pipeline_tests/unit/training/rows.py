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


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Mean token loss by torch's own cross-entropy, and all gradients in one vector."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits_to_learn(model, batch).float(), batch["labels"])
    loss.backward()
    grads = [p.grad.flatten().float() for p in model.parameters() if p.requires_grad]
    return loss.item(), torch.cat(grads)
