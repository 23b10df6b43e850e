"""Batches for training: rows packed behind shared prefixes, or padded; both with the same loss.

In causal attention the hidden states of a prefix do not depend on what follows it. One packed sequence [prefix][suffix 1]
[suffix 2]…, with position ids that continue from the prefix in every suffix, gives the loss and gradients of the padded
batch, and computes the prefix once. Logits are computed only for tokens with loss.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from finetune_pipeline.models.inference.trial import relative_difference
from finetune_pipeline.training import attention
from finetune_pipeline.training.prefix_tree import BUCKETS, Layout, Row, prefix_tree, segments

Collator = Callable[[Sequence[Row]], dict[str, object]]
"""Makes a batch of rows."""


def packed_batch(rows: Sequence[Row], leading: int = 0, virtual: int = 0, kernel: str = BUCKETS) -> dict[str, object]:
    """Pack rows {id, ids, loss} into one sequence. A row with a `class_id` has its loss on that class, predicted at its last token.

    leading: virtual tokens of prompt tuning, in the sequence before all rows; virtual: those of prefix tuning, before the
    sequence as keys and values only. Returns input_ids [1, T] and position_ids [1, leading + T]; logit_positions [n] and
    labels [n]: where logits are needed, and for which token (a position may occur several times); shared_prefix: the layout;
    row_ids and learned: the rows in the order of `labels`, and how many labels each has.
    """
    rows = sorted(rows, key=lambda r: -len(r["ids"]))
    inner, leaves = prefix_tree(rows)
    first_number = 1 if leading else 0  # number of the first segment with tokens of rows
    layout = Layout(*segments(inner, leaves, leading), virtual, kernel)
    starts = layout.starts()
    offset = leading + virtual
    ids: list[int] = []
    positions = list(range(virtual, offset))
    for segment in [*inner, *leaves]:
        ids += rows[segment.row]["ids"][segment.start : segment.end]
        positions += range(offset + segment.start, offset + segment.end)
    padding = sum(layout.lengths) - len(positions)
    ids += ids[-1:] * padding
    positions += positions[-1:] * padding  # no later one, which a model may lack
    logit_positions: list[int] = []
    labels: list[int] = []
    learned_by_row: list[int] = []
    for number, segment in enumerate(leaves, first_number + len(inner)):
        row = rows[segment.row]
        parent = layout.parents[number]
        if "class_id" in row:
            logit_positions.append(starts[number] + segment.end - segment.start - 1)
            labels.append(row["class_id"])
        for position, learned in enumerate(row["loss"]):
            if learned and position:
                # the token before it predicts it: in this segment, or the parent's last
                if position > segment.start:
                    logit_positions.append(starts[number] + position - 1 - segment.start)
                else:
                    logit_positions.append(starts[parent] + layout.lengths[parent] - 1)
                labels.append(row["ids"][position])
        learned_by_row.append(len(labels) - sum(learned_by_row))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "logit_positions": torch.tensor(logit_positions),
        "labels": torch.tensor(labels),
        "shared_prefix": layout,
        "row_ids": [rows[segment.row]["id"] for segment in leaves],
        "learned": learned_by_row,
    }


def packed_collator(model: Any, kernel: str = BUCKETS) -> Collator:
    """Return :func:`packed_batch` for `model`, with its virtual tokens (spec.methods.soft_prompt). kernel: of choose_kernel."""
    leading, virtual = getattr(model, "virtual_tokens", (0, 0))
    return partial(packed_batch, leading=leading, virtual=virtual, kernel=kernel)


def padded_batch(rows: Sequence[Row]) -> dict[str, object]:
    """Pad rows {id, ids, loss} on the right, with token 0: nothing attends to it. class_id: as of :func:`packed_batch`.

    Returns input_ids and attention_mask [n, T]; labels [m]: tokens with loss, row by row; logits_to_keep: for how many of the
    last positions logits are computed; logit_positions [m]: indices of the labels' logits among them, flattened over rows;
    row_ids and learned: as of :func:`packed_batch`.
    """
    length = max(len(r["ids"]) for r in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    predicts = torch.zeros(len(rows), length, dtype=torch.bool)  # positions whose logits predict a label
    labels: list[int] = []
    for i, row in enumerate(rows):
        n = len(row["ids"])
        ids[i, :n] = torch.tensor(row["ids"])
        attention_mask[i, :n] = 1
        if "class_id" in row:
            predicts[i, n - 1] = True
            labels.append(row["class_id"])
            continue
        predicts[i, : n - 1] = torch.tensor(row["loss"][1:], dtype=torch.bool)
        labels += [token for token, learned in zip(row["ids"][1:], row["loss"][1:], strict=True) if learned]
    first_position = int(predicts.any(0).nonzero()[0])  # here, on the CPU, where no device must be waited for
    return {
        "input_ids": ids,
        "attention_mask": attention_mask,
        "labels": torch.tensor(labels),
        "logits_to_keep": length - first_position,
        "logit_positions": predicts[:, first_position:].flatten().nonzero().squeeze(1),
        "row_ids": [r["id"] for r in rows],
        "learned": predicts.sum(1).tolist(),
    }


def logits_to_learn(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the logits [n, vocabulary] that predict ``batch["labels"]``, for a batch of either kind."""
    if "shared_prefix" in batch:
        # transformers passes on a 4-D mask unchanged, instead of building a T x T one that nothing reads
        unused_mask = torch.zeros(1, 1, 1, 1, device=batch["input_ids"].device)
        logits: torch.Tensor = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=unused_mask,
            shared_prefix=batch["shared_prefix"],
            logits_to_keep=batch["logit_positions"],
            use_cache=False,
        ).logits[0]
        return logits
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        logits_to_keep=batch["logits_to_keep"],
        use_cache=False,
    ).logits
    return logits.flatten(0, 1).index_select(0, batch["logit_positions"])


