"""The training plan: what will happen, how much memory it takes, and whether that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.artifacts import read_json, write_json
from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.memory import estimate
from finetune_pipeline.planning.shape import model_shape, trainable_parameters
from finetune_pipeline.planning.tokens import TokenCounter, token_statistics
from finetune_pipeline.spec.model import TaskSpec


def training_plan(
    spec: TaskSpec, base: Path, train: Sequence[Example], validation: Sequence[Example], out: Path
) -> dict[str, Any]:
    """Plan for training on `train` with the base model folder `base`.

    Returns facts: tokens (statistics of the training split), steps, steps_per_epoch, over_length, memory_mib (parts),
    available_mib, fits, sentence. Writes plan.json. The memory is an estimate by formula, for the worst batch.
    """
    t = spec.training
    folder = model_folder(base)
    tokens = token_statistics(TokenCounter(folder), train)
    lengths = tokens.pop("lengths")
    over = sum(n > t.max_tokens for n in lengths)
    usable = [n for n in lengths if n <= t.max_tokens]
    steps_per_epoch = math.ceil(len(usable) / t.batch_size)
    answer = max(1, round(tokens["answer_total"] / max(tokens["examples"], 1)))
    worst = sum(sorted(usable)[-t.micro_batch_size :])
    # the phase on the unquantized base is the one that needs most
    method = "lora" if t.method == "qlora" and t.unquantized_epochs else t.method
    memory = estimate(
        read_json(folder / "config.json"),
        method=method,
        rank=t.lora.r,
        tokens_in_batch=worst,
        loss_tokens_in_batch=answer * t.micro_batch_size,
        bytes_per_value=2 if t.precision == "bfloat16" else 4,
    )
    memory.pop("trainable_parameters")
    available = psutil.virtual_memory().available
    facts: dict[str, Any] = {
        "method": t.method,
        "train_examples": len(train),
        "validation_examples": len(validation),
        "tokens": tokens,
        "over_length": over,
        "steps_per_epoch": steps_per_epoch,
        "steps": math.ceil(steps_per_epoch * (t.epochs + (t.unquantized_epochs if t.method == "qlora" else 0))),
        "trainable_parameters": trainable_parameters(model_shape(folder), t.model_dump()),
        "memory_mib": {k: round(v / 2**20) for k, v in memory.items()},
        "available_mib": round(available / 2**20),
        "fits": memory["total"] <= available,
    }
    facts["sentence"] = (
        f"{facts['steps']} steps over {len(usable)} examples of {tokens['mean']} tokens; about "
        f"{memory['total'] / 2**30:.1f} GiB at the peak, {available / 2**30:.1f} GiB free"
        + (
            "."
            if facts["fits"]
            else ": it does not fit. Halve training.micro_batch_size, set training.unquantized_epochs to 0, or "
            "use a smaller base model."
        )
    )
    write_json(out / "plan.json", facts)
    return facts
