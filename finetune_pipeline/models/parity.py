"""Is the merged model the model that was trained? The adapter on the unquantized base against the merged weights.

Both compute in float32; the merged weights are as stored, so what is left is the rounding of the stored weights. Equal
greedy answers alone would miss a wrong merge on easy rows: the distributions over the next token are compared too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.generation import Answer, Reader, common_prefix, generate_and_score
from finetune_pipeline.models.chat import encode_answer, encode_prompt
from finetune_pipeline.models.loading import load_for_prediction, load_tokenizer, pick_device
from finetune_pipeline.training.faults import JobError

MEAN_KL_LIMIT = 0.005
"""Nats a token. Measured with a 135M model and its adapter for ticket labels: right merge 0.001 (the rounding of the
stored weights), scaling wrong by a tenth 0.012, merged into 4-bit weights 0.16."""

_MOST_POSITIONS = 1024


def parity(
    base: Path,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    labels: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    stage: str = "merged_model",
) -> dict[str, Any]:
    """Compare on `examples`: greedy answers, label choices, and the next-token distribution along the gold answers.

    Facts: rows, same_greedy, same_greedy_share, same_label_share (None without labels), positions, mean_kl and max_kl
    (nats a token, KL(adapter || merged)), mean_kl_limit, mean_abs_logit_difference, max_abs_logit_difference,
    different (ids of rows with other answers), passed: mean_kl within its limit. Raises JobError when either side's
    logits are not finite.
    """
    tokenizer = load_tokenizer(base)
    prompts = [encode_prompt(tokenizer, e.prompt_messages) for e in examples]
    gold = [encode_answer(tokenizer, e.prompt_messages, e.answer) for e in examples]
    label_ids = None
    if labels:
        label_ids = [[encode_answer(tokenizer, e.prompt_messages, label) for label in labels] for e in examples]
    sides = []
    for with_adapter in (True, False):
        model: Any = load_for_prediction(base if with_adapter else merged, pick_device())
        if with_adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).eval()
        answers = generate_and_score(
            model,
            tokenizer,
            prompts,
            label_ids,
            max_new_tokens,
            batch_size,
            stage,
            "adapter" if with_adapter else "merged model",
        )
        sides.append((answers, _logits(model, prompts, gold, batch_size)))
        del model
    (left, left_logits), (right, right_logits) = sides
    for name, logits in (("adapter on the base", left_logits), ("merged model", right_logits)):
        if not logits.isfinite().all():
            raise JobError(
                f"the {name} gives logits that are not finite numbers\nfix: train again; do not use this model"
            )
    apart = (left_logits - right_logits).abs()
    first, second = torch.log_softmax(left_logits, -1), torch.log_softmax(right_logits, -1)
    kl = (first.exp() * (first - second)).double().sum(-1).clamp(min=0)
    same = [a.text == b.text and a.status == b.status and a.status != "error" for a, b in zip(left, right, strict=True)]
    return {
        "rows": len(examples),
        "same_greedy": sum(same),
        "same_greedy_share": sum(same) / len(same),
        "same_label_share": _same_labels(left, right) if labels else None,
        "positions": len(kl),
        "mean_kl": kl.mean().item(),
        "max_kl": kl.max().item(),
        "mean_kl_limit": MEAN_KL_LIMIT,
        "mean_abs_logit_difference": apart.mean().item(),
        "max_abs_logit_difference": apart.max().item(),
        "different": [e.id for e, equal in zip(examples, same, strict=True) if not equal],
        "passed": bool(kl.mean().item() <= MEAN_KL_LIMIT),
    }


def _same_labels(left: Sequence[Answer], right: Sequence[Answer]) -> float:
    def best(answer: Answer) -> int:
        return max(range(len(answer.label_scores)), key=answer.label_scores.__getitem__, default=-1)

    same = [bool(a.label_scores) and best(a) == best(b) for a, b in zip(left, right, strict=True)]
    return sum(same) / len(same)


@torch.no_grad()
def _logits(model: Any, prompts: Sequence[list[int]], gold: Sequence[list[int]], batch_size: int) -> torch.Tensor:
    """Logits [positions, vocabulary] along the gold answers, in row order; the first positions when there are many."""
    shared = common_prefix(prompts)
    reader = Reader(model, prompts[0][:shared])
    parts: list[torch.Tensor] = []
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        batch = reader.read(prompts[rows])
        parts += [row[0].float() for row in reader.continuations(batch, [[ids] for ids in gold[rows]])]
        if sum(map(len, parts)) >= _MOST_POSITIONS:
            break
    return torch.cat(parts)[:_MOST_POSITIONS]
