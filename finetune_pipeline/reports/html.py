"""The evaluation report as one self-contained HTML page: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID
from finetune_pipeline.evaluation.data_request import group_title, share_sentence
from finetune_pipeline.evaluation.failure_rules import KINDS
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.wording import RIGHT_OR_WRONG, counted, cut, percent
from finetune_pipeline.reports import beyond_test, evidence, metric_tables, plots, sentences, tables
from finetune_pipeline.reports.style import STYLE
from finetune_pipeline.reports.tables import Table

Evaluation = Mapping[str, Any]
LONG_ANSWER = 60
SHOWN_GROUPS = 8


def render_html(evaluation: Evaluation, gates: Sequence[GateResult]) -> str:
    """The whole page for an evaluation (see evaluate_run.evaluate_task) and its gates (see gates.decide)."""
    task = evaluation["task"]
    sections = [
        ("gates", "Gates", _gates(gates)),
        ("models", "Models side by side", _models(evaluation)),
        ("form", "Form or judgement", _paragraphs(sentences.format_gap_sentences(evaluation))),
        ("paired", "Paired comparison", _paired(evaluation)),
        ("confusion", "Confusion", _confusion(evaluation)),
        ("labels", "Labels", _per_class(evaluation)),
        ("detail", "Answers in detail", "".join(_table(t, "figures") for t in metric_tables.metric_tables(evaluation))),
        ("calibration", "Calibration", _calibration(evaluation)),
        ("learning", "Learning curves", _learning(evaluation)),
        ("regressions", "Regressions and fixes", _changes(evaluation)),
        ("wrong", "Wrong answers", _wrong(evaluation)),
        ("atlas", "Failure atlas", _atlas(evaluation)),
        ("ability", "General ability", _ability(evaluation)),
        ("people", "Judgement by people", _people(evaluation)),
        ("data", "Data", _data(evaluation)),
        ("training", "Training", _table(tables.training_table(evaluation["training"]), "figures")),
        ("seal", "The sealed test", _seal(evaluation)),
        ("versions", "Versions", _table(tables.versions_table(evaluation), "figures hash")),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown)
    bodies = "".join(f'<section><h2 id="{key}">{escape(title)}</h2>{body}</section>' for key, title, body in shown)
    title = escape(f"{task['name']}: evaluation report")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{title}</h1><p class="lead">{escape(task["description"])}</p>'
        f"{_verdict(evaluation, gates)}<nav>{links}</nav>{bodies}</main></body></html>\n"
    )


def _verdict(evaluation: Evaluation, gates: Sequence[GateResult]) -> str:
    answer, sentence = sentences.verdict_sentences(evaluation, gates)
    kind = "verdict" if verdict(gates) == "passed" else "verdict no"
    more = _paragraphs(sentences.caveats(evaluation))
    return f'<div class="{kind}"><p><strong>{escape(answer)}</strong> {escape(_minus(sentence))}</p>{more}</div>'


def _minus(text: str) -> str:
    """Hyphens before numbers as minus signs: ` -3.1` but not `8-shot` or `2026-11-24`."""
    padded = f" {text}"
    for digit in "0123456789":
        padded = padded.replace(f" -{digit}", f" \u2212{digit}").replace(f"(-{digit}", f"(\u2212{digit}")
    return padded[1:]


def _paragraphs(texts: Sequence[str], style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return "".join(f"<p{kind}>{escape(_minus(text))}</p>" for text in texts)


def _table(table: Table | None, style: str = "") -> str:
    if table is None or not table.rows:
        return ""
    sides = [' class="r"' if side == "r" else "" for side in table.align]
    head = "".join(f"<th{side}>{escape(h)}</th>" for h, side in zip(table.headers, sides, strict=True))
    body, strong = "", ' class="strong"'
    for i, row in enumerate(table.rows):
        cells = "".join(f"<td{side}>{escape(_minus(c))}</td>" for c, side in zip(row, sides, strict=True))
        body += f"<tr{strong if i in table.strong else ''}>{cells}</tr>"
    head = f"<thead><tr>{head}</tr></thead>" if any(table.headers[1:]) else ""
    return f'<div class="wide"><table class="{style}">{head}<tbody>{body}</tbody></table></div>'


def _gates(gates: Sequence[GateResult]) -> str:
    rows = ""
    for gate in gates:
        answer = '<td class="yes">yes</td>' if gate.passed else '<td class="no-answer">no</td>'
        todo = f'<span class="todo">What to do: {escape(gate.what_to_do)}</span>' if gate.what_to_do else ""
        rows += (
            f'<tr><td class="nowrap"><code>{escape(gate.name)}</code></td>{answer}'
            f"<td>{escape(_minus(gate.message))}{todo}</td></tr>"
        )
    head = "<tr><th>Gate</th><th>Passed</th><th>Measured</th></tr>"
    return f'<div class="wide"><table class="gates"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _models(evaluation: Evaluation) -> str:
    parts = []
    for where, title in (("validation", "Prompts of the base model, on validation"), ("test", "On the sealed test")):
        table = tables.models_table(evaluation, where)
        if table.rows:
            parts.append(f"<h3>{title}</h3>{_table(table, 'figures')}")
    plot = plots.models_plot(evaluation["models"], evaluation["metric"])
    drawn = (
        ""
        if evaluation["metric"] in RIGHT_OR_WRONG
        else " in the tables, bootstrap intervals of the metric that decides in the plot"
    )
    note = (
        f"Intervals are {sentences.level(evaluation)} Wilson intervals of the share of right answers{drawn}. "
        "Prompts are chosen on validation, so that the sealed test judges only the chosen one."
    )
    absent = evaluation["scores"]["candidate"].get("absent_labels")
    if absent:
        note += f" Macro-F1 leaves out labels without a row in the test: {', '.join(absent)}."
    return "".join(parts) + f'<div class="wide">{plot}</div>' + _paragraphs([note], "note")


def _paired(evaluation: Evaluation) -> str:
    comparisons = evaluation["comparisons"]
    told = [
        sentences.pair_sentence(comparisons[name], other)
        for name, other in (("baseline", "the base model with its best prompt"), ("champion", "the champion"))
        if comparisons.get(name)
    ]
    told += [sentences.visible_sentence(comparisons["baseline"]), *evidence.design_sentences(evaluation)]
    axis = f"gain of the fine-tuned model, points of {sentences.metric_name(evaluation)}"
    plot = plots.gains_plot(comparisons, tables.OTHERS, axis)
    how = (
        "Tango's score interval of a paired difference for accuracy, a paired bootstrap for macro-F1"
        if evaluation["metric"] == "accuracy"
        else "Tango's score interval of a paired difference of right answers"
        if evaluation["metric"] == "exact"
        else "a paired bootstrap; won, lost and p count right answers"
    )
    note = (
        f"All models answered the same rows. Gains and intervals are in points, at {sentences.level(evaluation)}: "
        f"{how}. Won: rows only the fine-tuned model has right; lost: rows only the other has. p is the exact "
        "McNemar test; Holm's adjusts it for the number of comparisons shown."
    )
    table = _table(tables.comparisons_table(evaluation), "figures")
    return _paragraphs(told) + f'<div class="wide">{plot}</div>' + table + _paragraphs([note], "note")


def _confusion(evaluation: Evaluation) -> str:
    if not evaluation["task"]["labels"]:
        return ""
    scores = evaluation["scores"]
    matrices = [("Fine-tuned", scores["candidate"]), ("Base, best prompt", scores["base"])]
    drawn = "".join(f"<div><h3>{title}</h3>{_matrix(of['confusion'])}</div>" for title, of in matrices)
    note = (
        "Rows are the right labels, columns what the model said; shades are shares of a row. The last column "
        "counts answers that are no label at all."
    )
    return f'<div class="pair">{drawn}</div>' + _paragraphs([note], "note")


def _matrix(confusion: Mapping[str, Any]) -> str:
    columns = confusion["columns"]
    outside = ' class="outside"'
    head = "".join(f"<th{outside if c == INVALID else ''}><span>{escape(c)}</span></th>" for c in columns)
    body = ""
    for label, counts in zip(confusion["labels"], confusion["counts"], strict=True):
        total, cells = sum(counts), ""
        for column, count in zip(columns, counts, strict=True):
            share = count / total if total else 0.0
            kinds = [
                kind
                for kind, on in (
                    ("right", column == label),
                    ("none", not count),
                    ("dark", share > 0.55),
                    ("outside", column == INVALID),
                )
                if on
            ]
            shade = f' style="background:rgba(var(--heat),{share:.2f})"' if count else ""
            hover = escape(f"{label} answered as {column}: {count} of {total}")
            cells += f'<td class="{" ".join(kinds)}" title="{hover}"{shade}>{count}</td>'
        body += f"<tr><th>{escape(label)}</th>{cells}</tr>"
    return (
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _per_class(evaluation: Evaluation) -> str:
    return _table(tables.per_class_table(evaluation), "figures") if evaluation["task"]["labels"] else ""


def _learning(evaluation: Evaluation) -> str:
    training = evaluation["training"]
    plot = plots.learning_curve(training.get("history") or [], training.get("best_step"))
    drawn = f'<div class="wide">{plot}</div>' if plot else ""
    return _paragraphs([sentences.curve_sentence(training)]) + drawn


def _changes(evaluation: Evaluation) -> str:
    parts = [
        _table(evidence.never_break_table(evaluation)),
        _paragraphs(evidence.history_sentences(evaluation)),
        _table(evidence.history_table(evaluation), "figures"),
    ]
    kinds = (
        ("regressions", "Regressions", "that the base model has right and the fine-tuned one wrong"),
        ("fixes", "Fixes", "that the base model has wrong and the fine-tuned one right"),
    )
    for key, title, what in kinds:
        told = evaluation[key]
        head = f"{counted(told['total'], 'row')} {what}"
        if len(told["shown"]) < told["total"]:
            head += f"; the first {len(told['shown'])} by id are shown"
        cases = "".join(
            _case(c["id"], c["text"], [("gold", c["gold"]), ("base", c["base"]), ("fine-tuned", c["candidate"])])
            for c in told["shown"]
        )
        parts.append(f"<h3>{title}</h3>{_paragraphs([head + '.'])}{cases}")
    return "".join(parts)


def _case(example_id: str, text: str | None, said: Sequence[tuple[str, str]]) -> str:
    shown = "(the text was not kept)" if text is None else text
    between = "<br>" if any(len(what) > LONG_ANSWER for _, what in said) else " \u00b7 "
    told = between.join(f"{escape(who)}: <b>{escape(what)}</b>" for who, what in said)
    return (
        f'<div class="case"><pre>{escape(shown)}</pre><p class="said">{told} '
        f'<span class="id">{escape(example_id)}</span></p></div>'
    )


def _wrong(evaluation: Evaluation) -> str:
    if not evaluation["task"]["labels"]:
        return ""
    groups, n = evaluation["wrong_answers"], evaluation["n"]
    total = sum(group["count"] for group in groups)
    parts = [
        _paragraphs(
            [
                f"The fine-tuned model is wrong on {counted(total, 'row')} of {n:,} "
                f"({percent(total / n if n else None)}), grouped by right and given label."
            ]
        )
    ]
    for group in groups[:SHOWN_GROUPS]:
        shown = f", {len(group['examples'])} shown" if len(group["examples"]) < group["count"] else ""
        title = f"{group['gold']} \u2192 {group['predicted']} ({group['count']}{shown})"
        cases = "".join(_case(c["id"], c["text"], [("said", c["said"])]) for c in group["examples"])
        parts.append(f"<h3>{escape(title)}</h3>{cases}")
    if rest := groups[SHOWN_GROUPS:]:
        named = ", ".join(f"{g['gold']} \u2192 {g['predicted']} ({g['count']})" for g in rest)
        parts.append(f"<h3>Smaller groups</h3>{_paragraphs([f'{named}.'])}")
    return "".join(parts)


def _calibration(evaluation: Evaluation) -> str:
    table = metric_tables.calibration_table(evaluation)
    if table is None:
        return ""
    note = (
        "From the likelihoods of the labels, made to sum to 1. Calibration error: mean distance between confidence and share "
        "of right answers over ten bins; Brier: squared distance from the truth, 0 to 2."
    )
    bins = _table(metric_tables.reliability_table(evaluation), "figures")
    return _table(table, "figures") + bins + _paragraphs([note], "note")


def _atlas(evaluation: Evaluation) -> str:
    atlas = evaluation["atlas"]
    if not atlas["groups"]:
        return ""
    kinds = ", ".join(f"{KINDS[kind]} ({n})" for kind, n in atlas["kinds"].items())
    parts = [_paragraphs([f"{counted(atlas['wrong'], 'wrong answer')} of {atlas['n']:,} by kind: {kinds}."])]
    for group in atlas["groups"][:SHOWN_GROUPS]:
        cases = "".join(
            _case(c["id"], c["text"], [("right", c["gold"]), ("said", c["said"])]) for c in group["examples"][:2]
        )
        near = "; ".join(f"{cut(n['text'], 160)} ({cut(n['answer'], 80)})" for n in group["nearest"])
        told = [share_sentence(group), group["advice"], f"Nearest training rows: {near}." if near else ""]
        parts.append(
            f"<h3>{escape(group_title(group))} ({group['count']})</h3>{_paragraphs([t for t in told if t])}{cases}"
        )
    if rest := atlas["groups"][SHOWN_GROUPS:]:
        named = "; ".join(f"{group_title(g)} ({g['count']})" for g in rest)
        parts.append(f"<h3>Smaller groups</h3>{_paragraphs([named + '.'])}")
    return "".join(parts)


def _ability(evaluation: Evaluation) -> str:
    told = evaluation.get("ability")
    return _paragraphs(beyond_test.ability_sentences(told)) + _table(beyond_test.ability_table(told), "figures")


def _people(evaluation: Evaluation) -> str:
    told = evaluation.get("people")
    sentences_ = beyond_test.people_sentences(told, evaluation["task"]["name"])
    return _paragraphs(sentences_) + _table(beyond_test.comments_table(told))


def _data(evaluation: Evaluation) -> str:
    data = evaluation["data"]
    found, splits = tables.findings_table(data), tables.splits_table(data, evaluation["task"]["labels"])
    return (
        _table(tables.stages_table(data), "figures")
        + _table(splits, "figures")
        + ("<h3>What was found</h3>" + _table(found, "figures") if found.rows else "")
    )


def _seal(evaluation: Evaluation) -> str:
    told = [sentences.seal_sentence(evaluation), *evidence.level_sentences(evaluation)]
    return _paragraphs(told) + _table(tables.openings_table(evaluation))