def _windows(config: Any) -> list[int | None] | str:
    """Return each layer's sliding window (None: full attention), or why packed attention cannot be used."""
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    unsupported = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unsupported:
        return f"{config.model_type} has layers without full or sliding attention ({', '.join(unsupported)})"
    return [window if kind == "sliding_attention" else None for kind in kinds]


def supports_shared_prefix(model: Any) -> tuple[bool, str]:
    """Return (whether packing gives this model's own logits, the reason).

    Requires full or sliding attention in every layer through transformers' attention interface, and then tries two short rows,
    packed and padded. On success the model's attention function is the packed one.
    """
    config = model.config.get_text_config()
    windows = _windows(config)
    if isinstance(windows, str):
        return False, windows
    if not getattr(model, "_supports_attention_backend", True) or bool(getattr(config, "attention_dropout", None)):
        return False, f"{config.model_type} supports no attention function, or drops attention weights"
    previous = config._attn_implementation
    if previous not in ("sdpa", "eager", attention.NAME):
        return False, f"attention is computed by {previous}"
    was_training = model.training
    model.eval()
    try:
        problem = _problem_in_trial(model, config, windows)
    except (TypeError, RuntimeError, KeyError, ValueError) as error:
        problem = f"{config.model_type} does not support packed batches: {type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    if problem:
        config._attn_implementation = previous
        return False, problem
    coverage = "full attention" if not any(windows) else "full or sliding attention"
    return True, f"every layer has {coverage}; a trial batch gave the same logits packed and padded"


@torch.no_grad()
def _problem_in_trial(model: Any, config: Any, windows: list[int | None]) -> str:
    """Return the problem that a trial batch shows with packing, or an empty string. Leaves the packed attention switched on."""
    rows = _trial_rows(config.vocab_size)
    attention.register()
    padded = logits_to_learn(model, _to_device(padded_batch(rows), model.device)).float()
    config._attn_implementation = attention.NAME
    batch = _to_device(packed_collator(model)(rows), model.device)
    packed = logits_to_learn(model, batch).float()
    if batch["shared_prefix"].windows != windows:
        return f"{config.model_type} does not pass each layer's sliding window to its attention function"
    difference = relative_difference(packed, padded)
    if not difference <= (1e-3 if next(model.parameters()).dtype == torch.float32 else 0.1):
        return f"a trial batch gave other logits packed than padded (relative difference {difference:.2g})"
    return ""


def _trial_rows(vocabulary: int) -> list[Row]:
    prefix = [(7 * i + 3) % vocabulary for i in range(9)]
    tails = [[(5 * i + 11) % vocabulary for i in range(6)], [(3 * i + 2) % vocabulary for i in range(4)]]
    return [
        {"id": str(n), "ids": prefix + tail, "loss": [False] * 9 + [True] * len(tail)} for n, tail in enumerate(tails)
    ]


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
