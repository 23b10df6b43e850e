"""Batches for training: rows packed behind their common prefix, or padded; both with the same loss.

In causal attention the hidden states of a prefix do not depend on what follows it. One packed sequence [prefix][suffix 1]
[suffix 2]…, with position ids that go on from the prefix in every suffix, gives the loss and the gradients of the padded
batch, and computes the prefix once. Logits are made only where a token is to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune_pipeline.training import attention
from finetune_pipeline.training.attention import Layout

Row = dict[str, Any]


def common_prefix(rows: Sequence[Row]) -> int:
    """Number of leading tokens the rows share, kept free of loss and shorter than every row."""
    first = rows[0]["ids"]
    length = min(next((i for i, learned in enumerate(r["loss"]) if learned), len(r["ids"])) for r in rows)
    length = min(length, min(len(r["ids"]) for r in rows) - 1)
    for row in rows[1:]:
        ids = row["ids"]
        length = next((i for i in range(length) if ids[i] != first[i]), length)
    return length


@dataclass
class PackedCollator:
    """Packs rows {id, ids, loss} into one sequence. `saved_tokens` counts those that padding would have computed anew."""

    saved_tokens: int = 0

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """input_ids and position_ids [1, T]; logit_positions [n] and labels [n]: where logits are needed, and for which
        token (several may ask the same position); shared_prefix: the layout; row_ids."""
        k = common_prefix(rows)
        rows = sorted(rows, key=lambda r: -len(r["ids"]))
        self.saved_tokens += k * (len(rows) - 1)
        ids, places = list(rows[0]["ids"][:k]), list(range(k))
        asked, labels = [], []
        for row in rows:
            start = len(ids)
            ids += row["ids"][k:]
            places += range(k, len(row["ids"]))
            for q, learned in enumerate(row["loss"]):
                if learned and q:
                    asked.append(q - 1 if q <= k else start + q - 1 - k)
                    labels.append(row["ids"][q])
        return {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([places]),
            "logit_positions": torch.tensor(asked),
            "labels": torch.tensor(labels),
            "shared_prefix": Layout(k, [len(r["ids"]) - k for r in rows]),
            "row_ids": [r["id"] for r in rows],
        }


@dataclass
class PaddedCollator:
    """Pads rows {id, ids, loss} on the right."""

    pad: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """input_ids and attention_mask [n, T]; label_mask [n, T] of bool; labels [m]: the tokens to learn, row by row."""
        length = max(len(r["ids"]) for r in rows)
        ids = torch.full((len(rows), length), self.pad)
        seen = torch.zeros(len(rows), length, dtype=torch.long)
        learn = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            n = len(row["ids"])
            ids[i, :n] = torch.tensor(row["ids"])
            seen[i, :n] = 1
            learn[i, :n] = torch.tensor(row["loss"])
        learn[:, 0] = False
        return {
            "input_ids": ids,
            "attention_mask": seen,
            "label_mask": learn,
            "labels": ids[learn],
            "row_ids": [r["id"] for r in rows],
        }


def logits_to_learn(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Logits [n, vocabulary] that predict ``batch["labels"]``, for a batch of either collator."""
    if "shared_prefix" in batch:
        # A 4-D mask is handed through unchanged; it keeps transformers from building one of T x T that nobody reads.
        unread = torch.zeros(1, 1, 1, 1, device=batch["input_ids"].device)
        return model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=unread,
            shared_prefix=batch["shared_prefix"],
            logits_to_keep=batch["logit_positions"],
            use_cache=False,
        ).logits[0]
    learn = batch["label_mask"]
    first = int(learn.any(0).nonzero()[0]) - 1
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=learn.shape[1] - first,
        use_cache=False,
    ).logits
    return logits[:, :-1][learn[:, first + 1 :]]


def supports_shared_prefix(model: Any) -> tuple[bool, str]:
    """(whether packing gives this model's own logits, why or why not).

    Wants full attention in every layer through transformers' attention interface, and then makes a trial: two short rows
    packed against the same rows padded. On success the model's attention function is the packed one.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if kinds != {"full_attention"} or sliding:
        return False, f"{config.model_type} has layers without full attention ({', '.join(sorted(kinds))})"
    if not getattr(model, "_supports_attention_backend", True) or bool(getattr(config, "attention_dropout", None)):
        return False, f"{config.model_type} takes no attention function, or drops attention weights"
    previous = config._attn_implementation
    if previous not in ("sdpa", "eager", attention.NAME):
        return False, f"attention is computed by {previous}"
    rows = _trial_rows(config.vocab_size)
    was_training = model.training
    model.eval()
    attention.register()
    try:
        with torch.no_grad():
            padded = logits_to_learn(model, _to(PaddedCollator(0)(rows), model.device)).float()
            config._attn_implementation = attention.NAME
            packed = logits_to_learn(model, _to(PackedCollator()(rows), model.device)).float()
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        config._attn_implementation = previous
        return False, f"{config.model_type} does not take packed batches: {type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    apart = ((packed - padded).norm() / padded.norm().clamp(min=1e-6)).item()
    if not apart <= (1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1):
        config._attn_implementation = previous
        return False, f"a trial batch gave other logits packed than padded (relative difference {apart:.2g})"
    return True, "every layer has full attention; a trial batch gave the same logits packed and padded"


def _trial_rows(vocabulary: int) -> list[Row]:
    start = [(7 * i + 3) % vocabulary for i in range(9)]
    tails = [[(5 * i + 11) % vocabulary for i in range(6)], [(3 * i + 2) % vocabulary for i in range(4)]]
    return [
        {"id": str(n), "ids": start + tail, "loss": [False] * 9 + [True] * len(tail)} for n, tail in enumerate(tails)
    ]


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
