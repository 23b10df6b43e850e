"""What the report says of rows beside the plain test rows: the same ones, perturbed, and recent production rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.perturbations import BLOCKING, TITLES
from finetune_pipeline.evaluation.wording import RIGHT_OR_WRONG, counted, number, p_value, percent, points
from finetune_pipeline.evaluation.wording import points_range as range_of
from finetune_pipeline.report.tables import Table

_MODELS = {"candidate": "Fine-tuned", "base": "Base, best prompt", "champion": "Champion in service"}
_NOTES = {
    "typos": "one word in six with letters swapped, doubled or left out",
    "case": "small letters or capitals only",
    "courtesy": "a greeting before the text, thanks or a closing after it",
    "no_system": "the question alone",
}


def robustness_sentences(measured: Mapping[str, Any] | None) -> list[str]:
    """How the rows were perturbed, what that cost, and what follows. measured: of evaluation.robustness.robustness."""
    if not measured:
        return []
    kinds = measured["kinds"]
    ways = "; ".join(f"{TITLES[kind].lower()} ({_NOTES[kind]})" for kind in kinds)
    sentences = [
        f"{counted(measured['asked'], 'test row')} a perturbation at most, drawn at random, asked again in the same opening of "
        f"the test: {ways}. Numbers, names, identifiers, negations and words of the right answer were left as they "
        "are. Each score stands beside that of the same rows as they were.",
        measured["verdict"]["sentence"],
    ]
    if unchanged := [TITLES[kind].lower() for kind in kinds if not kinds[kind]["n"]]:
        sentences.append(f"Could change none of these rows: {', '.join(unchanged)}.")
    return sentences


def robustness_table(measured: Mapping[str, Any] | None) -> Table | None:
    """The candidate's plain and perturbed scores of the same rows, by perturbation."""
    if not measured:
        return None
    share = percent if measured["metric"] in RIGHT_OR_WRONG else lambda value: points(value, sign=False)
    rows = []
    for kind, figures in measured["kinds"].items():
        if not figures["n"]:
            continue
        interval = figures["interval"]
        change = points(-figures["drop"]) + (f" ({range_of([-interval[1], -interval[0]])})" if interval else "")
        rows.append(
            [
                TITLES[kind],
                number(figures["n"]),
                share(figures["plain"]),
                share(figures["perturbed"]),
                change,
                number(figures["lost"]),
                number(figures["gained"]),
                p_value(figures["p"]),
                "yes" if kind in BLOCKING else "no, informs",
            ]
        )
    level = f"{100 * measured['confidence']:.4g}%"
    headers = [
        "Perturbation",
        "Rows",
        "Plain",
        "Perturbed",
        f"Change ({level} interval)",
        "Lost",
        "Won",
        "p",
        "Can block",
    ]
    return Table(headers, rows, "lrrrrrrrl") if rows else None


def production_sentences(told: Mapping[str, Any] | None) -> list[str]:
    """Which production rows stand beside the test, and what they may say. told: of production_rows.recent_rows."""
    if not told:
        return []
    rows = told["rows"]
    left = ", ".join(f"{why.replace('_', ' ')} ({number(n)})" for why, n in sorted(rows["left_out"].items()))
    between = f", logged {rows['first'][:10]} to {rows['last'][:10]}" if rows["first"] else ""
    sentences = [
        f"{counted(rows['rows'], 'recent production row')} whose right answer people told{between}, which no version was "
        f"trained on, of {number(rows['looked_at'])} kept to judge" + (f"; left out: {left}." if left else ".")
    ]
    if not told["judged"]:
        return [*sentences, "They are too few to compare models by."]
    return [
        *sentences,
        f"{number(rows['confirmed'])} of the answers given were confirmed, the others corrected. People correct what is wrong "
        "more often than they confirm what is right, so that these rows speak against the model that answered them: the gate "
        "refuses a candidate that is worse here, and promotes none for being better.",
    ]


def production_table(told: Mapping[str, Any] | None, test: Mapping[str, Any]) -> Table | None:
    """Every model's score on production rows beside that on the test, and the candidate's gain there. test: scores by model."""
    if not told or not told["scores"]:
        return None
    share = percent if told["metric"] in RIGHT_OR_WRONG else lambda value: points(value, sign=False)

    def cell(of: Mapping[str, Any]) -> str:
        interval = of["interval"]
        return share(of["value"]) + (f" ({share(interval[0])} to {share(interval[1])})" if interval else "")

    rows = []
    for model in ("base", "champion", "candidate"):
        if model in told["scores"]:
            against = told["comparisons"].get(model)
            gain = f"{points(against['gain'])} ({range_of(against['interval'])})" if against else ""
            lost = [number(against["b"]), number(against["c"])] if against else ["", ""]
            rows.append([_MODELS[model], cell(test[model]["primary"]), cell(told["scores"][model]), gain, *lost])
    headers = ["Model", "Sealed test", "Production", "Fine-tuned gains on production", "Lost", "Won"]
    return Table(headers, rows, "lrrrrr", strong=frozenset([len(rows) - 1]))
