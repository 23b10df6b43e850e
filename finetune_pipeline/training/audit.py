"""The supervision audit: checks token by token, before the first step, what the model will be trained on.

The rows are judged against the examples and the serving prompt alone, not by how they were made: a fault in their making
would otherwise hide itself.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import BLOCKING, TITLES, kind_of
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import Encoded, encode_prompt, end_ids
from finetune_pipeline.models.chat_templates import NAMED, marks

if TYPE_CHECKING:
    from finetune_pipeline.training.rows import Cut

_NAMED = 5
_LONGEST_CHARACTER = 4
RESIDUE = sorted(
    {m for text in NAMED.values() for m in marks(text)}
    | {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"}
)
"""Marks of chat templates: inside a turn's text they are residue of another format."""

COUNTS = {
    "rows_without_loss": ("teach nothing: no token of them carries loss", "give each example an assistant answer"),
    "rows_partly_learned": (
        "carry loss on a part of an answer only",
        "train on every token of the assistant's turns, or set `weight: 0` on those not to be learned",
    ),
    "rows_with_loss_on_prompt": (
        "carry loss on tokens that the assistant has not written",
        "train on the assistant's turns only",
    ),
    "rows_without_eos": (
        "never teach the model to stop: their end-of-turn token carries no loss",
        "use a chat template that ends an assistant turn with an end-of-answer token of the model",
    ),
    "answers_cut": (
        "hold less, or other, text than the example's answer",
        "raise training.max_tokens; answers are never to be cut",
    ),
    "rows_over_length": (
        "are longer than {max_tokens} tokens (training.max_tokens, or what the base model's context leaves)",
        "raise training.max_tokens, shorten the rows, or set training.over_length: drop or truncate_prompt",
    ),
    "template_mismatch": (
        "are rendered differently in training and in serving",
        "use a chat template whose generation prompt is the beginning of an assistant turn",
    ),
    "rows_refused": ("cannot be written by the chat template", "see what is said about each"),
    "rows_with_special_tokens": (
        "hold marks of a chat template as plain text",
        "remove them from the data: they would end or forge a turn",
    ),
}
"""Counts that must be zero: name to (description, fix)."""


def _percentiles(numbers: Sequence[int]) -> dict[str, int]:
    ordered = sorted(numbers)
    if not ordered:
        return {}
    at = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * (len(ordered) - 1))] for name, share in at.items()}


def faults(tokenizer: Any, example: Example, rows: Sequence[Encoded]) -> list[set[str]]:
    """Per row of one example, which of :data:`COUNTS` it counts for (supervision and template, not length).
    Several rows are one a learned turn, in order; a single row holds them all."""
    turns = [i for i, m in enumerate(example.messages) if m["role"] == "assistant" and m.get("weight") != 0]
    if len(rows) > 1 and len(rows) != len(turns):
        return [{"template_mismatch"} for _ in rows]
    ends = end_ids(tokenizer)
    faults_by_row = []
    for number, row in enumerate(rows):
        own_turns = turns if len(rows) == 1 else [turns[number]]
        wrong: set[str] = set()
        allowed: list[tuple[int, int]] = []
        for i in own_turns:
            try:
                prompt = encode_prompt(tokenizer, example.messages[:i], example.tools)
            except FindingsError:
                wrong.add("template_mismatch")
                continue
            start = len(prompt)
            if row.ids[:start] != prompt or len(row.ids) <= start:
                wrong.add("template_mismatch")
                continue
            end = _end_of_answer(row.ids, start, ends, row.loss)
            allowed.append((start, end))
            wrong |= _turn_faults(tokenizer, row, start, end, ends, str(example.messages[i]["content"]))
        if not any(row.loss):
            wrong = (wrong & {"template_mismatch"}) | {"rows_without_loss"}
        elif "template_mismatch" not in wrong:
            learned = (at for at, learned in enumerate(row.loss) if learned)
            if not all(any(a <= at < b for a, b in allowed) for at in learned):
                wrong.add("rows_with_loss_on_prompt")
        faults_by_row.append(wrong)
    return faults_by_row


