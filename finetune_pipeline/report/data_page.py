"""The data_quality report as a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_pipeline.data.quality.report import PARTS
from finetune_pipeline.evaluation.step_facts import DataStep
from finetune_pipeline.evaluation.wording import counted, number, percent, percent_range
from finetune_pipeline.report.background import data_tables
from finetune_pipeline.report.blocks import (
    Answer,
    Answers,
    Bars,
    Blocks,
    Heading,
    Page,
    Places,
    Section,
    Table,
    Verdict,
    figure,
    notes,
    text,
)
from finetune_pipeline.report.plots import token_histogram

Report = Mapping[str, Any]
SHOWN_SUSPECTS, SHOWN_MATCHES, SHOWN_FIXES = 20, 20, 4
TITLES = {
    "size": "Enough rows",
    "balance": "Class balance",
    "origins": "Origins",
    "synthetic": "Synthetic rows",
    "consistency": "One output format",
    "noise": "Label noise",
    "contamination": "Benchmarks kept out",
    "tokens": "Tokens",
}
_ANCHORS = {"size": "labels", "balance": "labels", "origins": "labels"}
_VERDICTS = {"uniform": "uniform", "stray": "stray rows", "mixed": "no rule", "free": "free", "few": "too few to judge"}


def data_page(
    report: Report,
    name: str,
    description: str,
    stages: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> Page:
    """Build the page of a report.

    Args:
        report: Of data.quality.report.data_quality.
        name: Of the task.
        description: Of the task.
        stages: Facts of the data steps by name, for the counts from one to the next.
        labels: Of the task, in their order.
    """
    steps = {step: DataStep.model_validate(facts) for step, facts in (stages or {}).items()}
    sections = [
        Section.of("glance", "At a glance", [_glance(report)]),
        Section.of("stages", "Rows through the stages", _stages(steps, labels)),
        *(Section.of(anchor, title, content(report)) for anchor, title, part, content in _SECTIONS if part in report),
    ]
    return Page(f"{name}: data quality", description, _verdict(report), sections)


def _verdict(report: Report) -> Verdict:
    rows = f"{counted(report['rows'], 'row')} after review."
    if report["blocked_by"]:
        names = ", ".join(TITLES[part].lower() for part in report["blocked_by"])
        return Verdict("failed", "Training is stopped.", f"{rows} What stops it: {names}.")
    if open_parts := [part for part in PARTS if not report[part]["passed"]]:
        names = ", ".join(TITLES[part].lower() for part in open_parts)
        return Verdict("warned", "Training may begin.", f"{rows} Look first at: {names}.")
    return Verdict("passed", "Training may begin.", f"{rows} Nothing stands out.")


def _glance(report: Report) -> Answers:
    rows = []
    for name in PARTS:
        part = report[name]
        status = "not_asked" if not part.get("applies", True) else "passed"
        if not part["passed"]:
            status = "failed" if part["blocking"] else "warned"
        answer = {"passed": "yes", "not_asked": "not asked", "failed": "no, stops", "warned": "look"}[status]
        fixes = list(dict.fromkeys(_sentence(finding["fix"]) for finding in part["findings"]))[:SHOWN_FIXES]
        rows.append(Answer(TITLES[name], status, answer, _sentence(part["message"]), fixes, _ANCHORS.get(name, name)))
    return Answers(("Question", "Fine", "Measured, and what to do"), rows)


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + ("" if message.endswith((".", "?", "!")) else ".")


def _stages(steps: Mapping[str, DataStep], labels: Sequence[str]) -> Blocks:
    for block in data_tables(steps, labels):
        yield block.without_empty_columns() if isinstance(block, Table) else block


def _tokens(report: Report) -> Blocks:
    tokens = report["tokens"]
    yield _sentence(tokens["message"])
    if not tokens.get("applies"):
        return
    yield token_histogram(tokens["histogram"], tokens["max_tokens"])
    keys = {"min": "Least", "p50": "Median", "p90": "90%", "p99": "99%", "max": "Most", "mean": "Mean"}
    row = [
        "of a row, as training renders it",
        number(tokens["total"]),
        *(number(tokens["whole"][key], 1) for key in keys),
    ]
    yield Table([("Tokens", text), ("In all", figure), *((title, figure) for title in keys.values())], [row])
    if tokens["over"]:
        yield _places("Longer than training.max_tokens", tokens["over"], tokens["over_rows"])
    yield from notes("Counted with the base model's tokenizer on rows rendered by its chat template.")


def _labels(report: Report) -> Blocks:
    balance, origins = report["balance"]["labels"], report["origins"]
    yield _sentence(report["size"]["message"])
    yield _sentence(report["balance"]["message"]) if balance else None
    yield Bars("Label", list(balance.items()), sum(balance.values()))
    yield Bars("Origin", list(origins["origins"].items()), report["rows"])
    yield Bars("Generator", list(origins["generators"].items()), sum(origins["generators"].values()))


def _places(title: str, count: int, rows: Sequence[Mapping[str, str]]) -> Places:
    return Places(title, count, [(row["id"], row["place"]) for row in rows])


def _consistency(report: Report) -> Blocks:
    part, rows = report["consistency"], []
    if not part["dimensions"]:
        yield _sentence(part["message"])
        return
    for d in part["dimensions"]:
        others = ", ".join(f"{m['form']} ({number(m['count'])})" for m in d["minority"][:4])
        more = len(d["minority"][4:]) + d["other_forms"]
        others += f", {number(more)} more" if more else ""
        rows.append([d["title"], _VERDICTS[d["verdict"]], d["rows"], f"{d['form']} ({percent(d['share'])})", others])
    columns = [("What", text), ("Verdict", text), ("Answers", number), ("Usual form", text), ("Other forms", text)]
    marks = {(i, 1): "warned" for i, d in enumerate(part["dimensions"]) if not d["passed"]}
    yield Table(columns, rows, style="figures forms", marks=marks)
    yield from notes(
        f"Stray rows: one form has {percent(1 - part['max_minority'])} of the answers or more, but not all; the others are most "
        "likely mistakes. No rule: no form reaches that, in a task that owes one. Free: prose, where no rule is owed."
    )
    for d in part["dimensions"]:
        if d["verdict"] in ("stray", "mixed", "few") and d["minority"]:
            yield Heading(d["title"][:1].upper() + d["title"][1:])
            yield from (_places(m["form"], m["count"], m["rows"]) for m in d["minority"])
            yield from notes(f"{counted(d['other_forms'], 'more form')}, rarer still." if d["other_forms"] else "")


def _noise(report: Report) -> Blocks:
    part = report["noise"]
    yield _sentence(part["message"])
    if not part.get("applies"):
        return
    yield f"Too few rows to judge: {', '.join(part['left_out'])}." if part["left_out"] else None
    for trigger in part["triggers"]:
        yield _places(f"Rows with the phrase “{trigger['phrase']}”", len(trigger["rows"]), trigger["rows"])
    columns = [("Given label", text), ("Model is sure of", text), ("Rows", number)]
    yield Table(columns, [[p["given"], p["suggested"], p["rows"]] for p in part["pairs"][:10]])
    yield from notes(
        "By confident learning: a linear model, trained without the row and its duplicates, is surer of another label than "
        "it usually is of that label's own rows. A suspicion, not a verdict: hard rows look the same. Nothing was changed."
    )
    shown = part["suspects"][:SHOWN_SUSPECTS]
    if shown:
        some = f"The {len(shown)} most suspicious of {part['suspected']:,}"
        yield Heading(some if part["suspected"] > len(shown) else "All suspects")
    titles = ("Given", "Model is sure of", "Sure of either", "Text", "Place", "Row")
    rows = [
        [
            *(s["given"], s["suggested"], f"{percent(s['self_confidence'])}, {percent(s['confidence'])}"),
            *(s["text"], s["place"], s["id"]),
        ]
        for s in shown
    ]
    yield Table([(title, text) for title in titles], rows, style="rows", audience="page", filters=(0, 1))


def _scrubbed(report: Report) -> Blocks:
    if not report["scrubbed"]:
        yield "Nothing was found."
        return
    columns = [("Kind", text), ("Row", text), ("Place", text), ("Before, masked", text), ("After", text)]
    rows = [[s["kind"].replace("_", " "), s["id"], s["place"], s["before"], s["after"]] for s in report["scrubbed"]]
    yield Table(columns, rows, style="figures forms")
    yield from notes(
        "A few places of each kind, with different words before them where there are any. Is something here no personal data "
        "and no secret? Then `data.scrub: warn` leaves the rows as they are."
    )


def _synthetic(report: Report) -> Blocks:
    part = report["synthetic"]
    plan = part["plan"]
    yield _sentence(part["message"])
    if plan is None:
        return
    limit = plan["c"]
    allowed = "too small to accept anything"
    if limit >= 0:
        allowed = f"accepted when {'at most ' + str(limit) if limit else 'none'} of them {'are' if limit > 1 else 'is'} rejected"
    review = (
        f"The sample of {plan['n']:,} is {allowed}. A set with {percent(plan['intolerable'])} bad rows has then a chance of "
        f"{percent(plan['consumer_risk'])} to pass, one with {percent(plan['acceptable'])} a chance of "
        f"{percent(plan['producer_risk'])} to fail."
    )
    if plan["fair_n"] and plan["producer_risk"] > plan["risk"] and plan["fair_n"] <= part["rows"]:
        review += f" Reviewing {plan['fair_n']:,} rows would keep both at {percent(plan['risk'])} or less."
    yield review
    if part["decided"]:
        yield (
            f"{part['rejected']:,} of {part['decided']:,} reviewed rows were rejected; of all synthetic rows it would be "
            f"{percent_range(part['rejected_interval'])} (95% Clopper-Pearson interval)."
        )
    columns = [(title, number) for title in ("Rows", "To review", "Reviewed", "Rejected")]
    yield Table(
        [("Generator", text), *columns, ("Rejected of all, 95% interval", figure)],
        [
            [
                g["generator"],
                g["rows"],
                g["sample"],
                g["decided"],
                g["rejected"],
                percent_range(g["decided"] and g["interval"]),
            ]
            for g in part["generators"]
        ],
    )
    yield _places("Waiting for a decision", part["sample"] - part["decided"], part["waiting"])
    yield _places("Rejected", part["rejected"], part["rejected_rows"])


def _contamination(report: Report) -> Blocks:
    part = report["contamination"]
    matches = part["matches"][:SHOWN_MATCHES]
    yield _sentence(part["message"])
    columns = [("Items", number), ("Repeated in training", number), ("Training rows", number)]
    yield Table(
        [("Benchmark file", text), *columns],
        [[b["file"], b["items"], b["repeated"], b["rows"]] for b in part["benchmarks"]],
    )
    rows = [
        [
            m["place"],
            f"{m['file']}:{m['line']}",
            "equal" if m["how"] == "exact" else f"{percent(m['covered'])} of its words",
        ]
        for m in matches
    ]
    yield Table([("Training row", text), ("Benchmark item", text), ("How", text)], rows)
    rest = part["repeated"] - len(matches)
    yield from notes(f"And {counted(rest, 'more row')}." if rest > 0 else "")


_SECTIONS: tuple[tuple[str, str, str, Callable[[Report], Blocks]], ...] = (
    ("tokens", "Tokens", "tokens", _tokens),
    ("labels", "Labels and origins", "balance", _labels),
    ("consistency", "One output format", "consistency", _consistency),
    ("noise", "Labels that may be wrong", "noise", _noise),
    ("scrubbed", "Personal data and secrets", "scrubbed", _scrubbed),
    ("synthetic", "Review of synthetic rows", "synthetic", _synthetic),
    ("contamination", "Benchmarks in the training data", "contamination", _contamination),
)
"""Anchor, title, the part of the report that has to be there, and content."""
