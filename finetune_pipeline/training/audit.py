"""The supervision audit: checks token by token, before the first step, what the model will be trained on.

The audit compares the rows only with the examples and the serving prompt, regardless of how the rows were encoded: otherwise a
fault of the encoder would hide itself.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import msgspec
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import BLOCKING, TITLES, kind_of
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import Encoded, encode_prompt, end_ids
from finetune_pipeline.models.chat_templates import NAMED, marks

if TYPE_CHECKING:
    from finetune_pipeline.training.rows import Cut, Prepared

_MAX_IDS = 5
_MAX_CHARACTER_TOKENS = 4
_MISMATCH = "chat.template_mismatch"
"""Rule of the findings that count as template_mismatch; all others count as rows_refused."""
RESIDUE = sorted(
    {mark for template in NAMED.values() for mark in marks(template)}
    | {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"}
)
"""Control tokens of chat templates; in a turn's text they are residue of another format."""

COUNTS = {
    "rows_without_loss": ("teach nothing: none of their tokens has loss", "give each example an assistant answer"),
    "rows_partly_learned": (
        "have loss on only a part of an answer",
        "train on every token of the assistant's turns, or set `weight: 0` on turns that must not be learned",
    ),
    "rows_with_loss_on_prompt": (
        "have loss on tokens that the assistant has not written",
        "train on the assistant's turns only",
    ),
    "rows_without_eos": (
        "never teach the model to stop: their end-of-turn token has no loss",
        "use a chat template that ends an assistant turn with an end-of-answer token of the model",
    ),
    "answers_cut": (
        "contain less than the example's answer, or different text",
        "raise training.max_tokens; answers must never be cut",
    ),
    "rows_over_length": (
        "are longer than {max_tokens} tokens (training.max_tokens, or less if the base model's context is shorter)",
        "raise training.max_tokens, shorten the rows, or set training.over_length: drop or truncate_prompt",
    ),
    "rows_of_other_class": (
        "have another class than their label, or a label without a class",
        "name every label in output.labels",
    ),
    "template_mismatch": (
        "are rendered differently in training and in serving",
        "use a chat template whose generation prompt is the beginning of an assistant turn",
    ),
    "rows_refused": ("cannot be rendered by the chat template", "see the message for each row"),
    "rows_with_special_tokens": (
        "contain control tokens of a chat template as plain text",
        "remove them from the data: they would end or forge a turn",
    ),
}
"""Counts that must be zero: name to (description, fix)."""


class Spread(Facts, frozen=True, kw_only=True):
    """Minimum, median, 90th and 99th percentile, and maximum of some counts."""

    min: int
    p50: int
    p90: int
    p99: int
    max: int

    @classmethod
    def over(cls, counts: Sequence[int]) -> Spread | None:
        """Return the spread of the counts; None if there are none."""
        ordered = sorted(counts)
        if not ordered:
            return None
        shares = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return cls(**{name: ordered[round(share * (len(ordered) - 1))] for name, share in shares.items()})


class AuditedRow(Facts, frozen=True, kw_only=True):
    """A row token by token, with the reason why it is shown, and its fault if it has one.

    pieces: one (text, kind, special) per token. kind: ``loss`` (learned), ``context`` (read only), ``lost`` (cut from the
    prompt, or beyond max_tokens). special: whether it is one of the tokenizer's special tokens.
    """

    fault: str = ""
    why: str = ""
    id: str
    place: str
    tokens: int
    loss_tokens: int
    tokens_lost: int
    pieces: list[tuple[str, str, bool]]


class AuditCounts(Facts, frozen=True, kw_only=True):
    """Counts of the audit. Those of :data:`COUNTS` must be zero."""

    rows: int
    examples: int
    rows_without_loss: int
    rows_partly_learned: int
    rows_with_loss_on_prompt: int
    rows_without_eos: int
    answers_cut: int
    rows_over_length: int
    rows_of_other_class: int
    template_mismatch: int
    rows_refused: int
    rows_with_special_tokens: int
    rows_cut: int
    tokens_cut: int
    rows_dropped: int
    tokens: int
    loss_tokens: int

    def count(self, name: str) -> int:
        """Return a count by its name."""
        return int(getattr(self, name))


