"""The documents of an evaluation_report artifact. An earlier release may have written those that are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.evaluation.costs import Cost
from finetune_pipeline.evaluation.decisions import Comparison, TeacherRival, Winner
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult, GateStatus
from finetune_pipeline.evaluation.promises import released
from finetune_pipeline.evaluation.result import EvaluationResult, History, Production, Seal
from finetune_pipeline.evaluation.result_parts import ModelRow, Part, Robustness
from finetune_pipeline.evaluation.winner import decision_on, winner_of, would_ship_again
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.manifest import EvaluationRecord
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

    @property
    def text(self) -> str:
        return " ".join(filter(None, [self.headline, self.answer, self.sentence, *self.caveats]))


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


class Evaluated(Facts, frozen=True, kw_only=True):
    """Facts of evaluation_report.

    Attributes:
        decision, passed, verdict: See StatedVerdict; the verdict is its text.
        winner_gates: Status of the gates of what is shipped, or else of the fine-tuned model, by name.
        gates: Of the fine-tuned model.
        models: Also has what is shipped, by winner.row_of.
        probabilities: What a release keeps of a model's, by row of `models`; only of those that have some.
        loosened: Thresholds looser than their defaults, in words; empty without any.
        seal: Without its openings.
    """

    decision: str
    passed: bool
    verdict: str
    winner: Winner
    winner_gates: dict[str, GateStatus]
    gates: list[GateResult]
    probabilities: dict[str, ReleasedProbability]
    loosened: str
    models: dict[str, ModelRow]
    comparison: Comparison
    history: History
    robustness: Robustness | None
    production: Production | None
    seal: Seal
    cost: Cost | None
    teacher: TeacherRival | None = None

    @classmethod
    def from_report(cls, report: Report, winner_gates: Sequence[GateResult]) -> Evaluated:
        return cls(
            decision=report.verdict.decision,
            passed=report.verdict.passed,
            verdict=report.verdict.text,
            winner=report.winner,
            winner_gates={gate.name: gate.status for gate in winner_gates},
            gates=report.gates,
            probabilities={
                name: kept
                for name, measured in report.probabilities.items()
                if (kept := released(measured)) is not None
            },
            loosened="; ".join(report.loosened.thresholds),
            models=report.models,
            comparison=report.comparison,
            history=report.history,
            robustness=report.robustness,
            production=report.production,
            seal=report.seal.model_copy(update={"openings": []}),
            cost=report.cost,
            teacher=report.teacher,
        )

    def record(self, version: str) -> EvaluationRecord:
        """Return what an exported model says of this evaluation of it. version: of the evaluation_report."""
        shown = {name: model.to_json() for name, model in self.models.items()}
        scores = {name: {k: v for k, v in row.items() if k != "title"} for name, row in shown.items()}
        return EvaluationRecord(
            version=version,
            passed=self.passed and self.decision in ("promote", "known"),
            verdict=self.verdict,
            gates={gate.name: gate.status for gate in self.gates},
            scores=scores["candidate"],
            baseline=scores.get("base", {}),
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
