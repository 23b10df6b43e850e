"""The tables of the data page as plain text cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.wording import NOTHING, number, percent, percent_range
from finetune_pipeline.reports.tables import Table

Report = Mapping[str, Any]
VERDICTS = {
    "uniform": "uniform",
    "stray": "stray rows",
    "mixed": "no rule",
    "free": "free",
    "few": "too few to judge",
}


def consistency_table(report: Report) -> Table:
    """One line a dimension: verdict, usual form and its share, the other forms with their counts."""
    rows = []
    for d in report["consistency"]["dimensions"]:
        others = ", ".join(f"{m['form']} ({number(m['count'])})" for m in d["minority"][:4])
        more = len(d["minority"][4:]) + d["other_forms"]
        rows.append(
            [
                d["title"],
                VERDICTS[d["verdict"]] if d["passed"] or d["verdict"] in ("stray", "mixed") else d["verdict"],
                number(d["rows"]),
                f"{d['form']} ({percent(d['share'])})",
                others + (f", {number(more)} more" if more else ""),
            ]
        )
    return Table(["What", "Verdict", "Answers", "Usual form", "Other forms"], rows, "llrll")


def tokens_table(report: Report) -> Table:
    """Spread of tokens per row: the whole row, and what each role says."""
    told = report["tokens"]
    keys = ("min", "p50", "p90", "p99", "max", "mean")
    roles = sorted(told["roles"].items(), key=lambda kv: (_ROLES.index(kv[0]) if kv[0] in _ROLES else 9, kv[0]))
    rows = [["whole row, as training renders it", number(told["total"]), *_cells(told["whole"], keys)]]
    rows += [[f"{role} turns", number(of["total"]), *_cells(of, keys)] for role, of in roles]
    rows.append(["chat template", number(told["template"]), *[""] * len(keys)])
    headers = ["Tokens", "In all", "Least", "Median", "90%", "99%", "Most", "Mean"]
    return Table(headers, rows, "l" + "r" * 7, frozenset({0}))


_ROLES = ("system", "user", "assistant", "tool")


def _cells(of: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    return [number(of.get(k), 1) if k in of else NOTHING for k in keys]


def prices_table(report: Report) -> Table:
    """Estimated cost of the training by engine, cheapest first."""
    rows = []
    for p in report["tokens"]["prices"]:
        basis = f"${p['price']:,.2f} a million tokens" if p["price"] else "nothing to pay"
        if p["unit"] == "hour":
            basis = f"${p['price']:,.2f} an hour, {p['tokens_per_second']:,.0f} tokens/s assumed"
        hours = f", {p['hours']:,.2f} h" if p["hours"] is not None else ""
        until = f"Offered until {p['until']}. " if p["until"] else ""
        note = p["note"][:1].upper() + p["note"][1:]
        rows.append([p["engine"], p["model"], dollars(p["dollars"]) + hours, basis, p["date"], f"{until}{note}."])
    return Table(["Where", "For a model of", "Estimate", "Rests on", "As of", "Note"], rows, "llrlll")


def dollars(amount: float) -> str:
    """$0, under a cent, or cents; whole dollars from 100 on."""
    if amount == 0:
        return "$0"
    return "under $0.01" if amount < 0.01 else f"${amount:,.2f}" if amount < 100 else f"${amount:,.0f}"


def generators_table(report: Report) -> Table:
    """Review of synthetic rows per generator."""
    rows = [
        [
            g["generator"],
            number(g["rows"]),
            number(g["sample"]),
            number(g["decided"]),
            number(g["rejected"]),
            percent_range(g["interval"]) if g["decided"] else NOTHING,
        ]
        for g in report["synthetic"].get("generators", [])
    ]
    headers = ["Generator", "Rows", "To review", "Reviewed", "Rejected", "Rejected of all, 95% interval"]
    return Table(headers, rows, "lrrrrr")


def pairs_table(report: Report) -> Table:
    """The most frequent pairs of given and suggested label."""
    rows = [[p["given"], p["suggested"], number(p["rows"])] for p in report["noise"].get("pairs", [])[:10]]
    return Table(["Given label", "Model is sure of", "Rows"], rows, "llr")


def benchmarks_table(report: Report) -> Table:
    """Benchmark files: how many of their items training repeats."""
    rows = [
        [b["file"], number(b["items"]), number(b["repeated"]), number(b["rows"])]
        for b in report["contamination"]["benchmarks"]
    ]
    return Table(["Benchmark file", "Items", "Repeated in training", "Training rows"], rows, "lrrr")


def matches_table(report: Report, shown: int) -> Table:
    """The first training rows that repeat an item."""
    rows = [
        [
            m["place"],
            f"{m['file']}:{m['line']}",
            "equal" if m["how"] == "exact" else f"{percent(m['covered'])} of its words",
        ]
        for m in report["contamination"]["matches"][:shown]
    ]
    return Table(["Training row", "Benchmark item", "How"], rows, "lll")