class SplitAudit(AuditCounts, frozen=True, kw_only=True):
    """The audit of one split.

    Attributes:
        bad: Up to 5 ids of each fault.
        findings: Why rows were refused.
        shown: Some rows token by token; empty in facts.
        problems: Findings that stop the training.
    """

    max_tokens: int
    tokens_per_row: Spread | None
    loss_tokens_per_row: Spread | None
    bad: dict[str, list[str]]
    findings: list[Finding]
    shown: list[AuditedRow] = msgspec.field(default_factory=list)
    problems: list[Finding] = msgspec.field(default_factory=list)


class Audit(AuditCounts, frozen=True, kw_only=True):
    """The counts over both splits, and the audit of each."""

    splits: dict[str, SplitAudit]


def faults(tokenizer: Any, example: Example, rows: Sequence[Encoded]) -> list[set[str]]:
    """Return the faults of each row of an example: names of :data:`COUNTS` (supervision and template, not length).
    Several rows contain one turn with loss each, in order; a single row contains all."""
    turns = [i for i, m in enumerate(example.messages) if m["role"] == "assistant" and m.get("weight") != 0]
    if len(rows) > 1 and len(rows) != len(turns):
        return [{"template_mismatch"} for _ in rows]
    ends = end_ids(tokenizer)
    faults_by_row = []
    for number, row in enumerate(rows):
        own_turns = turns if len(rows) == 1 else [turns[number]]
        row_faults: set[str] = set()
        answer_spans: list[tuple[int, int]] = []
        for i in own_turns:
            try:
                prompt = encode_prompt(tokenizer, example.messages[:i], example.tools)
            except FindingsError:
                row_faults.add("template_mismatch")
                continue
            start = len(prompt)
            if row.ids[:start] != prompt or len(row.ids) <= start:
                row_faults.add("template_mismatch")
                continue
            end = _end_of_answer(row.ids, start, ends, row.loss)
            answer_spans.append((start, end))
            row_faults |= _turn_faults(tokenizer, row, start, end, ends, str(example.messages[i]["content"]))
        if not any(row.loss):
            row_faults = (row_faults & {"template_mismatch"}) | {"rows_without_loss"}
        elif "template_mismatch" not in row_faults:
            learned = (position for position, has_loss in enumerate(row.loss) if has_loss)
            if not all(any(start <= position < end for start, end in answer_spans) for position in learned):
                row_faults.add("rows_with_loss_on_prompt")
        faults_by_row.append(row_faults)
    return faults_by_row


def class_faults(tokenizer: Any, example: Example, row: Encoded, classes: Sequence[str]) -> set[str]:
    """Return the faults of a classifier's row, as :func:`faults`."""
    row_faults = set()
    if row.ids != encode_prompt(tokenizer, example.messages[:-1], example.tools):
        row_faults.add("template_mismatch")
    if row.label is None or any(row.loss):
        row_faults.add("rows_without_loss" if row.label is None else "rows_with_loss_on_prompt")
    elif row.label not in classes or row.label != example.messages[-1]["content"]:
        row_faults.add("rows_of_other_class")
    return row_faults


def _end_of_answer(ids: Sequence[int], start: int, ends: set[int], loss: Sequence[bool]) -> int:
    """Return the end of the answer that begins at `start`: after its end token; without one, before a token without loss."""
    end = next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), None)
    if end is not None:
        return end
    return next((i for i in range(start, len(ids)) if not loss[i]), len(ids))


def _turn_faults(tokenizer: Any, row: Encoded, start: int, end: int, ends: set[int], content: str) -> set[str]:
    """Return the faults of the answer at start..end of a row, whose text in the example is `content`."""
    turn_faults = set()
    stops = row.ids[end - 1] in ends
    if not stops or not row.loss[end - 1]:
        turn_faults.add("rows_without_eos")
    answer_end = end - 1 if stops else end
    if not all(row.loss[start:answer_end]):
        turn_faults.add("rows_partly_learned")
    text = tokenizer.decode(row.ids[start:answer_end], clean_up_tokenization_spaces=False)
    answer = content.rpartition("</think>")[2].strip()
    if normalize("NFC", answer) not in normalize("NFC", text):  # some tokenizers compose accents (Qwen's)
        turn_faults.add("answers_cut")
    return turn_faults


