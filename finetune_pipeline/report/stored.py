"""The documents of an evaluation_report artifact. An earlier release may have written those that are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Part
from finetune_pipeline.evaluation.winner import decision_on, winner_of, would_ship_again
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.verdict import caveats, headline, verdict_sentences

REPORT, SHOWN_ROWS = "report.json", "rows.json"
KNOWN = "The model of this run was promoted earlier: nothing is decided about it."
SCHEMA_VERSION = 6
"""Version of report.json. It increases when a key is removed or changes its meaning; new keys may be added at any time."""


class StatedVerdict(Part):
    """The verdict.

    Attributes:
        decision: promote, ship_simple, ship_prompt, refuse, or known (promoted earlier).
        passed: Whether a model is shipped; of one promoted earlier, whether it would be again.
        headline: What is shipped, and how many of a hundred of its answers are wrong.
    """

    decision: str
    passed: bool
    headline: str
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
        winner = winner_of(evaluation, gates)
        decision = decision_on(evaluation, winner)
        return cls(
            **{**dict(evaluation), "winner": Winner(why=KNOWN) if decision == "known" else winner},
            schema_version=SCHEMA_VERSION,
            verdict=StatedVerdict(
                decision=decision,
                passed=would_ship_again(evaluation, winner) if decision == "known" else winner.kind is not None,
                headline=headline(evaluation, winner),
                answer=answer,
                sentence=sentence,
                caveats=caveats(evaluation, gates),
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
