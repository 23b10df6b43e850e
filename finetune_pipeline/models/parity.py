"""Merge parity: three tests that the stored model equals the trained one.

1. *Is the formula correct?* Compares the adapter on the unquantized base with PEFT's merge of the two, both in float32:
   next-token distributions must agree up to float32 noise (``merge_kl``).
2. *Are the stored weights correct?* Compares every stored tensor with that float32 merge: it must be the merge, rounded once
   to the stored dtype (``weights_off`` names the others). A layer left out, transposed, scaled wrongly, or merged into 4-bit
   weights fails here, even if the answers hardly change.
3. *What does rounding cost?* Compares the adapter on the base with the stored weights, both computed in float32
   (``mean_kl``, ``same_greedy``). Rounding is not an error of the merge: an update of a few steps may be smaller than half a
   bfloat16 step nearly everywhere, and is then lost. Above the limit the merge is stored in float32 (see :mod:`.merging`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind
from finetune_pipeline.models.chat import common_prefix, encode_answer, encode_prompt, load_tokenizer
from finetune_pipeline.models.identity import model_folder, model_record
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import logits_alone, rows_at_once
from finetune_pipeline.models.loading import as_stored, device_with_room, load_for_prediction, pick_device
from finetune_pipeline.models.model_files import EMBEDDINGS, HEADS
from finetune_pipeline.models.streaming import TORCH_TYPES
from finetune_pipeline.models.weights import Checkpoint
from finetune_pipeline.reporting import say

MEAN_KL_LIMIT = 0.005
"""Limit of the cost of rounding, in nats per token. Measured with a 135M model and its adapter for ticket labels: a full
training in bfloat16 8e-5 to 0.001, an adapter of six steps 0.09 (most of its update rounded away), 4-bit weights 0.16."""

MERGE_KL_LIMIT = 1e-5
"""Limit of the formula test, in nats per token: both sides in float32, where a correct merge gives at most 1e-8."""

_MOST_POSITIONS = 1024
_FORMULA_ROWS = 8
"""Rows of the formula test: a wrong formula is wrong on every one of them."""


@dataclass(frozen=True)
class Rows:
    """The compared rows: prompts and reference answers as token ids."""

    prompts: list[list[int]]
    gold: list[list[int]]

    @classmethod
    def encode(cls, tokenizer: Any, examples: Sequence[Example]) -> Rows:
        prompts = [encode_prompt(tokenizer, e.prompt_messages, e.tools) for e in examples]
        gold = [encode_answer(tokenizer, e.prompt_messages, e.messages[-1], e.tools) for e in examples]
        return cls(prompts, gold)


def parity(
    base: Path,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int,
    stage: str = "merged_model",
) -> dict[str, Any]:
    """Compare what was trained, an `adapter` of `base` or a whole model, with its served form `merged` on `examples`, in
    float32 (on the CPU if the GPU has too little memory).

    Facts: KL(trained || stored) in nats per token, answers, wrong weights, and merge_kl (low-rank adapters only). ``right``: tests
    1 and 2 pass; ``passed``: mean_kl is also within its limit. A soft prompt is compared with its plain model, or the base
    with its prefix, without the logits of new tokens, which PEFT lacks; new_tokens_chosen counts answers that contain one.
    Raises JobError if logits of either side are not finite.
    """
    kind = adapter_kind(adapter)
    is_soft_prompt = kind in ("prompt", "prefix")
    new_tokens = set(model_record(merged)["soft_ids"]) if kind == "prompt" else set()
    tokenizer = load_tokenizer(merged if kind == "prompt" else base)
    rows = Rows.encode(tokenizer, examples)
    device = device_with_room(base)
    if device != pick_device():
        reason = "since the base model in float32 does not fit on the GPU"
        say(f"{stage}: comparing on the CPU, {reason}; this takes longer")
    model: Any = load_for_prediction(base, device, adapter) if kind == "prefix" else load_for_prediction(merged, device)
    served_name = "served model" if is_soft_prompt else "merged model"
    answers = generate_and_score(model, tokenizer, rows.prompts, None, max_new_tokens, batch_size, stage, served_name)
    stored_logits = _without_tokens(teacher_forced_logits(model, rows, batch_size)[0], new_tokens)
    _check_finite(stored_logits, served_name)
    merge_kl = None
    if kind == "full":
        model = load_for_prediction(adapter, device)
        trained_logits, same_answers = teacher_forced_logits(model, rows, batch_size, answers)
        _check_finite(trained_logits, "trained model")
    else:
        from peft import PeftModel

        peft = PeftModel.from_pretrained(load_for_prediction(base, device), adapter).eval()
        if is_soft_prompt:
            trained_logits, same_answers = _peft_soft_prompt_logits(peft, rows, answers, new_tokens, len(stored_logits))
            # the tokenizer may have tokens without a row in the base
            stored_logits = stored_logits[:, : trained_logits.shape[-1]]
        else:
            trained_logits, same_answers = teacher_forced_logits(peft, rows, batch_size, answers)
        _check_finite(trained_logits, "adapter on the base")
        model = peft.get_base_model() if is_soft_prompt else peft.merge_and_unload()
        if not is_soft_prompt:
            formula_rows = Rows(rows.prompts[:_FORMULA_ROWS], rows.gold[:_FORMULA_ROWS])
            peft_merge_logits = teacher_forced_logits(model, formula_rows, batch_size)[0]
            merge_kl = divergence(trained_logits[: len(peft_merge_logits)], peft_merge_logits).mean().item()
    compared, wrong_weights = (0, []) if kind == "prefix" else differing_weights(model, merged)
    if kind == "prompt":  # the matrices with new rows are tested by their outputs
        wrong_weights = [n for n in wrong_weights if not n.endswith((*EMBEDDINGS, *HEADS, "lm_head.bias"))]
    new_tokens_chosen = sum(not new_tokens.isdisjoint(answer.new_ids) for answer in answers)
    right = not wrong_weights and not new_tokens_chosen and (merge_kl is None or merge_kl <= MERGE_KL_LIMIT)
    kl = divergence(trained_logits, stored_logits)
    return {
        "rows": len(examples),
        "same_greedy": sum(same_answers),
        "same_greedy_share": sum(same_answers) / len(same_answers),
        "positions": len(kl),
        "mean_kl": kl.mean().item(),
        "max_kl": kl.max().item(),
        "mean_kl_limit": MEAN_KL_LIMIT,
        "different": [e.id for e, equal in zip(examples, same_answers, strict=True) if not equal],
        "weights_compared": compared,
        "weights_off": wrong_weights,
        "right": right,
        "passed": right and kl.mean().item() <= MEAN_KL_LIMIT,
        "merge_kl": merge_kl,
        "merge_kl_limit": None if is_soft_prompt else MERGE_KL_LIMIT,
        **({"new_tokens_chosen": new_tokens_chosen} if is_soft_prompt else {}),
    }


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) of each row's softmax, in nats; p, q: logits [positions, vocabulary]. Summed in float64."""
    parts = []
    for pair in zip(p.split(64), q.split(64), strict=True):  # float64 over a large vocabulary needs much memory
        log_p, log_q = (torch.log_softmax(part.double(), -1) for part in pair)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
    return torch.cat(parts)


