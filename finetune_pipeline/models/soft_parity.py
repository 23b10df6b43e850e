"""Is a soft prompt outside PEFT the soft prompt that was trained? PEFT's own forward against the model that is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.adapters import adapter_kind
from finetune_pipeline.models.checkpoint import EMBEDDINGS, HEADS
from finetune_pipeline.models.identity import model_record
from finetune_pipeline.models.inference.generation import Answer, generate_and_score
from finetune_pipeline.models.loading import load_for_prediction, load_tokenizer, pick_device
from finetune_pipeline.models.parity import MEAN_KL_LIMIT, Rows, Side, compare, finite, logits, weights_off
from finetune_pipeline.models.prefixes import PrefixedModel


def soft_parity(
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
    """Compare a soft prompt under PEFT with what is served: the plain model `merged`, or the base behind its prefix.

    Same facts as :func:`finetune_pipeline.models.parity.parity`; merge_kl is None. The new tokens' logits, which PEFT has
    not got, are left out; new_tokens_chosen counts answers that hold one. PEFT's greedy answer is not generated anew: it
    is the served one where PEFT, reading that answer, would have chosen each of its tokens.
    """
    device, prefix = pick_device(), adapter_kind(adapter) == "prefix"
    soft = [] if prefix else list(model_record(merged)["soft_ids"])
    from peft import PeftModel

    peft = PeftModel.from_pretrained(load_for_prediction(base, device), adapter).eval()
    compared, off = (0, []) if prefix else weights_off(peft.get_base_model(), merged)
    # the matrices that got new rows are judged by what they do
    off = [n for n in off if n not in HEADS and not n.endswith((*EMBEDDINGS, "lm_head.bias"))]
    tokenizer = load_tokenizer(base if prefix else merged)
    served: Any = (
        PrefixedModel(load_for_prediction(base, device), adapter) if prefix else load_for_prediction(merged, device)
    )
    rows = Rows.encode(tokenizer, examples, labels)
    answers = generate_and_score(
        served, tokenizer, rows.prompts, rows.labels, max_new_tokens, batch_size, stage, "soft prompt, served"
    )
    right = Side(answers, finite(_without(logits(served, rows, batch_size), soft), "served model"))
    left = _under_peft(peft, tokenizer, rows, answers, soft, len(right.logits))
    facts = compare(left, right, examples, bool(labels))
    chosen = sum(bool(set(a.new_ids) & set(soft)) for a in answers)
    fine = not off and not chosen
    return {
        **facts,
        "merge_kl": None,
        "merge_kl_limit": None,
        "weights_compared": compared,
        "weights_off": off,
        "new_tokens_chosen": chosen,
        "right": fine,
        "passed": fine and facts["mean_kl"] <= MEAN_KL_LIMIT,
    }


def _without(values: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    keep = torch.ones(values.shape[-1], dtype=torch.bool)
    keep[[c for c in columns if c < values.shape[-1]]] = False
    return values[..., keep]


@torch.no_grad()
def _under_peft(
    model: Any, tokenizer: Any, rows: Rows, served: Sequence[Answer], soft: Sequence[int], positions: int
) -> Side:
    """PEFT's side, a row at a time; `positions`: how many logits the other side has."""
    parts: list[torch.Tensor] = []
    answers: list[Answer] = []
    for i, answer in enumerate(served):
        prompt = [t for t in rows.prompts[i] if t not in soft]  # PEFT puts the vectors there itself
        if sum(map(len, parts)) < positions:
            parts.append(_without(_along(model, prompt, [rows.gold[i]])[0], soft))
        labels = rows.labels[i] if rows.labels else []
        scores = []
        for part, label in zip(_along(model, prompt, labels) if labels else [], labels, strict=True):
            target = torch.tensor(label)[:, None]
            scores.append(torch.log_softmax(part, -1).gather(1, target).double().sum().item())
        ids = answer.new_ids
        own = _along(model, prompt, [ids])[0].argmax(-1).tolist() if ids else []
        text = answer.text if own == ids else tokenizer.decode(own)
        answers.append(replace(answer, text=text, label_scores=scores, status=answer.status if own == ids else "other"))
    return Side(answers, finite(torch.cat(parts)[:positions], "adapter on the base"))


def _along(model: Any, prompt: list[int], texts: Sequence[list[int]]) -> list[torch.Tensor]:
    """Logits [tokens, vocabulary] that predict each token of every text behind the prompt."""
    longest = max(map(len, texts))
    width = len(prompt) + longest - 1
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    seen = torch.zeros(len(texts), width, dtype=torch.long)
    for i, text in enumerate(texts):
        row = [*prompt, *text[:-1]]
        ids[i, : len(row)], seen[i, : len(row)] = torch.tensor(row), 1
    out = model(input_ids=ids.to(model.device), attention_mask=seen.to(model.device), logits_to_keep=longest)
    return [out.logits[i, : len(text)].float().cpu() for i, text in enumerate(texts)]
