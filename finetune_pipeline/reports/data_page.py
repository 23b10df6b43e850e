"""The data_quality report as one self-contained HTML page: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.data.quality.report import PARTS
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.reports import data_plots, data_tables, tables
from finetune_pipeline.reports.markup import bars, minus, page, paragraphs, table
from finetune_pipeline.reports.style import STYLE

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
_STYLE = """
@media print {
  .note, .places, .notes td:last-child { font-size: 8pt !important; } }
.verdict.look { border-color: var(--warn); background: var(--warn-bg); } .verdict.look strong { color: var(--warn); }
.glance td:nth-child(1), .glance td:nth-child(2) { white-space: nowrap; } .glance td:nth-child(3) { max-width: 62ch; }
.glance a { color: inherit; text-decoration: none; } .glance a:hover { text-decoration: underline; }
.forms td:nth-child(n+4), .notes td:last-child { min-width: 14rem; max-width: 26rem; overflow-wrap: anywhere; }
.notes td:last-child { color: var(--soft); font-size: .8125rem; }
.notes td:nth-child(5), .forms td:nth-child(2) { white-space: nowrap; }
.bad { color: var(--bad); font-weight: 650; }
.bars td.bar { width: 16rem; min-width: 8rem; vertical-align: middle; }
.bar span { display: block; height: .7rem; background: var(--accent); border-radius: 2px; min-width: 1px; }
.places { color: var(--soft); font-size: .8125rem; margin: .1rem 0 .7rem; overflow-wrap: anywhere; max-width: 58rem; }
.places b { color: var(--ink); font-weight: 600; }
.places code { white-space: nowrap; margin-right: .55em; }
svg .column { fill: var(--accent); }
@media (max-width: 40rem) { .glance thead { display: none; } .glance tr { display: grid; grid-template-columns: 1fr auto;
    border-bottom: 1px solid var(--line); padding: .4rem 0; } .glance td { border: 0; padding: .1rem 0; }
  .glance td:nth-child(3) { grid-column: 1 / 3; } .places code { white-space: normal; } }
