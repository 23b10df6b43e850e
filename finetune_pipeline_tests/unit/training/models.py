"""Tiny models with trainable adapters, and rows for collators."""

import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from finetune_pipeline.models.loading import load_for_training
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.packing import logits_to_learn
from finetune_pipeline_tests.unit.models.architectures import random_model


def adapted(base: Path, method: str = "lora", compute: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    """The model with a random LoRA adapter. B is not zero as in PEFT, since the gradients of A would be zero."""
    return _with_lora(load_for_training(base, METHODS[method].holds, compute, torch.device("cpu"))[0], dropout)


def _with_lora(model: Any, dropout: float = 0.0) -> Any:
    model.requires_grad_(False)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=dropout)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


class Words:
    """A minimal tokenizer for soft prompts, with one token per word."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(map(ord, word)) % 390 for word in text.split()]}


def trainable(name: str, method: str) -> Any:
    """A random model of architecture `name`, prepared for training with `method`, in evaluation mode (no dropout). It has two
    or three layers; gemma3 has sliding windows of 8 tokens."""
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
    section = {"tokens": 5 if method == "prefix" else 6, "init": "text", "text": "sort the ticket into labels"}
    settings = TrainingSpec.model_validate({"method": method, method: section})
    return METHODS[method].add(model, Words(), settings, "")[0].eval()


def rows(number: int = 6, prefix: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a shared prefix, prompts of different lengths, and answers with loss."""
    rng = random.Random(seed)
    common = [rng.randrange(3, 390) for _ in range(prefix)]
    examples = []
    for i in range(number):
        prompt = [rng.randrange(3, 390) for _ in range(rng.randint(1, 25))]
        answer = [rng.randrange(3, 390) for _ in range(rng.randint(1, 4))] + [2]
        ids = [*common, 390 + i % 10, *prompt, *answer, 5]
        loss = [False] * (len(ids) - len(answer) - 1) + [True] * len(answer) + [False]
        examples.append({"id": f"row{i}", "ids": ids, "loss": loss})
    return examples


def _with_ids(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "id": f"row{i}"} for i, row in enumerate(examples)]


def several_prompts() -> list[dict[str, Any]]:
    """Rows with three different shared prefixes (20, 33 and 20 tokens), and a row that shares none."""
    examples = [*rows(3, 20, seed=1), *rows(4, 33, seed=2), *rows(3, 20, seed=3), *rows(1, 4, seed=4)]
    return _with_ids(random.Random(0).sample(examples, len(examples)))


def nested() -> list[dict[str, Any]]:
    """Rows with nested prefixes: a system prompt of 20 tokens, followed by one of two documents (18 and 30 tokens) with three
    questions each, or by a row without document."""
    common = rows(1, 20, seed=1)[0]["ids"][:20]
    documents = [[390 + n, *rows(1, length, seed=n)[0]["ids"][:length]] for n, length in ((1, 17), (2, 29))]
    examples = []
    for i, row in enumerate(rows(7, 0, seed=7)):
        before = [*common, *(documents[i % 2] if i < 6 else [])]
        examples.append({"ids": [*before, *row["ids"]], "loss": [*[False] * len(before), *row["loss"]]})
    return _with_ids(examples)


def dialogues() -> list[dict[str, Any]]:
    """Rows of three turns after a shared prompt, with loss on every answer or only on the last."""
    rng = random.Random(11)
    common = [rng.randrange(3, 390) for _ in range(12)]
    examples = []
    for i in range(5):
        ids, loss = list(common), [False] * len(common)
        for turn in range(3):
            question = [rng.randrange(3, 390) for _ in range(rng.randint(2, 9))]
            answer = [rng.randrange(3, 390) for _ in range(rng.randint(1, 4))] + [2]
            ids += [390 + i, *question, *answer]
            loss += [False] * (len(question) + 1) + [i != 2 or turn == 2] * len(answer)
        examples.append({"ids": ids, "loss": loss})
    return _with_ids(examples)


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """Mean token loss by torch's cross-entropy, and all gradients in one vector."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits_to_learn(model, batch).float(), batch["labels"])
    loss.backward()
    grads = [p.grad.flatten().float() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return loss.item(), torch.cat(grads)
