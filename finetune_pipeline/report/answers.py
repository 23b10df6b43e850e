"""Report sections on answers: by label, field and form, calibration, perturbed rows and recent production rows."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from finetune_pipeline.data.perturbations import BLOCKING, TITLES
from finetune_pipeline.evaluation.correctness import INVALID
from finetune_pipeline.evaluation.metrics import METRICS, score_text
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Scores
from finetune_pipeline.evaluation.rivals import API_MODEL
from finetune_pipeline.evaluation.wording import (
    counted,
    level,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.report.blocks import Blocks, Format, Matrix, Table, figure, notes, text
from finetune_pipeline.report.comparison import unsigned

MODELS = {
    "base": "Base, best prompt",
    API_MODEL: "API model, best prompt",
    "candidate": "Fine-tuned",
    "champion": "Champion",
}
SHOWN_WRONG = 10
SHOWN_LABELS = 50
"""Maximum labels of a matrix: its size grows with their square, and a page with 300 labels has 15 MB."""
_RATES = {
    "strict": "Valid JSON without repair",
    "schema_rate": "Complies with the schema",
    "repaired": "JSON only after repair",
    "extracted": "With a final answer",
    "repetition": "Repetitive answers",
    "refusal": "Declines",
}


def _models(evaluation: EvaluationResult) -> Mapping[str, Scores]:
    return {title: evaluation.scores[name] for name, title in MODELS.items() if name in evaluation.scores}


def confusion_section(evaluation: EvaluationResult) -> Blocks:
    if (n := len(evaluation.task.labels)) > SHOWN_LABELS:
        yield (
            f"A matrix of {n} labels is too large to read: the section Labels lists the most common mistakes, and report.json "
            "has all counts (scores.candidate.confusion)."
        )
        return
    for title, name in (("Fine-tuned", "candidate"), ("Base, best prompt", "base")):
        if confusion := evaluation.scores[name].confusion:
            yield Matrix(title, confusion.labels, confusion.columns, confusion.counts, INVALID)
    if evaluation.task.labels:
        yield from notes(
            "Rows are reference labels, columns the model's answers; shades show shares of a row. The last column counts "
            "answers that are not a label."
        )


def labels_section(evaluation: EvaluationResult) -> Blocks:
    before = evaluation.scores["base"].per_class
    rows = []
    for label, scores in evaluation.scores["candidate"].per_class.items():
        base_f1 = before[label].f1
        change = scores.f1 - base_f1 if scores.support and scores.f1 is not None and base_f1 is not None else None
        rows.append([label, scores.precision, scores.recall, scores.f1, base_f1, change, scores.support])
    columns = [("Label", text), *((name, percent) for name in ("Precision", "Recall", "F1", "F1, base"))]
    yield Table([*columns, ("Change, points", points), ("Rows", number)], rows)
    commonest = [[group.gold, group.predicted, group.count] for group in evaluation.wrong_answers[:SHOWN_WRONG]]
    yield Table([("Right", text), ("Said", text), ("Rows", number)], commonest if rows else [])


def detail_section(evaluation: EvaluationResult) -> Blocks:
    models = _models(evaluation)
    yield _fields(evaluation)
    yield Table(
        [("Answers", text), ("Model", text), ("Rows", number), ("Share", percent), ("Interval", percent_range)],
        [
            [title, model, rate.k, rate.share, rate.interval]
            for key, title in _RATES.items()
            for model, scores in models.items()
            if (rate := getattr(scores, key))
        ],
    )
    rules = sorted({rule for scores in models.values() for rule in scores.form})
    yield Table(
        [("Invalid answers", text), *((title, number) for title in models)],
        [[rule.replace("_", " "), *(scores.form.get(rule, 0) for scores in models.values())] for rule in rules],
    )
    yield Table(
        [("Metric", text), ("Model", text), ("Mean", unsigned), ("Interval", figure)],
        [
            [metric.title, model, scores.metric(name), " to ".join(map(unsigned, scores.metric_interval(name) or ()))]
            for name, metric in METRICS.items()
            for model, scores in models.items()
            if metric.kinds == ("text",) and scores.metric(name) is not None
        ],
    )
    yield Table(
        [("Length, relative to the reference", text), ("Mean", number)],
        [[model, scores.length_ratio] for model, scores in models.items() if scores.length_ratio is not None],
    )


def _fields(evaluation: EvaluationResult) -> Table:
    before, fields = evaluation.scores["base"].fields, evaluation.scores["candidate"].fields
    shares, counts = ("Precision", "Recall", "F1", "F1, base"), ("Right", "Claimed", "Expected")
    rows: list[list[Any]] = []
    for field, s in fields.items():
        base_f1 = before[field].f1 if field in before else None
        rows.append([field, s.precision, s.recall, s.f1, base_f1, s.right, s.claimed, s.expected])
    columns = [("Field", text), *((name, percent) for name in shares), *((name, number) for name in counts)]
    return Table(columns, rows)


def likelihoods_section(evaluation: EvaluationResult) -> Blocks:
    """Show the calibration of the label likelihoods of every model, as they are."""
    rows = [
        [model, c.n, c.confidence, c.accuracy, c.ece, c.brier, c.log_loss]
        for model, scores in _models(evaluation).items()
        if (c := scores.calibration)
    ]
    columns = [("Model", text), ("Rows", number), ("Mean confidence", percent), ("Right", percent)]
    yield Table([*columns, ("Calibration error, points", unsigned), ("Brier", number), ("Log loss", number)], rows)
    if rows:
        yield from notes(
            "From the likelihoods of the labels, normalised to sum to 1, whatever label is written. Calibration error: mean "
            "distance between confidence and share of right answers over ten bins; Brier: squared distance from the truth, 0 to 2."
        )


_NOTES = {
    "typos": "one word in ten with letters swapped, doubled or left out",
    "case": "all lower case or all upper case",
    "courtesy": "a greeting before the text, thanks or a closing after it",
    "no_system": "the question alone",
}


def robustness_section(evaluation: EvaluationResult) -> Blocks:
    measured = evaluation.robustness
    if not measured:
        return
    ways = "; ".join(f"{TITLES[kind].lower()} ({_NOTES[kind]})" for kind in measured.kinds)
    yield (
        f"{counted(measured.asked or 0, 'test row')} per perturbation at most, drawn at random and asked again in the same opening "
        f"of the test: {ways}. Numbers, names, identifiers, negations and words of the reference answer were not changed. "
        "Each score is shown with that of the same rows unperturbed; the gate `robust` judges the changes."
    )
    if unchanged := [
        TITLES[kind].lower() for kind, scores in measured.kinds.items() if scores.n == 0 and not scores.failed
    ]:
        yield f"Could not change any of these rows: {', '.join(unchanged)}."
    share = partial(score_text, measured.metric)
    change_title = f"Change ({level(measured.confidence or 0)} interval)"
    columns: list[tuple[str, Format]] = [("Perturbation", text), ("Rows", number), ("Plain", share)]
    columns += [("Perturbed", share), (change_title, figure), ("Lost", number), ("Won", number)]
    columns += [("p", p_value), ("Can block", text)]
    rows = []
    for kind, s in measured.kinds.items():
        if s.n and s.drop is not None:
            interval = f" ({points_range((-s.interval[1], -s.interval[0]))})" if s.interval else ""
            change, blocks = f"{points(-s.drop)}{interval}", "yes" if kind in BLOCKING else "no, informs"
            rows.append([TITLES[kind], s.n, s.plain, s.perturbed, change, s.lost, s.gained, s.p, blocks])
    yield Table(columns, rows)


def production_section(evaluation: EvaluationResult) -> Blocks:
    production = evaluation.production
    if not production:
        return
    rows = production.rows
    left_out = ", ".join(f"{why.replace('_', ' ')} ({number(n)})" for why, n in sorted(rows.left_out.items()))
    between = f", logged {rows.first[:10]} to {rows.last[:10]}" if rows.first and rows.last else ""
    yield (
        f"{counted(rows.rows or 0, 'recent production row')} whose correct answer people gave{between}, which no version "
        f"was trained on, of {number(rows.looked_at)} reserved for evaluation{f'; left out: {left_out}' if left_out else ''}."
    )
    yield (
        f"{number(rows.confirmed)} of these answers were confirmed, the others corrected. People correct wrong answers more "
        "often than they confirm right ones, so these rows are biased against the model that answered them: the gate refuses "
        "a candidate that is worse here, but promotes none for being better."
        if production.judged
        else "They are too few to compare models."
    )
    table = []
    titles = {"base": MODELS["base"], "champion": "Champion in service", "candidate": MODELS["candidate"]}
    for model, title in titles.items():
        if model in production.scores:
            test, recent = evaluation.scores[model].primary, production.scores[model]
            comparison = production.comparisons.get(model)
            gain = f"{points(comparison.gain)} ({points_range(comparison.interval)})" if comparison else ""
            lost, won = (number(comparison.b), number(comparison.c)) if comparison else ("", "")
            scores = [score_text(production.metric, primary.value, primary.interval) for primary in (test, recent)]
            table.append([title, *scores, gain, lost, won])
    columns = ("Sealed test", "Production", "Fine-tuned gains on production", "Lost", "Won")
    yield Table([("Model", text), *((title, figure) for title in columns)], table, strong=[len(table) - 1])
