"""Builds the pages of the training plan and of the supervision audit."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from finetune_pipeline.evaluation.wording import NOTHING, counted, dollars_range, number, percent
from finetune_pipeline.planning.costs import TrainingCost
from finetune_pipeline.planning.plan import MethodRow, TrainingPlan
from finetune_pipeline.report.blocks import (
    Code,
    Format,
    Page,
    Section,
    Span,
    Table,
    Text,
    TokenRow,
    Tokens,
    Verdict,
    figure,
    text,
)
from finetune_pipeline.report.page import page_html
from finetune_pipeline.spec.methods import METHODS, Kind
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.audit import AuditedRow, SplitAudit, Spread

PARTS = ("weights", "trained", "activations", "logits", "overhead")
"""Parts of the memory at the peak, in the order of the table."""


def plan_page(plan: TrainingPlan) -> Page:
    memory, nearest, free = plan.memory_mib, plan.nearest, plan.available_mib
    parts = [[name, memory[name], memory[name] / free] for name in (*PARTS, "total") if memory[name]]
    columns = [("Part of the peak", text), ("MiB", number), (f"Share of the {free:,} MiB that are free", percent)]
    table = Table(columns, parts, [len(parts) - 1])
    fitting = Code(nearest.yaml, "yaml") if nearest and nearest.fits else None
    return Page(
        "Training plan",
        plan.sentence,
        None,
        [
            Section.of("memory", "Memory", [table, fitting]),
            Section.of("methods", "Methods side by side", [_methods_table(plan.methods)]),
            Section.of("prices", "The same training elsewhere", [_prices_table(plan.prices)]),
        ],
    )


def _prices_table(prices: Sequence[TrainingCost]) -> Table:
    """Return a table of other trainers' prices for the same tokens, from the dated price list."""
    columns = [("Where, for a model of", text), ("Dollars", figure), ("As of", text), ("Note", text)]
    rows = [[p.where, dollars_range(p.low, p.high), p.date, "; ".join([*p.warnings, p.note])] for p in prices]
    return Table(columns, rows, style="figures notes")


def _methods_table(methods: Sequence[MethodRow]) -> Table:
    columns: list[tuple[str, Format]] = [("Method", text), ("Trainable parameters", number)]
    columns += [("Memory", "{:,} MiB".format), ("Fits", text)]
    rows = [
        [row.method, row.trainable_parameters, row.memory_mib, "yes" if row.fits else "no", row.result_bytes]
        for row in methods
    ]
    return Table([*columns, ("Result", file_size)], rows, [i for i, row in enumerate(methods) if row.chosen])


