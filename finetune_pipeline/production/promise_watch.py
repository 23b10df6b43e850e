"""Watches whether the champion keeps its promised error in production, at any time, with one bound on false alarms.

Only answers that were drawn by the hash of their id, were not passed on, and were decided by a reviewer count: what users report
by themselves is mostly wrong answers. Where fields are promised, one field of each answer of the model counts, drawn by the hash of
its id, if that field was not passed on. The evidence against the promise is an e-process: a bet against "at most max_error of the
answers are wrong" that wins, on average, nothing while this is true. By Ville's inequality the chance that it ever exceeds 1/level
is at most the level, however often one looks (Waudby-Smith and Ramdas 2024, section 4). The bet is spread over several larger
errors and over all days on which the error may have grown, the j-th row with weight 1/(j(j+1)) (Shin, Ramdas and Rinaldo 2023,
section 3).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.evaluation.calibration import AutomationPromise
from finetune_pipeline.evaluation.probabilities import drawn_field, field_is_right
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.scored_rows import scored_row
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.production.choosing import in_watched_sample, of_fields
from finetune_pipeline.production.drift import version_of
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput

_ERRORS = 12
"""Number of larger errors that the bet is spread over, evenly on the logarithmic scale."""

_MOST = 1e12
"""Evidence is counted up to this, so that numbers stay finite."""


def evidence(wrong: Sequence[bool], max_error: float | Sequence[float]) -> np.ndarray:
    """Return the e-process after each row: the evidence that the error is, or has become, larger than `max_error`,
    one for all rows or one a row.

    Each bet multiplies by the ratio of the row's likelihoods under a larger error and under max_error.
    """
    highest = np.broadcast_to(np.asarray(max_error, float), len(wrong))
    errors, highest = np.geomspace(highest, 1.0, _ERRORS + 2)[1:-1].T, highest[:, None]
    gains = np.where(np.array(wrong, bool)[:, None], errors / highest, (1 - errors) / (1 - highest))
    running, values = np.zeros(_ERRORS), np.zeros(len(gains))
    for j, gain in enumerate(gains, 1):
        running = np.minimum((running + 1 / (j * (j + 1))) * gain, _MOST)
        values[j - 1] = running.mean() + 1 / (j + 1)  # the last is the weight of the bets that have not begun
    return values


def watched_rows(
    rows: Iterable[LoggedRow], champion: int, sample_share: float, fields: Sequence[str] = ()
) -> list[LoggedRow]:
    """Return the rows that count, in the order of their decisions. fields: those that are promised, if they are."""
    chosen = [
        row
        for row in rows
        if version_of(str(row["model_version"])) == str(champion)
        and (_field_counts(row, fields) if fields else row.get("passed_on") is False)
        and row["reviewed"]
        and row["correction"]
        and in_watched_sample(str(row["id"]), sample_share)
    ]
    return sorted(chosen, key=lambda row: (str(row.get("decided") or row["timestamp"]), str(row["id"])))


def _field_counts(row: LoggedRow, fields: Sequence[str]) -> bool:
    """Whether the drawn field of a row was answered by the model and not passed on."""
    return of_fields(row) and drawn_field(str(row["id"]), fields) not in row["fields_passed_on"]


def _is_right(row: LoggedRow, fields: Sequence[str], output: AnyOutput) -> bool:
    """Whether the answer of a decided row is right, or its drawn field."""
    if not fields:
        return same_answer(str(row["correction"]), str(row["output"]), output)
    judged = {"example_id": row["id"], "gold": row["correction"], "text": row["output"], "status": "ok"}
    return field_is_right(scored_row(judged, output), drawn_field(str(row["id"]), fields))


def promise_kept(
    rows: Sequence[LoggedRow], champion: int, promise: AutomationPromise | None, spec: TaskSpec
) -> CheckResult | None:
    """Check that the champion's promise is not surely broken. None without a promise.

    Returns:
        The result, with the rows decided and wrong among them, the evidence, its limit, and the share passed on.
    """
    if promise is None:
        return None
    own = [row for row in rows if version_of(str(row["model_version"])) == str(champion) and "passed_on" in row]
    watched = watched_rows(rows, champion, spec.logs.sample_share, promise.fields)
    wrong = [not _is_right(row, promise.fields, spec.output) for row in watched]
    limit, values = 1 / spec.drift.false_alarms, evidence(wrong, promise.max_error)
    crossed = np.flatnonzero(values >= limit)
    passed_on = sum(bool(row["passed_on"]) for row in own) / len(own) if own else None
    figures: dict[str, Any] = {
        "decided": len(watched),
        "wrong": sum(wrong),
        "max_error": promise.max_error,
        "evidence": float(values.max()) if len(values) else 1.0,
        "limit": limit,
        "passed_on": passed_on,
    }
    share = f"; {percent(passed_on)} of {counted(len(own), 'row')} were passed on" if own else ""
    decided = counted(len(watched), f"drawn and decided {'field' if promise.fields else 'answer'}")
    said = f"{sum(wrong)} of {decided} of version {champion} that needed no person were wrong"
    promised = f"at most {percent(promise.max_error)} were promised"
    if not len(crossed):
        return CheckResult(True, f"{said}, {promised}: not surely broken{share}", figures)
    row = watched[int(crossed[0])]
    figures["since"] = str(row.get("decided") or row["timestamp"])
    return CheckResult(
        False,
        f"{said}, {promised}: surely broken since {figures['since'][:10]} (evidence {figures['evidence']:,.0f} to 1, "
        f"{limit:,.0f} needed){share}",
        figures,
    )
