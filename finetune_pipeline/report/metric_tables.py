"""Tables of the scores that only one kind of output has: fields of JSON, signs of text, calibration of labels, and form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.overlap import OVERLAP_NAMES
from finetune_pipeline.evaluation.wording import metric_title, number, percent, percent_range, points, points_range
from finetune_pipeline.report.tables import Table

_MODELS = {"base": "Base, best prompt", "candidate": "Fine-tuned", "champion": "Champion"}


def _models(evaluation: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(title, evaluation["scores"][name]) for name, title in _MODELS.items() if evaluation["scores"].get(name)]


def fields_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Precision, recall and F1 of the candidate per field, beside the base model's F1."""
    scores = evaluation["scores"]
    if "fields" not in scores["candidate"]:
        return None
    before = scores["base"]["fields"]
    rows = [
        [
            field,
            number(of["precision"]),
            number(of["recall"]),
            number(of["f1"]),
            number(before.get(field, {}).get("f1")),
            number(of["right"]),
            number(of["claimed"]),
            number(of["expected"]),
        ]
        for field, of in scores["candidate"]["fields"].items()
    ]
    headers = ["Field", "Precision", "Recall", "F1", "F1, base", "Right", "Claimed", "Expected"]
    return Table(headers, rows, "l" + "r" * 7)


def rates_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Rates with intervals of freely written answers: JSON and schema compliance, repair, or refusal and repetition."""
    titles = {
        "strict": "JSON as it stands",
        "schema": "Complies with the schema",
        "repaired": "JSON only after repair",
        "extracted": "With a final answer",
        "repetition": "Goes in circles",
        "refusal": "Declines",
    }
    rows = [
        [title, model, number(of[key]["k"]), percent(of[key]["share"]), percent_range(of[key]["interval"])]
        for key, title in titles.items()
        for model, of in _models(evaluation)
        if isinstance(of.get(key), Mapping)
    ]
    return Table(["Answers", "Model", "Rows", "Share", "Interval"], rows, "llrrr") if rows else None


def overlap_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Means of overlap and facts per model, in points, with bootstrap intervals."""
    rows = []
    for name in (*OVERLAP_NAMES, "facts"):
        for model, of in _models(evaluation):
            if f"{name}_interval" in of and name in of:
                rows.append(
                    [metric_title(name), model, points(of[name], sign=False), points_range(of[f"{name}_interval"])]
                )
    return (
        Table(["Metric", "Model", "Mean", "Interval"], [[*r[:3], r[3].replace("+", "")] for r in rows], "llrr")
        if rows
        else None
    )


def form_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Answers of each model per rule of form they break."""
    models = _models(evaluation)
    rules = sorted({rule for _, of in models for rule in of.get("form", {})})
    rows = [[rule.replace("_", " "), *(number(of.get("form", {}).get(rule, 0)) for _, of in models)] for rule in rules]
    return Table(["Not in form", *(title for title, _ in models)], rows, "l" + "r" * len(models)) if rows else None


def calibration_table(evaluation: Mapping[str, Any]) -> Table | None:
    """How sure each model is of its most likely label, and how often it is right then."""
    rows = [
        [
            model,
            number(told["n"]),
            percent(told["confidence"]),
            percent(told["accuracy"]),
            points(told["ece"], sign=False),
            number(told["brier"]),
            number(told["log_loss"]),
        ]
        for model, of in _models(evaluation)
        if (told := of.get("calibration"))
    ]
    headers = ["Model", "Rows", "Mean confidence", "Right", "Calibration error, points", "Brier", "Log loss"]
    return Table(headers, rows, "l" + "r" * 6) if rows else None


def reliability_table(evaluation: Mapping[str, Any]) -> Table | None:
    """Bins of the fine-tuned model's confidence, and the share right in each."""
    told = evaluation["scores"]["candidate"].get("calibration")
    if not told:
        return None
    rows = [
        [
            f"{percent(b['low'])} to {percent(b['high'])}",
            number(b["n"]),
            percent(b["confidence"]),
            percent(b["accuracy"]),
        ]
        for b in told["reliability"]
    ]
    return Table(["Confidence of the fine-tuned model", "Rows", "Mean", "Right"], rows, "lrrr")


def atlas_table(evaluation: Mapping[str, Any], limit: int) -> Table | None:
    """The largest groups of wrong answers: kind, what sets them apart, rows, and what to do."""
    groups = evaluation["atlas"]["groups"]
    rows = [
        [
            g["title"] + (f": {g['detail']}" if g["detail"] else ""),
            ", ".join(g["terms"]),
            number(g["count"]),
            number(g["collect"]) if g["collect"] else "",
            g["advice"],
        ]
        for g in groups[:limit]
    ]
    return Table(["Mistake", "Like", "Rows", "Collect", "What to do"], rows, "llrrl") if rows else None


def metric_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """All tables of this page that the kind of output has."""
    made = [
        fields_table(evaluation),
        rates_table(evaluation),
        form_table(evaluation),
        overlap_table(evaluation),
    ]
    return [table for table in made if table]