def file_size(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


_LONG, _EDGE = 160, 60
"""Length of a run of context tokens from which its middle is folded, and the number of tokens shown at either end."""
FAULTS = {
    "rows_without_loss": "No token with loss",
    "rows_partly_learned": "Answer only partly learned",
    "rows_with_loss_on_prompt": "Loss outside the answers",
    "rows_without_eos": "End of turn not learned",
    "answers_cut": "Answer incomplete",
    "rows_over_length": "Longer than max_tokens",
    "rows_of_other_class": "Another class than the label",
    "template_mismatch": "Text differs from serving",
    "rows_refused": "Refused by the chat template",
    "rows_with_special_tokens": "Control tokens in the text",
}
_DONE = {
    "rows_cut": "Examples with truncated user text",
    "tokens_cut": "Tokens removed",
    "rows_dropped": "Rows left out",
}


def audit_page(audits: Mapping[str, SplitAudit], settings: TrainingSettings) -> Page:
    """Build the page of the audits by split. settings: ``spec.training``."""
    note = (
        f"`training.max_tokens` is {settings.max_tokens:,}, and `training.over_length` is {settings.over_length}: it decides "
        "on longer examples."
    )
    if settings.augment:
        note += " Training rows are used unchanged and with every perturbation that can block (`training.augment`)."
    sections = [Section.of("counters", "Counters", [counters(audits), Text(note, note=True)])]
    for split, audit in audits.items():
        rows = Tokens([_row(row) for row in audit.shown], legend=split == next(iter(audits)))
        sections.append(Section.of(split, f"Rows of the {split} split", [rows or "No rows to show."]))
    lead = "What the model is trained on, token by token, before the first step."
    return Page("Supervision audit", lead, _verdict(audits, METHODS[settings.method].kind), sections, unfolded=2)


def audit_html(audits: Mapping[str, SplitAudit], settings: TrainingSettings) -> str:
    return page_html(audit_page(audits, settings))


def _verdict(audits: Mapping[str, SplitAudit], kind: Kind) -> Verdict:
    if problems := [problem for audit in audits.values() for problem in audit.problems]:
        faults = [(f"{p.place}: {p.message}.", f"What to do: {p.fix}.") for p in problems]
        sentence = "It would train on something other than the answers:"
        return Verdict("failed", "Training is stopped.", sentence, faults=faults)
    rows, learned = learned_of(audits)
    if not kind.generates:
        sentence = (
            f"Each of {counted(rows, 'row')} has the class of its label, learned from the whole prompt; the text equals that of "
            "serving, token for token."
        )
        return Verdict("passed", "Sound.", sentence)
    sentence = (
        f"In all {counted(rows, 'row')} every answer is learned completely, including its end, and nothing else; the text equals "
        f"that of serving, token for token. {learned} have loss."
    )
    return Verdict("passed", "Sound.", sentence)


def learned_of(audits: Mapping[str, SplitAudit]) -> tuple[int, str]:
    """Return (rows, `2,000 of 50,000 tokens (4.0%)`): rows of all splits, and tokens with loss."""
    rows, learned, tokens = (sum(a.count(k) for a in audits.values()) for k in ("rows", "loss_tokens", "tokens"))
    share = percent(learned / tokens) if tokens else NOTHING
    return rows, f"{number(learned)} of {number(tokens)} tokens ({share})"


def counters(audits: Mapping[str, SplitAudit]) -> Table:
    sizes = {"rows": "Rows", "tokens": "Tokens", "loss_tokens": "Tokens with loss"}
    rows: list[list[Any]] = [[title, *(a.count(name) for a in audits.values())] for name, title in sizes.items()]
    for title, key in (("Tokens per row", "tokens_per_row"), ("Tokens with loss per row", "loss_tokens_per_row")):
        spreads: list[Spread | None] = [getattr(audit, key) for audit in audits.values()]
        cells = [" … ".join(map(number, (s.min, s.p50, s.max))) if s else "–" for s in spreads]
        rows.append([f"{title} (minimum, median, maximum)", *cells])
    marks: dict[tuple[int, int], str] = {}
    for name, title in (FAULTS | _DONE).items():
        counts = [a.count(name) for a in audits.values()]
        if name in FAULTS:
            marks |= {(len(rows), j): "bad" if n else "not_asked" for j, n in enumerate(counts, 1)}
        rows.append([title, *counts])
    return Table([("", text), *((split, number) for split in audits)], rows, marks=marks)


def _row(row: AuditedRow) -> TokenRow:
    place = f", {row.place}" if row.place not in ("", "?:?") else ""
    lost = f", {number(row.tokens_lost)} lost" if row.tokens_lost else ""
    caption = f"{row.id}{place}: {number(row.tokens)} tokens, {number(row.loss_tokens)} with loss{lost}"
    fault = FAULTS.get(row.fault)
    return TokenRow(fault or row.why, fault is not None, caption, list(_runs(row.pieces)))


def _runs(pieces: Sequence[tuple[str, str, bool]]) -> Iterator[tuple[bool, list[Span]]]:
    """Yield tokens as spans with alternating shades; the middle of a long run without loss is folded."""
    position = 0
    for kind, group in groupby(pieces, key=lambda piece: piece[1]):
        tokens = [(part, special) for text, _, special in group for part in _parts(text, kind)]
        spans = [
            Span(" ".join([kind, *["other"] * ((position + i) % 2), *["special"] * special]), list(_visible(text)))
            for i, (text, special) in enumerate(tokens)
        ]
        position += len(spans)
        if kind != "loss" and len(spans) > _LONG:
            yield from ((False, spans[:_EDGE]), (True, spans[_EDGE:-_EDGE]), (False, spans[-_EDGE:]))
        else:
            yield False, spans


def _parts(text: str, kind: str) -> list[str]:
    """Split removed text, which is one string, into words, so that it can be folded."""
    return re.findall(r"\s*\S+|\s+$", text) or [text] if kind == "lost" else [text]


def _visible(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the text in parts, with symbols for line breaks, and for spaces that are or end a token."""
    body = text.rstrip(" ")
    for part in re.split(r"([\r\n])", body):
        if symbol := {"\r": "␍", "\n": "↵"}.get(part):
            yield True, symbol
        if part not in ("", "\r"):
            yield False, part
    yield from [(True, "·")] * (len(text) - len(body))