def _check_finite(values: torch.Tensor, name: str) -> None:
    """Raise JobError if one of the logits is not finite."""
    if not values.isfinite().all():
        raise JobError(f"the {name} gives logits that are not finite", "train again; do not use this model")


def differing_weights(reference: Any, merged: Path) -> tuple[int, list[str]]:
    """Return (number of compared tensors, names of those that are not the `reference` tensor rounded once to their dtype).

    reference: the merged model in float32. If its value is within float32 noise of the midpoint between two stored values,
    both are accepted. Loading has refused a model whose files lack a tensor.
    """
    expected = as_stored(reference)
    stored = Checkpoint(model_folder(merged))
    differing = []
    for name, file in stored.place.items():
        entry = file.entries[name]
        if name not in expected or tuple(expected[name].shape) != entry.shape or entry.dtype not in TORCH_TYPES:
            differing.append(name)
            continue
        for start, stop in file.blocks(name):
            expected_rows = expected[name][start:stop].cpu() if entry.shape else expected[name].cpu()
            if not _rounded_once(expected_rows.float(), file.rows(name, start, stop)):
                differing.append(name)
                break
    return len(stored.place), sorted(differing)


def _rounded_once(expected: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether `stored` is `expected` rounded once to the stored dtype, up to float32 noise in `expected`."""
    if not stored.dtype.is_floating_point:
        return torch.equal(expected.to(stored.dtype), stored)
    noise = expected.abs() * 2**-20 + (expected.abs().max() * 2**-22 if expected.numel() else 0.0)
    low, high = (expected - noise).to(stored.dtype), (expected + noise).to(stored.dtype)
    return bool(((stored >= low) & (stored <= high)).all())


@torch.no_grad()
def teacher_forced_logits(
    model: Any, rows: Rows, batch_size: int, answers: Sequence[Answer] = ()
) -> tuple[torch.Tensor, list[bool]]:
    """Return the logits along the reference answers, and which of another model's `answers` this model would give.

    A greedy answer need not be generated again: it is the same if this model, reading it, would choose each of its tokens.
    Returns (logits [positions, vocabulary], in row order, only the first positions if there are many; one bool per answer,
    False for a failed one).
    """
    longest = max(map(len, rows.prompts)) + max(map(len, [*rows.gold, *(answer.new_ids for answer in answers)]))
    batch_size = rows_at_once(model, batch_size, longest)
    shared = common_prefix(rows.prompts)
    reader = Reader(model, rows.prompts[0][:shared])
    parts: list[torch.Tensor] = []
    same_answers: list[bool] = []
    for start in range(0, len(rows.prompts), batch_size):
        if sum(map(len, parts)) >= _MOST_POSITIONS and not answers:
            break
        span = slice(start, start + batch_size)
        gold = rows.gold[span]
        compared: Sequence[Answer | None] = answers[span] or [None] * len(gold)
        texts = [[ids, answer.new_ids] if answer else [ids] for ids, answer in zip(gold, compared, strict=True)]
        logits = reader.continuations(reader.read(rows.prompts[span]), texts)
        for (gold_logits, *answer_logits), answer in zip(logits, compared, strict=True):
            parts.append(gold_logits.float().cpu())
            if answer is not None:
                same_answers.append(answer.status != "error" and answer_logits[0].argmax(-1).tolist() == answer.new_ids)
    return torch.cat(parts)[:_MOST_POSITIONS], same_answers


def _without_tokens(logits: torch.Tensor, tokens: Collection[int]) -> torch.Tensor:
    """Leave out the logits of some tokens; the vocabulary of these logits may lack them."""
    if not tokens:
        return logits
    keep = torch.ones(logits.shape[-1], dtype=torch.bool)
    keep[[token for token in tokens if token < logits.shape[-1]]] = False
    return logits[..., keep]


@torch.no_grad()
def _peft_soft_prompt_logits(
    model: Any, rows: Rows, answers: Sequence[Answer], new_tokens: Collection[int], positions: int
) -> tuple[torch.Tensor, list[bool]]:
    """Return what :func:`teacher_forced_logits` does, but for PEFT's model of a soft prompt, one row at a time.
    positions: number of logits. new_tokens: the prompt's tokens in the served model."""
    parts: list[torch.Tensor] = []
    same_answers: list[bool] = []
    for served_prompt, gold, answer in zip(rows.prompts, rows.gold, answers, strict=True):
        prompt = [t for t in served_prompt if t not in new_tokens]  # PEFT puts the vectors there itself
        if sum(map(len, parts)) < positions:
            parts.append(
                _without_tokens(logits_alone(model, prompt, gold, logits_to_keep=len(gold)).float().cpu(), new_tokens)
            )
        ids = answer.new_ids
        peft_answer = logits_alone(model, prompt, ids, logits_to_keep=len(ids)).argmax(-1).tolist() if ids else []
        same_answers.append(answer.status != "error" and peft_answer == ids)
    return torch.cat(parts)[:positions], same_answers