def supervision_audit(prepared: Prepared, tokenizer: Any, max_tokens: int, place: str = "train split") -> SplitAudit:
    """Audit a split's rows. place: of the problems."""
    all_rows, examples, refused = prepared.rows, prepared.used, prepared.refused
    rows_by_id: dict[str, list[Encoded]] = defaultdict(list)
    for row in all_rows:
        rows_by_id[row.id].append(row)
    examples_by_id = {e.id: e for e in examples}
    faulty_ids: dict[str, list[str]] = {name: [] for name in COUNTS}
    for example_id, rows in rows_by_id.items():
        example = examples_by_id[example_id]
        if prepared.classes:
            faults_by_row = [class_faults(tokenizer, example, row, prepared.classes) for row in rows]
        else:
            faults_by_row = faults(tokenizer, example, rows)
        for row, row_faults in zip(rows, faults_by_row, strict=True):
            if len(row.ids) > max_tokens:
                row_faults.add("rows_over_length")
            for fault in row_faults:
                faulty_ids[fault].append(example_id)
    # a single character is text even if it is a special token (a pad token "!"), as in models.control_tokens
    residue = [t for t in {*tokenizer.all_special_tokens, *RESIDUE} if len(t) > 1]
    residue_examples = (e for e in examples if any(mark in m["content"] for m in e.messages for mark in residue))
    faulty_ids["rows_with_special_tokens"] = [e.id for e in residue_examples]
    mismatches = [f for f in refused if f.rule == _MISMATCH]
    counts = {name: len(ids) for name, ids in faulty_ids.items()}
    counts["template_mismatch"] += len(mismatches)
    counts["rows_refused"] = len(refused) - len(mismatches)
    audit = SplitAudit(
        rows=len(all_rows) + len(refused),
        examples=len(examples_by_id),
        **counts,
        rows_cut=len(prepared.cuts),
        tokens_cut=sum(cut.tokens for cuts in prepared.cuts.values() for cut in cuts),
        rows_dropped=len(prepared.left_out),
        max_tokens=max_tokens,
        tokens=sum(len(r.ids) for r in all_rows),
        loss_tokens=sum(r.learned for r in all_rows),
        tokens_per_row=Spread.over([len(r.ids) for r in all_rows]),
        loss_tokens_per_row=Spread.over([r.learned for r in all_rows]),
        bad={name: ids[:_MAX_IDS] for name, ids in faulty_ids.items() if ids},
        findings=refused[:_MAX_IDS],
        shown=_rows_to_show(prepared, tokenizer, max_tokens, examples_by_id, faulty_ids),
        problems=[],
    )
    return replace(audit, problems=problems(audit, place))


