"""Builds the page of the data_quality report."""

from collections.abc import Callable, Mapping, Sequence

from finetune_pipeline.data.quality.parts import Place
from finetune_pipeline.data.quality.report import QualityReport
from finetune_pipeline.evaluation.result import DataStep
from finetune_pipeline.evaluation.wording import counted, number, percent
from finetune_pipeline.report.background import data_tables
from finetune_pipeline.report.blocks import (
    Answer,
    Answers,
    Bars,
    Blocks,
    Heading,
    Page,
    Section,
    Table,
    Text,
    Verdict,
    figure,
    notes,
    text,
)
from finetune_pipeline.report.plots import token_histogram

SHOWN_SUSPECTS, SHOWN_FIXES = 20, 4
TITLES = {
    "balance": "Class balance",
    "synthetic": "Synthetic rows",
    "noise": "Label noise",
    "inputs": "Labels in the inputs",
    "answers": "Style of the answers",
    "tokens": "Tokens",
}
_ANCHORS = {"balance": "labels", "inputs": "", "answers": ""}


def data_page(
    report: QualityReport,
    name: str,
    description: str,
    stages: Mapping[str, object] | None = None,
    labels: Sequence[str] = (),
) -> Page:
    """Build the page of a report. stages: facts of the data steps by name, for the counts."""
    steps = {step: DataStep.model_validate(facts) for step, facts in (stages or {}).items()}
    sections = [
        Section.of("glance", "At a glance", [_glance(report)]),
        Section.of("stages", "Rows through the stages", data_tables(steps, labels)),
        *(Section.of(anchor, title, content(report)) for anchor, title, content in _SECTIONS),
    ]
    return Page(f"{name}: data quality", description, _verdict(report), sections)


def _verdict(report: QualityReport) -> Verdict:
    rows = f"{counted(report.rows, 'row')} after review."
    if report.blocked_by:
        names = ", ".join(TITLES[part].lower() for part in report.blocked_by)
        return Verdict("failed", "Training is stopped.", f"{rows} It is stopped by: {names}.")
    if open_parts := [name for name, part in report.parts.items() if not part.passed]:
        names = ", ".join(TITLES[part].lower() for part in open_parts)
        return Verdict("warned", "Training may begin.", f"{rows} Check first: {names}.")
    return Verdict("passed", "Training may begin.", f"{rows} No check failed.")


def _glance(report: QualityReport) -> Answers:
    rows = []
    for name, part in report.parts.items():
        status, answer, anchor = "passed", "passed", _ANCHORS.get(name, name)
        if not part.applies:
            status, answer, anchor = "not_asked", "not asked", ""
        if not part.passed:
            status, answer = ("failed", "stops") if part.blocking else ("warned", "warns")
        fixes = list(dict.fromkeys(_sentence(finding.fix) for finding in part.findings))[:SHOWN_FIXES]
        rows.append(Answer(TITLES[name], status, answer, _sentence(part.message), fixes, anchor))
    return Answers(("Check", "Result", "Measurement and fix"), rows)


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "?", "!")) else ".")


def _tokens(report: QualityReport) -> Blocks:
    tokens = report.tokens
    if not (tokens.applies and tokens.whole):
        return
    yield token_histogram(tokens.histogram, tokens.max_tokens)
    keys = {
        "min": "Minimum",
        "p50": "Median",
        "p90": "90th percentile",
        "p99": "99th percentile",
        "max": "Maximum",
        "mean": "Mean",
    }
    row = [number(tokens.total), *(number(getattr(tokens.whole, key), 1) for key in keys)]
    columns = [("Tokens", text), *((title, figure) for title in ("In all", *keys.values()))]
    yield Table(columns, [["of a row, as training renders it", *row]])
    if tokens.over:
        yield _places("Longer than training.max_tokens", tokens.over, tokens.over_rows)
    yield from notes("Counted with the base model's tokenizer on rows rendered by its chat template.")


def _labels(report: QualityReport) -> Blocks:
    balance = report.balance.labels
    yield Bars("Label", list(balance.items()), sum(balance.values()))
    yield Bars("Origin", list(report.origins.items()), report.rows)


def _places(title: str, count: int, rows: Sequence[Place]) -> Text | None:
    """List the places of rows. count: the number of all of them, including those not listed."""
    listed = ", ".join(f"`{row.place.replace('`', '')}`" for row in rows)
    more = f" and {count - len(rows):,} more" if count > len(rows) else ""
    return Text(f"{title}, {counted(count, 'row')}: {listed}{more}", note=True, audience="team") if rows else None


def _noise(report: QualityReport) -> Blocks:
    part = report.noise
    if not part.applies:
        return
    yield f"Too few rows to test: {', '.join(part.left_out)}." if part.left_out else None
    for trigger in part.triggers:
        yield _places(f"Rows with the phrase “{trigger.phrase}”", len(trigger.rows), trigger.rows)
    columns = [("Given label", text), ("Model predicts", text), ("Rows", number)]
    yield Table(columns, [[p.given, p.suggested, p.rows] for p in part.pairs[:10]])
    yield from notes(
        "By confident learning: a linear model, trained without the row and its duplicates, is more confident in another label "
        "than it usually is for that label's own rows. This is only a hint: hard rows look the same. Nothing was changed."
    )
    suspects = part.suspects[:SHOWN_SUSPECTS]
    if suspects:
        heading = f"The {len(suspects)} most suspicious of {part.suspected:,}"
        yield Heading(heading if part.suspected > len(suspects) else "All suspects")
    titles = ("Given", "Model predicts", "Confidence in each", "Text", "Place", "Row")
    rows = []
    for s in suspects:
        confidence = f"{percent(s.self_confidence)}, {percent(s.confidence)}"
        rows.append([s.given, s.suggested, confidence, s.text, s.place, s.id])
    yield Table([(title, text) for title in titles], rows, style="rows", audience="page", filters=(0, 1))


def _scrubbed(report: QualityReport) -> Blocks:
    if not report.scrubbed:
        yield "Nothing was found."
        return
    columns = [("Kind", text), ("Row", text), ("Place", text), ("Before, masked", text), ("After", text)]
    rows = [[s.kind.replace("_", " "), s.id, s.place, s.before, s.after] for s in report.scrubbed]
    yield Table(columns, rows, style="figures forms")
    yield from notes(
        "A few places of each kind, with different preceding words if possible. If these are neither personal data nor "
        "secrets, set `data.scrub: warn`, which leaves the rows unchanged."
    )


def _synthetic(report: QualityReport) -> Blocks:
    part = report.synthetic
    if not part.applies:
        return
    limit = part.allowed
    allowed = f"accepted with at most {limit} rejected rows" if limit >= 0 else "too small to accept anything"
    yield f"The sample of {part.sample:,} is {allowed}."
    keys = {"rows": "Rows", "sample": "To review", "decided": "Reviewed", "rejected": "Rejected"}
    columns = [("Generator", text), *((title, number) for title in keys.values())]
    yield Table(columns, [[g.generator, *(getattr(g, key) for key in keys)] for g in part.generators])
    yield _places("Waiting for a decision", part.sample - part.decided, part.waiting)
    yield _places("Rejected", part.rejected, part.rejected_rows)


_SECTIONS: tuple[tuple[str, str, Callable[[QualityReport], Blocks]], ...] = (
    ("tokens", "Tokens", _tokens),
    ("labels", "Labels and origins", _labels),
    ("noise", "Labels that may be wrong", _noise),
    ("scrubbed", "Personal data and secrets", _scrubbed),
    ("synthetic", "Review of synthetic rows", _synthetic),
)
"""Anchor, title and content."""
