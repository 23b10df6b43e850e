"""Sections on rows beside the plain test rows: the same ones, perturbed, and recent production rows."""

from __future__ import annotations

from finetune_pipeline.data.perturbations import BLOCKING, TITLES
from finetune_pipeline.evaluation.metrics import is_right_or_wrong
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted, number, p_value, percent, points, points_range
from finetune_pipeline.report.blocks import Blocks, Format, Table, figure, text
from finetune_pipeline.report.comparison import unsigned

_MODELS = {"base": "Base, best prompt", "champion": "Champion in service", "candidate": "Fine-tuned"}
_NOTES = {
    "typos": "one word in ten with letters swapped, doubled or left out",
    "case": "small letters or capitals only",
    "courtesy": "a greeting before the text, thanks or a closing after it",
    "no_system": "the question alone",
}


def robustness_section(evaluation: EvaluationResult) -> Blocks:
    """How test rows were perturbed, what that cost, and what follows."""
    measured = evaluation.robustness
    if not measured:
        return
    ways = "; ".join(f"{TITLES[kind].lower()} ({_NOTES[kind]})" for kind in measured.kinds)
    yield (
        f"{counted(measured.asked or 0, 'test row')} a perturbation at most, drawn at random, asked again in the same opening "
        f"of the test: {ways}. Numbers, names, identifiers, negations and words of the right answer were left as they are. "
        "Each score stands beside that of the same rows as they were."
    )
    yield measured.verdict.sentence
    if unchanged := [TITLES[kind].lower() for kind, scores in measured.kinds.items() if not scores.n]:
        yield f"Could change none of these rows: {', '.join(unchanged)}."
    share = percent if is_right_or_wrong(measured.metric) else unsigned
    columns: list[tuple[str, Format]] = [
        ("Perturbation", text),
        ("Rows", number),
        ("Plain", share),
        ("Perturbed", share),
    ]
    columns += [(f"Change ({100 * (measured.confidence or 0):.4g}% interval)", figure)]
    columns += [("Lost", number), ("Won", number), ("p", p_value), ("Can block", text)]
    rows = []
    for kind, of in measured.kinds.items():
        if of.n and of.drop is not None:
            interval = f" ({points_range((-of.interval[1], -of.interval[0]))})" if of.interval else ""
            change, blocks = f"{points(-of.drop)}{interval}", "yes" if kind in BLOCKING else "no, informs"
            rows.append([TITLES[kind], of.n, of.plain, of.perturbed, change, of.lost, of.gained, of.p, blocks])
    yield Table(columns, rows)


def production_section(evaluation: EvaluationResult) -> Blocks:
    """Which production rows stand beside the test, and how the models do on them."""
    production = evaluation.production
    if not production:
        return
    rows = production.rows
    left = ", ".join(f"{why.replace('_', ' ')} ({number(n)})" for why, n in sorted(rows.left_out.items()))
    between = f", logged {rows.first[:10]} to {rows.last[:10]}" if rows.first and rows.last else ""
    yield (
        f"{counted(rows.rows or 0, 'recent production row')} whose right answer is known from people{between}, which no version "
        f"was trained on, of {number(rows.looked_at)} kept to judge{f'; left out: {left}' if left else ''}."
    )
    yield (
        f"{number(rows.confirmed)} of the answers given were confirmed, the others corrected. People correct what is wrong "
        "more often than they confirm what is right, so that these rows speak against the model that answered them: the gate "
        "refuses a candidate that is worse here, and promotes none for being better."
        if production.judged
        else "They are too few to compare models by."
    )
    share = percent if is_right_or_wrong(production.metric) else unsigned

    def cell(value: float | None, interval: tuple[float, float] | None) -> str:
        return share(value) + (f" ({share(interval[0])} to {share(interval[1])})" if interval else "")

    table = []
    for model, title in _MODELS.items():
        if model in production.scores:
            test, recent = evaluation.scores[model].primary, production.scores[model]
            against = production.comparisons.get(model)
            gain = f"{points(against.gain)} ({points_range(against.interval)})" if against else ""
            lost, won = (number(against.b), number(against.c)) if against else ("", "")
            scores = [cell(of.value, of.interval) for of in (test, recent)]
            table.append([title, *scores, gain, lost, won])
    titles = ("Sealed test", "Production", "Fine-tuned gains on production", "Lost", "Won")
    yield Table([("Model", text), *((title, figure) for title in titles)], table, strong=[len(table) - 1])