def _end_of_answer(ids: Sequence[int], start: int, ends: set[int], loss: Sequence[bool]) -> int:
    """The end of the answer that begins at `start`: after its end token, or if there is none, after its last loss."""
    end = next((at + 1 for at in range(start, len(ids)) if ids[at] in ends), None)
    if end is not None:
        return end
    return next((at for at in range(start, len(ids)) if not loss[at]), len(ids))


def _turn_faults(tokenizer: Any, row: Encoded, start: int, end: int, ends: set[int], content: str) -> set[str]:
    wrong = set()
    stops = row.ids[end - 1] in ends
    if not stops or not row.loss[end - 1]:
        wrong.add("rows_without_eos")
    last = end - 1 if stops else end
    if not all(row.loss[start:last]):
        wrong.add("rows_partly_learned")
    text = tokenizer.decode(row.ids[start:last], clean_up_tokenization_spaces=False)
    if content.rpartition("</think>")[2].strip() not in text:
        wrong.add("answers_cut")
    return wrong


def supervision_audit(
    encoded: Sequence[Encoded],
    tokenizer: Any,
    max_tokens: int,
    examples: Sequence[Example],
    *,
    refused: Sequence[Finding] = (),
    cuts: Mapping[str, Sequence[Cut]] | None = None,
    dropped: Sequence[Encoded] = (),
) -> dict[str, Any]:
    """Facts about encoded rows; nothing is changed.

    examples: those the rows were made from, by id (cut as they were cut); refused: findings of examples that could not be
    encoded; cuts: what was cut from which example; dropped: rows left out for their length. Among the facts are the counts of
    :data:`COUNTS`, up to 5 ids of each as ``bad``, and rows token by token as ``shown``, see :func:`shown_row`.
    """
    cuts = cuts or {}
    by_id: dict[str, list[Encoded]] = defaultdict(list)
    for row in encoded:
        by_id[row.id].append(row)
    known = {e.id: e for e in examples}
    bad: dict[str, list[str]] = {name: [] for name in COUNTS}
    for name, rows in by_id.items():
        for row, wrong in zip(rows, faults(tokenizer, known[name], rows), strict=True):
            if len(row.ids) > max_tokens:
                wrong.add("rows_over_length")
            for fault in wrong:
                bad[fault].append(name)
    residue = [t for t in {*tokenizer.all_special_tokens, *RESIDUE} if t]
    marked = (e for e in examples if any(mark in m["content"] for m in e.messages for mark in residue))
    bad["rows_with_special_tokens"] = [e.id for e in marked]
    mismatches = [f for f in refused if f.rule == "chat.template_mismatch"]
    counts = {name: len(ids) for name, ids in bad.items()}
    counts["template_mismatch"] += len(mismatches)
    counts["rows_refused"] = len(refused) - len(mismatches)
    return {
        "rows": len(encoded) + len(refused),
        "examples": len(known),
        **counts,
        "rows_cut": len(cuts),
        "tokens_cut": sum(cut.tokens for example_cuts in cuts.values() for cut in example_cuts),
        "rows_dropped": len(dropped),
        "max_tokens": max_tokens,
        "tokens": sum(len(r.ids) for r in encoded),
        "loss_tokens": sum(sum(r.loss) for r in encoded),
        "tokens_per_row": _percentiles([len(r.ids) for r in encoded]),
        "loss_tokens_per_row": _percentiles([sum(r.loss) for r in encoded]),
        "bad": {name: ids[:_NAMED] for name, ids in bad.items() if ids},
        "findings": [f.to_dict() for f in refused[:_NAMED]],
        "shown": _shown(tokenizer, encoded, known, bad, cuts, dropped, max_tokens),
    }


