"""Report sections on the scores of all models: side by side, paired, by form, and whether training was worth it."""

from collections.abc import Sequence
from typing import Any

from finetune_pipeline.baseline.decision import DECISIONS
from finetune_pipeline.evaluation.decisions import Comparison
from finetune_pipeline.evaluation.metrics import METRICS, is_right_or_wrong, metric_title
from finetune_pipeline.evaluation.metrics.overlap import Overlap
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.refined_choice import SUPERVISED
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import API_MODEL, MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import (
    counted,
    inside,
    level,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.report.blocks import Blocks, Format, Items, Plot, Table, notes, text
from finetune_pipeline.report.coverage import coverage_table
from finetune_pipeline.report.plots import Dot, dot_plot
from finetune_pipeline.report.verdict import MOST_OF_GAIN, decoding_sentence

OTHERS = {
    "baseline": "base model with its best prompt",
    "base_restricted": f"base model{MODE_TITLES['restricted']}",
    API_MODEL: "API model with its best prompt",
    **{f"{SIMPLE}{name}": model.title for name, model in SIMPLE_MODELS.items()},
    SUPERVISED: "model of the first stage alone",
    "champion": "champion in service",
}
"""Names in tables of what the candidate is compared with."""


def unsigned(value: Any) -> str:
    """Format a share in points without a sign: a score, not a gain."""
    return points(value, sign=False)


def models_section(evaluation: EvaluationResult, shipped: str) -> Blocks:
    """Show the scores of all models on the sealed test. shipped: the model to highlight, as of winner.row_of."""
    yield models_table(evaluation, "test", shipped)
    in_plot = " in the table, bootstrap intervals of the deciding metric in the plot beside the verdict"
    absent = evaluation.scores["candidate"].absent_labels
    promises = (of_model.automation for of_model in evaluation.probabilities.values() if of_model.automation)
    promised = next(promises, None)
    yield from notes(
        f"Intervals are {level(evaluation.confidence)} Wilson intervals of the share of right answers"
        f"{'' if is_right_or_wrong(evaluation.metric) else in_plot}."
        + (
            f" Answered alone: without a person, surely at most {percent(promised.max_error)} wrong."
            if promised
            else ""
        )
        + (f" Macro-F1 leaves out labels without a row in the test: {', '.join(absent)}." if absent else "")
    )


def prompts_section(evaluation: EvaluationResult) -> Blocks:
    yield models_table(evaluation, "validation")
    yield from notes("Prompts are chosen on validation, so the sealed test evaluates only the chosen one.")


def models_table(evaluation: EvaluationResult, on: str, shipped: str | None = None) -> Table:
    """Show the scores of all models on `test` or `validation`. shipped: the model to highlight."""
    models = {name: model for name, model in evaluation.models.items() if model.set == on}
    labels, metric = evaluation.task.kind == "labels", evaluation.metric
    by_kind = {"labels": ("macro_f1", "Macro-F1"), "json": ("micro_f1", "Micro-F1")}
    key, title = by_kind.get(evaluation.task.kind, ("rougeLsum", "ROUGE-L"))
    if not is_right_or_wrong(metric):
        key, title = "value", metric_title(metric)
    columns = [
        ("Model", text),
        ("Accuracy" if labels else "Exact", percent),
        ("Interval", percent_range),
        (title[:1].upper() + title[1:], unsigned),
        ("Valid answers", percent),
        ("Rows", number),
    ]
    rows = [
        [model.title, model.accuracy, model.interval, getattr(model, key), model.valid_share, model.n]
        for model in models.values()
    ]
    if any(model.coverage is not None for model in models.values()):
        columns.append(("Answered alone", percent))
        for row, model in zip(rows, models.values(), strict=True):
            row.append(model.coverage)
    if costs := evaluation.cost.simple if evaluation.cost else None:
        columns += [("ms a call", number), ("MB", number)]
        for row, name in zip(rows, models, strict=True):
            cost = costs.get(name.removeprefix(f"{on}_").removeprefix(SIMPLE))
            row.extend([cost.p50, cost.megabytes] if cost else [None, None])
    return Table(columns, rows, strong=[i for i, name in enumerate(models) if name == shipped])


def models_plot(evaluation: EvaluationResult, shipped: str) -> Plot | None:
    """Plot the scores of all models on the sealed test, best first. shipped: the model to highlight, as of winner.row_of."""
    dots = []
    for name, model in evaluation.models.items():
        if model.set == "test" and model.value is not None and model.value_interval is not None:
            value, low, high = (100 * share for share in (model.value, *model.value_interval))
            written = f"{value:.1f} ({low:.1f} to {high:.1f})"
            dots.append(Dot(model.title, value, (low, high), written, name == shipped))
    dots.sort(key=lambda dot: METRICS[evaluation.metric].rank(dot.value), reverse=True)
    axis = "right answers, %" if is_right_or_wrong(evaluation.metric) else f"{metric_title(evaluation.metric)}, points"
    return dot_plot("models", "Scores of all models with intervals", dots, axis, (0.0, 100.0))


def advice_section(evaluation: EvaluationResult) -> Blocks:
    if advice := evaluation.baseline.advice:
        yield DECISIONS[advice.decision]
        yield Items(advice.reasons)


def form_section(evaluation: EvaluationResult) -> Blocks:
    """Show what free generation loses against constrained answers, and whether training was needed for it."""
    gap = evaluation.format_gap
    if not gap:
        return
    base, tuned, closed = gap.base, gap.candidate, gap.closed_by_decoding
    yield (
        "In production, generation is free: the raw text must be in the declared form. Constraining answers to the allowed "
        f"forms shows how well a model could do if form did not matter. The base model is right on "
        f"{percent(base.free)} freely and {percent(base.restricted)} constrained, with {percent(base.valid_share)} of its "
        f"answers valid; the fine-tuned model on {percent(tuned.free)} and {percent(tuned.restricted)}, with "
        f"{percent(tuned.valid_share)} valid."
    )
    if closed is not None and closed >= MOST_OF_GAIN:
        yield decoding_sentence(closed)
    elif closed is not None:
        share = "none of the gain"
        if closed > 0:
            share = f"{percent(closed)} of the gain; the rest is better judgement, which only training brought"
        yield f"Constrained decoding of the untrained base model would bring {share}."


def paired_section(evaluation: EvaluationResult) -> Blocks:
    for name, rival, comparison in _compared(evaluation):
        if name in ("baseline", API_MODEL, SUPERVISED, "champion"):
            yield pair_sentence(comparison, rival)
    yield evaluation.stages.sentence if evaluation.stages else None
    yield visible_sentence(evaluation.comparison)
    yield sources_sentence(evaluation) or None
    yield gains_plot(evaluation)
    yield comparisons_table(evaluation)
    yield coverage_table(evaluation)
    method = "a paired bootstrap; won, lost and p count right answers"
    if is_right_or_wrong(evaluation.metric):
        method = "Tango's score interval of a paired difference of right answers"
        method += ", a paired bootstrap for macro-F1" if evaluation.task.kind == "labels" else ""
    yield from notes(
        f"All models answered the same rows. Gains and intervals are in points, at {level(evaluation.confidence)}: "
        f"{method}. Won: rows only the fine-tuned model has right; lost: rows only the other has. p is the exact "
        "McNemar test; Holm's adjusts it for the number of comparisons shown."
    )


def gains_plot(evaluation: EvaluationResult) -> Plot | None:
    dots = []
    for name, title, comparison in _compared(evaluation):
        if comparison.gain is not None and comparison.interval is not None:
            value, low, high = (100 * gain for gain in (comparison.gain, *comparison.interval))
            written = f"{value:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "\u2212")
            dots.append(Dot(f"over {inside(title)}", value, (low, high), written, name == "baseline"))
    axis = f"gain of the fine-tuned model, points of {metric_title(evaluation.metric)}"
    return dot_plot("gains", "Gains of the fine-tuned model with paired intervals", dots, axis)


def comparisons_table(evaluation: EvaluationResult) -> Table:
    labels = evaluation.task.kind == "labels"
    gain = "Gain" if labels else f"Gain, {metric_title(evaluation.metric)}"
    columns: list[tuple[str, Format]] = [("Fine-tuned against", text), (gain, points), ("Interval", points_range)]
    columns += [("Won", number), ("Lost", number), ("p", p_value), ("p, Holm", p_value)]
    columns += [("Macro-F1 gain", points_range)] if labels else []
    rows: list[Sequence[Any]] = []
    for _, title, compared in _compared(evaluation):
        row = [title, compared.gain, compared.interval, compared.c, compared.b]
        row += [compared.mcnemar_p, compared.mcnemar_p_holm]
        rows.append([*row, compared.macro_f1_interval] if labels else row)
    return Table(columns, rows)


def _compared(evaluation: EvaluationResult) -> list[tuple[str, str, Comparison]]:
    """Return (name, title, comparison) of what the candidate was compared with, in the order of OTHERS."""
    mode = evaluation.base_at_its_best.mode
    titles = OTHERS if mode == "free" else OTHERS | {"baseline": f"base model{MODE_TITLES[mode]}"}
    return [(name, title, found) for name, title in titles.items() if (found := evaluation.comparisons.get(name))]


def pair_sentence(comparison: Comparison, rival: str) -> str:
    verb = "answered verbatim" if isinstance(METRICS.get(comparison.metric), Overlap) else "answered correctly"
    p, adjusted = p_value(comparison.mcnemar_p), p_value(comparison.mcnemar_p_holm)
    p_phrase = p if p.startswith("<") else f"= {p}"
    sentence = (
        f"Against the {rival}: of {counted(comparison.n, 'row')}, {number(comparison.c)} are {verb} by the fine-tuned model "
        f"alone and {number(comparison.b)} by the other alone; exact McNemar p {p_phrase}"
    )
    if comparison.mcnemar_p_holm is not None and adjusted != p:
        sentence += f" ({adjusted} adjusted for the number of comparisons)"
    return sentence + "."


def visible_sentence(comparison: Comparison) -> str:
    """Return a sentence on the smallest gain that a test set of this size can show."""
    visible = comparison.smallest_detectable_gain
    share = f"exactly one of the two models is right on {percent(comparison.discordant_share)} of the rows"
    if visible is None:
        return f"At this size no gain can be detected reliably: {share}."
    unit = "" if is_right_or_wrong(comparison.metric) else " of right answers"
    return (
        f"A test of this size finds a true gain of {points(visible, sign=False)} points{unit} or more four "
        f"times in five ({share}); smaller ones may go unseen."
    )


def sources_sentence(evaluation: EvaluationResult) -> str:
    """Return a sentence on rows that share a source; empty if none do."""
    sources = evaluation.sources
    if not sources.shared:
        return ""
    effective_rows = int(evaluation.n / (evaluation.comparison.design_effect or 1.0))
    return (
        f"The {number(sources.rows)} rows come from {number(sources.sources)} sources, the largest with "
        f"{counted(sources.largest, 'row')}; rows of one source tend to be right or wrong together, so intervals "
        f"count sources: for the gain, the rows are worth {number(effective_rows)} independent ones."
    )
