"""The evaluation report as one self-contained HTML page: no script, nothing loaded, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.wording import RIGHT_OR_WRONG
from finetune_pipeline.report import (
    audit_page,
    background,
    besides_task,
    evidence,
    failure_sections,
    markup,
    metric_tables,
    other_rows,
    plots,
    preferences,
    sentences,
    tables,
)
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.style import STYLE

Evaluation = Mapping[str, Any]
_ANSWER_STYLES = {"passed": "yes", "failed": "no-answer", "warned": "look-answer", "not_asked": "not-asked"}


def render_html(evaluation: Evaluation, gates: Sequence[GateResult]) -> str:
    """The whole page for an evaluation (see evaluate_run.evaluate_task) and its gates (see gates.decide)."""
    task = evaluation["task"]
    sections = [
        ("gates", "Gates", _gates(gates)),
        ("next", "What to do next", _next(evaluation, gates)),
        ("models", "Models side by side", _models(evaluation)),
        ("advice", "Was it worth training?", markup.paragraphs(evidence.advice_sentences(evaluation))),
        ("form", "Form or judgement", markup.paragraphs(sentences.format_gap_sentences(evaluation))),
        ("paired", "Paired comparison", _paired(evaluation)),
        ("confusion", "Confusion", _confusion(evaluation)),
        ("labels", "Labels", _per_class(evaluation)),
        (
            "detail",
            "Answers in detail",
            "".join(markup.table(t, "figures") for t in metric_tables.metric_tables(evaluation)),
        ),
        ("calibration", "Calibration", _calibration(evaluation)),
        ("learning", "Learning curves", _learning(evaluation)),
        ("regressions", "Regressions and fixes", failure_sections.changes(evaluation)),
        ("wrong", "Wrong answers", failure_sections.wrong(evaluation)),
        ("atlas", "Failure atlas", failure_sections.atlas(evaluation)),
        ("robustness", "The same rows, perturbed", _robustness(evaluation)),
        ("production", "Recent production rows", _production(evaluation)),
        ("ability", "General ability", _ability(evaluation)),
        ("people", "Judgement by people", _people(evaluation)),
        ("judge", "Judgement by a model", _judge(evaluation)),
        ("data", "Data card", _data(evaluation)),
        ("training", "Training", markup.table(tables.training_table(evaluation["training"]), "figures")),
        ("supervision", "Supervision", _supervision(evaluation)),
        ("cost", "Cost", _cost(evaluation)),
        ("seal", "The sealed test", _seal(evaluation)),
        ("versions", "Lineage and hashes", markup.table(tables.versions_table(evaluation), "figures hash")),
    ]
    style = STYLE + (audit_page.ROW_STYLE if evaluation.get("supervision") else "")
    title = f"{task['name']}: evaluation report"
    return markup.page(title, task["description"], style, _verdict(evaluation, gates), sections)


def _verdict(evaluation: Evaluation, gates: Sequence[GateResult]) -> str:
    answer, sentence = sentences.verdict_sentences(evaluation, gates)
    kind = {"promote": "verdict", "use_simple": "verdict simple", "refuse": "verdict no"}[verdict(gates)]
    more = markup.paragraphs(sentences.caveats(evaluation))
    return f'<div class="{kind}"><p><strong>{escape(answer)}</strong> {escape(markup.minus(sentence))}</p>{more}</div>'


def _gates(gates: Sequence[GateResult]) -> str:
    rows = ""
    for gate in gates:
        answer = f'<td class="{_ANSWER_STYLES[gate.status]} nowrap">{tables.ANSWERS[gate.status]}</td>'
        todo = f'<span class="todo">What to do: {escape(gate.what_to_do)}</span>' if gate.what_to_do else ""
        rows += (
            f'<tr><td class="nowrap"><code>{escape(gate.name)}</code></td>{answer}'
            f"<td>{escape(markup.minus(gate.message))}{todo}</td></tr>"
        )
    head = "<tr><th>Gate</th><th>Passed</th><th>Measured</th></tr>"
    counts = markup.paragraphs([f"{sentences.gate_counts(gates)}."])
    return f'{counts}<div class="wide"><table class="gates"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _next(evaluation: Evaluation, gates: Sequence[GateResult]) -> str:
    steps = "".join(f"<li>{markup.prose(step)}</li>" for step in next_steps(evaluation, gates))
    return f"<ol>{steps}</ol>" if steps else ""


def _drawn(draw: Callable[[int], str]) -> str:
    """A plot for wide and one for narrow screens, of which one is seen."""
    wide = draw(plots.WIDTH)
    return f'<div class="wide broad">{wide}</div><div class="narrow">{draw(plots.NARROW)}</div>' if wide else ""


def _models(evaluation: Evaluation) -> str:
    parts = []
    for where, title in (("validation", "On validation"), ("test", "On the sealed test")):
        table = tables.models_table(evaluation, where)
        if table.rows:
            parts.append(f"<h3>{title}</h3>{markup.table(table, 'figures')}")
    plot = _drawn(lambda width: plots.models_plot(evaluation["models"], evaluation["metric"], width))
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
    return "".join(parts) + plot + markup.paragraphs([note], "note")


def _paired(evaluation: Evaluation) -> str:
    comparisons = evaluation["comparisons"]
    told = [
        sentences.pair_sentence(comparisons[name], other)
        for name, other in (("baseline", "the base model at its best"), ("champion", "the champion"))
        if comparisons.get(name)
    ]
    told += [sentences.visible_sentence(comparisons["baseline"]), *evidence.design_sentences(evaluation)]
    axis = f"gain of the fine-tuned model, points of {sentences.metric_name(evaluation)}"
    plot = _drawn(lambda width: plots.gains_plot(comparisons, tables.OTHERS, axis, width))
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
    table = markup.table(tables.comparisons_table(evaluation), "figures")
    return markup.paragraphs(told) + plot + table + markup.paragraphs([note], "note")


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
    return f'<div class="pair">{drawn}</div>' + markup.paragraphs([note], "note")


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
    return markup.table(tables.per_class_table(evaluation), "figures") if evaluation["task"]["labels"] else ""


def _learning(evaluation: Evaluation) -> str:
    training = evaluation["training"]
    history, best = training.get("history") or [], training.get("best_step")
    drawn = _drawn(lambda width: plots.learning_curve(history, best, width))
    return markup.paragraphs([sentences.curve_sentence(training)]) + drawn


def _calibration(evaluation: Evaluation) -> str:
    table = metric_tables.calibration_table(evaluation)
    if table is None:
        return ""
    note = (
        "From the likelihoods of the labels, made to sum to 1. Calibration error: mean distance between confidence and share "
        "of right answers over ten bins; Brier: squared distance from the truth, 0 to 2."
    )
    bins = markup.table(metric_tables.reliability_table(evaluation), "figures")
    return markup.table(table, "figures") + bins + markup.paragraphs([note], "note")


def _robustness(evaluation: Evaluation) -> str:
    told = evaluation.get("robustness")
    return markup.paragraphs(other_rows.robustness_sentences(told)) + markup.table(
        other_rows.robustness_table(told), "figures"
    )


def _production(evaluation: Evaluation) -> str:
    told = evaluation.get("production")
    return markup.paragraphs(other_rows.production_sentences(told)) + markup.table(
        other_rows.production_table(told, evaluation["scores"]), "figures"
    )


def _ability(evaluation: Evaluation) -> str:
    told = evaluation.get("ability")
    return markup.paragraphs(besides_task.ability_sentences(told)) + markup.table(
        besides_task.ability_table(told), "figures"
    )


def _people(evaluation: Evaluation) -> str:
    told = evaluation.get("people")
    sentences_ = besides_task.people_sentences(told, evaluation["task"]["name"])
    return markup.paragraphs(sentences_) + markup.table(besides_task.comments_table(told))


def _judge(evaluation: Evaluation) -> str:
    told = evaluation.get("judge")
    likeness = preferences.similarity_sentences(evaluation.get("similarity"))
    return (
        markup.paragraphs(preferences.judge_sentences(told))
        + markup.table(preferences.judge_table(told), "figures")
        + markup.paragraphs(likeness)
    )


def _data(evaluation: Evaluation) -> str:
    data = evaluation["data"]
    found, splits = tables.findings_table(data), tables.splits_table(data, evaluation["task"]["labels"])
    return (
        markup.paragraphs(background.card_sentences(evaluation))
        + markup.table(background.sources_table(evaluation), "figures hash")
        + markup.table(tables.stages_table(data), "figures")
        + markup.table(splits, "figures")
        + ("<h3>What was found</h3>" + markup.table(found, "figures") if found.rows else "")
    )


def _supervision(evaluation: Evaluation) -> str:
    told, audits = background.supervision_sentences(evaluation), evaluation.get("supervision") or {}
    if not told:
        return ""
    shown = "".join(
        f"<h3>{escape(split[:1].upper() + split[1:])}</h3>{audit_page.shown_rows(audit['shown'])}"
        for split, audit in audits.items()
        if audit["shown"]
    )
    return markup.paragraphs(told) + audit_page.counters(audits) + (audit_page.key() + shown if shown else "")


def _cost(evaluation: Evaluation) -> str:
    return (
        markup.paragraphs(background.cost_sentences(evaluation))
        + markup.table(background.cost_table(evaluation), "figures")
        + markup.table(background.tokens_table(evaluation), "figures")
        + markup.table(background.prices_table(evaluation), "figures")
    )


def _seal(evaluation: Evaluation) -> str:
    told = [sentences.seal_sentence(evaluation), *evidence.level_sentences(evaluation)]
    return markup.paragraphs(told) + markup.table(tables.openings_table(evaluation))
