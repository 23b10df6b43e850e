"""The documents of an evaluation_report artifact. An earlier release may have written those that are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Part
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.report.verdict import caveats, decision_on, next_steps, verdict_sentences

REPORT, SHOWN_ROWS = "report.json", "rows.json"
SCHEMA_VERSION = 5
"""Version of report.json. It increases when a key is removed or changes its meaning; new keys may be added at any time."""


class StatedVerdict(Part):
    """The verdict. decision: promote, use_simple, refuse, or known (promoted earlier)."""

    decision: str
    passed: bool
    answer: str
    sentence: str
    caveats: list[str]


class Report(EvaluationResult):
    """report.json: an evaluation, its gates, and what follows from them; docs/report.md lists the keys."""

    schema_version: int
    verdict: StatedVerdict
    gates: list[GateResult]
    next_steps: list[str]

    @classmethod
    def of(cls, evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Report:
        answer, sentence = verdict_sentences(evaluation, gates)
        return cls(
            **dict(evaluation),
            schema_version=SCHEMA_VERSION,
            verdict=StatedVerdict(
                decision=decision_on(evaluation, gates),
                passed=verdict(gates) == "promote",
                answer=answer,
                sentence=sentence,
                caveats=caveats(evaluation),
            ),
            gates=list(gates),
            next_steps=next_steps(evaluation, gates),
        )


def read_report(report: Artifact) -> Report:
    """The evaluation with its gates. Raises OutsideError if another release wrote it with other fields."""
    with _of_this_release(report):
        return Report.model_validate_json(report.path(REPORT).read_bytes())


def read_shown_rows(report: Artifact) -> ShownRows:
    """The texts the report shows. Raises OutsideError if another release wrote them with other fields, or not at all."""
    with _of_this_release(report):
        return ShownRows.model_validate_json(report.path(SHOWN_ROWS).read_bytes())


@contextlib.contextmanager
def _of_this_release(report: Artifact) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ValidationError) as error:
        raise OutsideError(
            f"{report.folder} was written by another release of finetune_pipeline, and this one cannot read it\n"
            f"fix: `finetune run {report.task}` evaluates again; report.html in that folder still shows the old page"
        ) from error