def _rows_to_show(
    prepared: Prepared,
    tokenizer: Any,
    max_tokens: int,
    examples_by_id: Mapping[str, Example],
    faulty_ids: Mapping[str, Sequence[str]],
) -> list[AuditedRow]:
    """Choose the rows to show, each once, with the reason: faults, truncated or dropped rows, a copy of each perturbation,
    and rows of typical lengths."""
    encoded, cuts = prepared.rows, prepared.cuts
    first_rows = {row.id: row for row in reversed(encoded)}
    chosen: dict[str, tuple[str, str, Encoded]] = {}
    for fault, ids in faulty_ids.items():
        for example_id in ids[:2]:
            if example_id in first_rows:
                chosen.setdefault(example_id, (fault, "", first_rows[example_id]))
    for example_id in sorted(cuts)[:2]:
        if example_id in first_rows:
            chosen.setdefault(example_id, ("", "its user text was cut", first_rows[example_id]))
    for row in prepared.left_out[:1]:
        chosen.setdefault(row.id, ("", "left out: longer than training.max_tokens", row))
    for kind in BLOCKING:
        if copy := next((row for row in encoded if kind_of(row.id) == kind), None):
            chosen.setdefault(copy.id, ("", "", copy))
    by_length = sorted(encoded, key=lambda r: (len(r.ids), r.id))
    if by_length:
        landmarks = {"the shortest row": 0, "a row of median length": len(by_length) // 2, "the longest row": -1}
        for reason, index in landmarks.items():
            chosen.setdefault(by_length[index].id, ("", reason, by_length[index]))
    return [
        replace(
            shown_row(tokenizer, row, examples_by_id.get(row.id), cuts.get(row.id, ()), max_tokens),
            fault=fault,
            why=", ".join(part for part in (reason, _perturbation(row.id)) if part),
        )
        for fault, reason, row in chosen.values()
    ]


def _perturbation(row_id: str) -> str:
    """Return the display name of a perturbed copy; empty for an original row."""
    kind = kind_of(row_id)
    return f"a perturbed copy ({TITLES[kind].lower()})" if kind else ""


def shown_row(
    tokenizer: Any, row: Encoded, example: Example | None, cuts: Sequence[Cut], max_tokens: int
) -> AuditedRow:
    """Return a row token by token, and the class of a classifier's row."""
    special = set(tokenizer.all_special_ids)
    pieces: list[tuple[str, str, bool]] = []
    pending: list[int] = []  # tokens of an incomplete character
    for position, (token, learned) in enumerate(zip(row.ids, row.loss, strict=True)):
        kind = "lost" if position >= max_tokens else "loss" if learned else "context"
        pending.append(token)
        text = tokenizer.decode(pending)
        if text.endswith("\ufffd") and len(pending) < _MAX_CHARACTER_TOKENS and position + 1 < len(row.ids):
            continue
        pieces.append((text, kind, token in special))
        pending = []
    if row.label is not None:
        pieces.append((row.label, "loss", False))
    if example is not None:
        for cut in sorted(cuts, key=lambda c: -c.turn):
            pieces.insert(_index_of_text(pieces, str(example.messages[cut.turn]["content"])), (cut.text, "lost", False))
    return AuditedRow(
        id=row.id,
        place=example.place if example is not None else "",
        tokens=len(row.ids),
        loss_tokens=row.learned,
        tokens_lost=sum(c.tokens for c in cuts) + max(0, len(row.ids) - max_tokens),
        pieces=pieces,
    )


def _index_of_text(pieces: Sequence[tuple[str, str, bool]], content: str) -> int:
    """Return the index of the piece where a turn's text begins: its last occurrence, since the prompt may quote it."""
    text = "".join(p[0] for p in pieces)
    position = text.rfind(content)
    position = position if position >= 0 else text.rfind(content.strip())
    ends = itertools.accumulate(len(p[0]) for p in pieces)
    return next((number for number, end in enumerate(ends) if end > position), len(pieces))


def problems(audit: SplitAudit, place: str = "train split") -> list[Finding]:
    """Return the findings that must stop training: every nonzero count of the audit, and an empty split."""
    findings = []
    causes = {
        "template_mismatch": next((f for f in audit.findings if f.rule == _MISMATCH), None),
        "rows_refused": next((f for f in audit.findings if f.rule != _MISMATCH), None),
    }
    for name, (message, fix) in COUNTS.items():
        count = audit.count(name)
        if not count:
            continue
        example_ids = audit.bad.get(name)
        names = f" (for example {', '.join(example_ids)})" if example_ids else ""
        if cause := causes.get(name):
            names = f" ({cause.place}: {cause.message})"
            fix = cause.fix
        text = message.format(max_tokens=audit.max_tokens)
        findings.append(Finding(f"audit.{name}", "error", place, f"{count} of {audit.rows} rows {text}{names}", fix))
    if audit.rows == 0:
        message, fix = "the split contains no rows", "check the row counts of the data steps"
        if dropped := audit.rows_dropped:
            message = f"all {dropped} rows are longer than {audit.max_tokens} tokens, and were left out"
            fix = "raise training.max_tokens, shorten the rows, or set training.over_length: truncate_prompt"
        findings.append(Finding("audit.no_rows", "error", place, message, fix))
    return findings