"""


def render_data_page(
    report: Report,
    name: str,
    description: str,
    stages: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> str:
    """The page of a report (see data.quality.report.data_quality).

    name, description: of the task; stages: {step: facts} of the data steps, for the counts from one to the next; labels:
    of the task, in their order.
    """
    sections = [
        ("glance", "At a glance", _glance(report)),
        ("stages", "Rows through the stages", _stages(stages or {}, labels)),
        ("tokens", "Tokens", _tokens(report)),
        ("price", "What training would cost", _prices(report)),
        ("labels", "Labels and origins", _labels(report)),
        ("consistency", "One output format", _consistency(report)),
        ("noise", "Labels that may be wrong", _noise(report)),
        ("synthetic", "Review of synthetic rows", _synthetic(report)),
        ("contamination", "Benchmarks in the training data", _contamination(report)),
    ]
    return page(f"{name}: data quality", description, STYLE + _STYLE, _verdict(report), sections)


def _verdict(report: Report) -> str:
    blocked = [TITLES[part].lower() for part in report["blocked_by"]]
    open_parts = [part for part in PARTS if not report[part]["passed"] and part not in report["blocked_by"]]
    if blocked:
        kind, answer = "verdict no", "Training is stopped."
        sentence = f"What stops it: {', '.join(blocked)}."
    elif open_parts:
        kind, answer = "verdict look", "Training may begin."
        names = [TITLES[part].lower() for part in open_parts]
        sentence = f"Look first at: {', '.join(names)}."
    else:
        kind, answer, sentence = "verdict", "Training may begin.", "Nothing stands out."
    said = f"{counted(report['rows'], 'row')} after review. {sentence}"
    return f'<div class="{kind}"><p><strong>{answer}</strong> {escape(said)}</p></div>'


def _glance(report: Report) -> str:
    rows = ""
    for name in PARTS:
        told = report[name]
        if told["passed"]:
            answer = '<td class="yes">yes</td>' if told.get("applies", True) else '<td class="note">not asked</td>'
        else:
            answer = '<td class="no-answer">no, stops</td>' if told["blocking"] else '<td class="look-answer">look</td>'
        fixes = list(dict.fromkeys(f["fix"] for f in told["findings"]))
        todo = "".join(f'<span class="todo">{escape(_sentence(fix))}</span>' for fix in fixes[:SHOWN_FIXES])
        anchor = _ANCHORS.get(name, name)
        rows += (
            f'<tr><td><a href="#{anchor}">{escape(TITLES[name])}</a></td>{answer}'
            f"<td>{escape(minus(_sentence(told['message'])))}{_sample(told)}{todo}</td></tr>"
        )
    head = "<tr><th>Question</th><th>Fine</th><th>Measured, and what to do</th></tr>"
    return f'<div class="wide"><table class="glance"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def _sample(told: Mapping[str, Any]) -> str:
    if "sampled" not in told:
        return ""
    return f'<span class="todo">Looked at {told["sampled"]:,} of {told["of"]:,} rows, chosen by hash.</span>'


def _stages(stages: Mapping[str, Any], labels: Sequence[str]) -> str:
    found, splits = tables.findings_table(stages), tables.splits_table(stages, labels)
    told = tables.stages_table(stages)
    # columns that say nothing in any row are noise
    kept = [j for j in range(len(told.headers)) if j == 0 or any(row[j] for row in told.rows)]
    told = tables.Table([told.headers[j] for j in kept], [[row[j] for j in kept] for row in told.rows],
                        "".join(told.align[j] for j in kept))  # fmt: skip
    return (
        table(told, "figures")
        + table(splits, "figures")
        + ("<h3>What was found on the way</h3>" + table(found, "figures") if found.rows else "")
    )


def _tokens(report: Report) -> str:
    told = report["tokens"]
    if not told.get("applies"):
        return paragraphs([_sentence(told["message"])])
    plot = data_plots.token_histogram(told["histogram"], told["max_tokens"])
    note = "Counted with the base model's tokenizer on rows rendered by its chat template."
    if told["interval"]:
        low, high = told["interval"]
        note += f" From a sample of {told['sampled']:,} rows: the true total lies between {low:,} and {high:,} (95%)."
    over = _places("Longer than training.max_tokens", told["over"], told["over_rows"]) if told["over"] else ""
    return (
        paragraphs([_sentence(told["message"])])
        + f'<div class="wide">{plot}</div>'
        + table(data_tables.tokens_table(report), "figures")
        + over
        + paragraphs([note], "note")
    )


def _prices(report: Report) -> str:
    told = report["tokens"]
    if not told.get("prices"):
        return ""
    note = (
        f"Estimates for {told['training_tokens']:,} tokens of training ({told['epochs']:g} epochs), from a price list that "
        "people keep up to date. Serving the model costs extra. Nothing is bought by these numbers."
    )
    return table(data_tables.prices_table(report), "figures notes") + paragraphs([note], "note")


def _labels(report: Report) -> str:
    balance, origins = report["balance"], report["origins"]
    made = bars(list(origins["origins"].items()), "Origin", report["rows"])
    by = bars(list(origins["generators"].items()), "Generator", sum(origins["generators"].values()))
    return (
        paragraphs([_sentence(report["size"]["message"])])
        + (paragraphs([_sentence(balance["message"])]) if balance["labels"] else "")
        + bars(list(balance["labels"].items()), "Label")
        + made
        + by
    )


def _places(title: str, count: int, rows: Sequence[Mapping[str, str]]) -> str:
    named = "".join(f'<code title="{escape(r["id"])}">{escape(r["place"])}</code> ' for r in rows)
    more = f"and {count - len(rows):,} more" if count > len(rows) else ""
    return f'<p class="places"><b>{escape(title)}</b>, {counted(count, "row")}: {named}{more}</p>'


def _consistency(report: Report) -> str:
    told = report["consistency"]
    dimensions = told["dimensions"]
    marks = {(i, 1): "look-answer" for i, d in enumerate(dimensions) if not d["passed"]}
    rest = 1 - told["max_minority"]
    note = (
        f"Stray rows: one form has {percent(rest)} of the answers or more, but not all; the others are most likely "
        "mistakes. No rule: no form reaches that, in a task that owes one. Free: prose, where no rule is owed."
    )
    listed = ""
    for d in dimensions:
        if d["verdict"] in ("stray", "mixed", "few") and d["minority"]:
            listed += f"<h3>{escape(d['title'][:1].upper() + d['title'][1:])}</h3>"
            listed += "".join(_places(m["form"], m["count"], m["rows"]) for m in d["minority"])
            if d["other_forms"]:
                listed += paragraphs([f"{counted(d['other_forms'], 'more form')}, rarer still."], "note")
    return table(data_tables.consistency_table(report), "figures forms", marks) + paragraphs([note], "note") + listed


def _noise(report: Report) -> str:
    told = report["noise"]
    if not told.get("applies"):
        return paragraphs([_sentence(told["message"])])
    shown = told["suspects"][:SHOWN_SUSPECTS]
    texts = [_sentence(told["message"])]
    if told["left_out"]:
        texts.append(f"Too few rows to judge: {', '.join(told['left_out'])}.")
    note = (
        "By confident learning: a linear model, trained without the row and its duplicates, is surer of another label than "
        "it usually is of that label's own rows. A suspicion, not a verdict: hard rows look the same. Nothing was changed."
    )
    cases = ""
    if shown:
        head = (
            f"The {len(shown)} most suspicious of {told['suspected']:,}"
            if told["suspected"] > len(shown)
            else "All suspects"
        )
        cases = f"<h3>{head}</h3>" + "".join(_suspect(s) for s in shown)
    return paragraphs(texts) + table(data_tables.pairs_table(report), "figures") + paragraphs([note], "note") + cases


def _suspect(s: Mapping[str, Any]) -> str:
    said = (
        f"given: <b>{escape(s['given'])}</b> ({percent(s['self_confidence'])}) \u00b7 model: "
        f"<b>{escape(s['suggested'])}</b> ({percent(s['confidence'])})"
    )
    where = f'<span class="id nowrap">{escape(s["place"])} \u00b7 {escape(s["id"])}</span>'
    return f'<div class="case"><pre>{escape(s["text"])}</pre><p class="said">{said} {where}</p></div>'


def _synthetic(report: Report) -> str:
    told = report["synthetic"]
    texts = [_sentence(told["message"])]
    plan = told["plan"]
    if plan is None:
        return paragraphs(texts)
    limit = plan["c"]
    allowed = "too small to accept anything"
    if limit >= 0:
        allowed = f"accepted when {'at most ' + str(limit) if limit else 'none'} of them {'are' if limit > 1 else 'is'} rejected"
    texts.append(
        f"The sample of {plan['n']:,} is {allowed}. A set with {percent(plan['intolerable'])} bad rows has then a chance of "
        f"{percent(plan['consumer_risk'])} to pass, one with {percent(plan['acceptable'])} a chance of "
        f"{percent(plan['producer_risk'])} to fail."
        + (
            f" Reviewing {plan['fair_n']:,} rows would keep both at {percent(plan['risk'])} or less."
            if plan["fair_n"] and plan["producer_risk"] > plan["risk"] and plan["fair_n"] <= told["rows"]
            else ""
        )
    )
    if told["decided"]:
        low, high = told["rejected_interval"]
        texts.append(
            f"{told['rejected']:,} of {told['decided']:,} reviewed rows were rejected; of all synthetic rows it "
            f"would be {percent(low)} to {percent(high)} (95% Clopper-Pearson interval)."
        )
    count = told["sample"] - told["decided"]
    waiting = _places("Waiting for a decision", count, told["waiting"]) if told["waiting"] else ""
    rejected = _places("Rejected", told["rejected"], told["rejected_rows"]) if told["rejected_rows"] else ""
    return (
        paragraphs(texts)
        + table(data_tables.generators_table(report), "figures")
        + waiting
        + rejected
        + f'<div class="wide">{data_plots.operating_curve_plot(plan)}</div>'
    )


def _contamination(report: Report) -> str:
    told = report["contamination"]
    matches = data_tables.matches_table(report, SHOWN_MATCHES)
    rest = told["repeated"] - len(matches.rows)
    return (
        paragraphs([_sentence(told["message"])])
        + table(data_tables.benchmarks_table(report), "figures")
        + table(matches, "figures")
        + (paragraphs([f"And {counted(rest, 'more row')}."], "note") if rest > 0 else "")
    )
