"""What the model will really be taught, token by token, looked at before a single step is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_pipeline.findings import Finding
from finetune_pipeline.models.chat import Encoded

_NAMED = 5


def _percentiles(numbers: Sequence[int]) -> dict[str, int]:
    ordered = sorted(numbers)
    if not ordered:
        return {}
    at = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()}


def supervision_audit(
    encoded: Sequence[Encoded],
    tokenizer: Any,
    max_tokens: int,
    mismatches: Sequence[Finding] = (),
    contents: Sequence[str] = (),
) -> dict[str, Any]:
    """Facts about encoded rows; nothing is changed.

    mismatches: findings of rows that could not be encoded. contents: the rows' user and assistant texts, to find special
    tokens in them. Facts: rows, loss_tokens, tokens, the counts rows_without_loss, rows_without_eos, rows_over_length,
    template_mismatch, rows_with_special_tokens, examples {count's name: up to 5 ids}, percentiles of tokens and
    loss_tokens a row, and shown: the shortest, the median and the longest row as [token text, has loss] pairs.
    """
    eos = tokenizer.eos_token_id
    bad: dict[str, list[str]] = {"rows_without_loss": [], "rows_without_eos": [], "rows_over_length": []}
    for row in encoded:
        if not any(row.loss):
            bad["rows_without_loss"].append(row.id)
        elif not any(learned and token == eos for token, learned in zip(row.ids, row.loss, strict=True)):
            bad["rows_without_eos"].append(row.id)
        if len(row.ids) > max_tokens:
            bad["rows_over_length"].append(row.id)
    marks = [t for t in tokenizer.all_special_tokens if t]
    special = sum(any(mark in text for mark in marks) for text in contents)
    by_length = sorted(encoded, key=lambda r: (len(r.ids), r.id))
    chosen = {id(r): r for r in (by_length[0], by_length[len(by_length) // 2], by_length[-1])} if by_length else {}
    return {
        "rows": len(encoded) + len(mismatches),
        **{name: len(ids) for name, ids in bad.items()},
        "template_mismatch": len(mismatches),
        "rows_with_special_tokens": special,
        "max_tokens": max_tokens,
        "tokens": sum(len(r.ids) for r in encoded),
        "loss_tokens": sum(sum(r.loss) for r in encoded),
        "tokens_per_row": _percentiles([len(r.ids) for r in encoded]),
        "loss_tokens_per_row": _percentiles([sum(r.loss) for r in encoded]),
        "examples": {name: ids[:_NAMED] for name, ids in bad.items() if ids},
        "mismatches": [f.to_dict() for f in mismatches[:_NAMED]],
        "shown": [
            [[tokenizer.decode([t]), learned] for t, learned in zip(r.ids, r.loss, strict=True)]
            for r in chosen.values()
        ],
    }


def problems(facts: dict[str, Any], place: str = "train split") -> list[Finding]:
    """Findings that must stop training: every count of the audit that is not zero, and an empty split."""
    told = {
        "rows_without_loss": ("teach nothing: no token of them carries loss", "give each example an assistant answer"),
        "rows_without_eos": (
            "never teach the model to stop: their end-of-turn token carries no loss",
            "use a chat template that ends an assistant turn with the tokenizer's EOS token",
        ),
        "rows_over_length": (
            f"are longer than training.max_tokens = {facts['max_tokens']}",
            "raise training.max_tokens, shorten the rows, or set training.over_length: drop",
        ),
        "template_mismatch": (
            "are rendered differently in training and in serving",
            "use a chat template whose generation prompt is the beginning of an assistant turn",
        ),
        "rows_with_special_tokens": (
            "hold the tokenizer's special tokens as plain text",
            "remove them from the data: they would end or forge a turn",
        ),
    }
    found = []
    for name, (message, fix) in told.items():
        count = facts[name]
        if not count:
            continue
        named = facts["examples"].get(name)
        who = f" (for example {', '.join(named)})" if named else ""
        if name == "template_mismatch" and facts["mismatches"]:
            who = f" ({facts['mismatches'][0]['place']}: {facts['mismatches'][0]['message']})"
        found.append(Finding(f"audit.{name}", "error", place, f"{count} of {facts['rows']} rows {message}{who}", fix))
    if facts["rows"] == 0:
        found.append(
            Finding("audit.no_rows", "error", place, "the split holds no rows", "look at the data stages' counts")
        )
    return found