def _shown(
    tokenizer: Any,
    encoded: Sequence[Encoded],
    known: Mapping[str, Example],
    bad: Mapping[str, Sequence[str]],
    cuts: Mapping[str, Sequence[Cut]],
    dropped: Sequence[Encoded],
    max_tokens: int,
) -> list[dict[str, Any]]:
    """Rows to show, each once, with the reason: faults first, then truncated or dropped rows, then
    one copy of each perturbation."""
    first = {row.id: row for row in reversed(encoded)}
    chosen: dict[str, tuple[str, str, Encoded]] = {}
    for fault, ids in bad.items():
        for name in ids[:2]:
            if name in first:
                chosen.setdefault(name, (fault, "", first[name]))
    for name in sorted(cuts)[:2]:
        if name in first:
            chosen.setdefault(name, ("", "its user text was cut", first[name]))
    for row in dropped[:1]:
        chosen.setdefault(row.id, ("", "left out: longer than training.max_tokens", row))
    for kind in BLOCKING:
        if copy := next((row for row in encoded if kind_of(row.id) == kind), None):
            chosen.setdefault(copy.id, ("", "", copy))
    by_length = sorted(encoded, key=lambda r: (len(r.ids), r.id))
    if by_length:
        places = {"the shortest row": 0, "a row of median length": len(by_length) // 2, "the longest row": -1}
        for why, place in places.items():
            chosen.setdefault(by_length[place].id, ("", why, by_length[place]))
    return [
        {
            "fault": fault,
            "why": ", ".join(part for part in (why, _perturbation(row.id)) if part),
            **shown_row(tokenizer, row, known.get(row.id), cuts.get(row.id, ()), max_tokens),
        }
        for fault, why, row in chosen.values()
    ]


def _perturbation(row_id: str) -> str:
    """The display name of a perturbed copy; empty for an original row."""
    kind = kind_of(row_id)
    return f"a perturbed copy ({TITLES[kind].lower()})" if kind else ""


def shown_row(
    tokenizer: Any, row: Encoded, example: Example | None, cuts: Sequence[Cut], max_tokens: int
) -> dict[str, Any]:
    """{id, place, tokens, loss_tokens, tokens_lost, pieces}: pieces are [text, kind, special] a token.

    kind: ``loss`` (learned), ``context`` (read only), ``lost`` (cut from the prompt, or behind max_tokens). special:
    whether it is one of the tokenizer's special tokens.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[list[Any]] = []
    held: list[int] = []  # tokens of a character that is not whole yet
    for at, (token, learned) in enumerate(zip(row.ids, row.loss, strict=True)):
        kind = "lost" if at >= max_tokens else "loss" if learned else "context"
        held.append(token)
        text = tokenizer.decode(held)
        if text.endswith("\ufffd") and len(held) < _LONGEST_CHARACTER and at + 1 < len(row.ids):
            continue
        pieces.append([text, kind, token in special])
        held = []
    if example is not None:
        for cut in sorted(cuts, key=lambda c: -c.turn):
            pieces.insert(_begin(pieces, str(example.messages[cut.turn]["content"])), [cut.text, "lost", False])
    return {
        "id": row.id,
        "place": example.place if example is not None else "",
        "tokens": len(row.ids),
        "loss_tokens": sum(row.loss),
        "tokens_lost": sum(c.tokens for c in cuts) + max(0, len(row.ids) - max_tokens),
        "pieces": pieces,
    }


def _begin(pieces: Sequence[Sequence[Any]], content: str) -> int:
    """The piece at which a turn's text begins: its last occurrence, since the prompt may quote it before."""
    whole = "".join(str(p[0]) for p in pieces)
    at = whole.rfind(content)
    at = at if at >= 0 else whole.rfind(content.strip())
    ends = itertools.accumulate(len(str(p[0])) for p in pieces)
    return next((number for number, end in enumerate(ends) if end > at), len(pieces))


def problems(facts: dict[str, Any], place: str = "train split") -> list[Finding]:
    """Findings that must stop training: every count of the audit that is not zero, and an empty split."""
    findings = []
    for name, (message, fix) in COUNTS.items():
        count = facts[name]
        if not count:
            continue
        named = facts["bad"].get(name)
        who = f" (for example {', '.join(named)})" if named else ""
        refused = [
            f for f in facts["findings"] if (f["rule"] == "chat.template_mismatch") == (name == "template_mismatch")
        ]
        if refused and name in ("template_mismatch", "rows_refused"):
            who = f" ({refused[0]['place']}: {refused[0]['message']})"
            fix = refused[0]["fix"]
        text = message.format(max_tokens=facts["max_tokens"])
        findings.append(Finding(f"audit.{name}", "error", place, f"{count} of {facts['rows']} rows {text}{who}", fix))
    if facts["rows"] == 0:
        fix = "look at the data stages' counts"
        findings.append(Finding("audit.no_rows", "error", place, "the split holds no rows", fix))
    return findings
