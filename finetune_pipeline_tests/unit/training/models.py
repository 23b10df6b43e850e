"""Helper: tiny models with something to train whose every part matters, and rows as collators take them."""

import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.training.packing import logits_to_learn
from finetune_pipeline_tests.unit.models.architectures import random_model


def adapted(base: Path, method: str = "lora", compute: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    """`base` with a random LoRA adapter (not PEFT's zero B, which would hide half of the gradients)."""
    return _with_lora(load_for_training(base, METHODS[method].holds, compute, torch.device("cpu"))[0], dropout)


def _with_lora(model: Any, dropout: float = 0.0) -> Any:
    model.requires_grad_(False)
    torch.manual_seed(0)
    usual = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(model, LoraConfig(**usual, lora_dropout=dropout))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


class Words:
    """As much of a tokenizer as a soft prompt needs: a token a word."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(map(ord, word)) % 390 for word in text.split()]}


def trainable(name: str, method: str) -> Any:
    """A random model of architecture `name` with what `method` trains, in evaluation mode (no dropout): two or three layers;
    gemma3 has sliding windows of 8 tokens."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    if name == "gemma3":
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        shape |= {"num_hidden_layers": 3, "layer_types": kinds, "sliding_window": 8, "query_pre_attn_scalar": 8}
    model = random_model(name, **shape)
    if method == "lora":
        return _with_lora(model).eval()
    if method == "full":
        return model.eval()
    model.requires_grad_(False)
    settings = {
        method: {"tokens": 5 if method == "prefix" else 6, "init": "text", "text": "sort the ticket into labels"}
    }
    return METHODS[method].add(model, Words(), settings, "")[0].eval()


def rows(number: int = 6, prefix: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with `prefix` common tokens, prompts of different lengths, and an answer that is to be learned."""
    draw = random.Random(seed)
    common = [draw.randrange(3, 390) for _ in range(prefix)]
    examples = []
    for i in range(number):
        prompt = [draw.randrange(3, 390) for _ in range(draw.randint(1, 25))]
        answer = [draw.randrange(3, 390) for _ in range(draw.randint(1, 4))] + [2]
        ids = [*common, 390 + i % 10, *prompt, *answer, 5]
        loss = [False] * (len(ids) - len(answer) - 1) + [True] * len(answer) + [False]
        examples.append({"id": f"row{i}", "ids": ids, "loss": loss})
    return examples


def _named(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": f"row{i}"} for i, row in enumerate(made)]


def several_prompts() -> list[dict[str, Any]]:
    """Rows of three tasks in one batch: prompts of 20, 20 and 33 tokens, and a row that shares nothing."""
    examples = [*rows(3, 20, seed=1), *rows(4, 33, seed=2), *rows(3, 20, seed=3), *rows(1, 4, seed=4)]
    return _named(random.Random(0).sample(examples, len(examples)))


def nested() -> list[dict[str, Any]]:
    """One system prompt of 20 tokens; behind it two documents of 18 and 30 tokens with three questions each, and a row."""
    common = rows(1, 20, seed=1)[0]["ids"][:20]
    documents = [[390 + n, *rows(1, length, seed=n)[0]["ids"][:length]] for n, length in ((1, 17), (2, 29))]
    examples = []
    for i, row in enumerate(rows(7, 0, seed=7)):
        before = [*common, *(documents[i % 2] if i < 6 else [])]
        examples.append({"ids": [*before, *row["ids"]], "loss": [*[False] * len(before), *row["loss"]]})
    return _named(examples)


def dialogues() -> list[dict[str, Any]]:
    """Rows of three turns with loss on each answer, behind a common prompt; some learn later answers only."""
    draw = random.Random(11)
    common = [draw.randrange(3, 390) for _ in range(12)]
    examples = []
    for i in range(5):
        ids, loss = list(common), [False] * len(common)
        for turn in range(3):
            question = [draw.randrange(3, 390) for _ in range(draw.randint(2, 9))]
            answer = [draw.randrange(3, 390) for _ in range(draw.randint(1, 4))] + [2]
            ids += [390 + i, *question, *answer]
            loss += [False] * (len(question) + 1) + [i != 2 or turn == 2] * len(answer)
        examples.append({"ids": ids, "loss": loss})
    return _named(examples)


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Mean token loss by torch's own cross-entropy, and all gradients in one vector."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits_to_learn(model, batch).float(), batch["labels"])
    loss.backward()
    grads = [p.grad.flatten().float() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return loss.item(), torch.cat(grads)
