"""Decides which of the evaluated models is shipped."""

from collections.abc import Sequence
from typing import Literal

from finetune_pipeline.evaluation.decisions import Finalist, Winner, WinnerKind
from finetune_pipeline.evaluation.finalists import TUNED_TITLE
from finetune_pipeline.evaluation.predictions import CANDIDATE, row_name
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import GateResult
from finetune_pipeline.evaluation.wording import capital, in_words

TRAINED = ("tuned", "classifier")
"""Kinds of winners that were trained by the run."""
Decision = Literal["promote", "ship_simple", "ship_prompt", "refuse", "known"]
"""What is decided: a trained model, a simple model or a prompt becomes `champion`; nothing does; or nothing is decided, since the
model was promoted earlier."""
SOUND: tuple[Decision, ...] = ("promote", "ship_simple", "ship_prompt", "known")
"""Decisions that refuse nothing: exit code 0."""
_DECISIONS: dict[WinnerKind | None, Decision] = {
    "tuned": "promote",
    "classifier": "promote",
    "simple": "ship_simple",
    "prompt": "ship_prompt",
    None: "refuse",
}


def winner_of(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Winner:
    """Return the model to ship: the fine-tuned one if it passes every gate; else the simplest finalist that no other model surely
    beats and that passes its own gates; else none.

    Of a model that was promoted earlier, this says what it would be by the present settings.

    Args:
        evaluation: Its finalists were judged (gates.decide_finalists).
        gates: Of the fine-tuned model.
    """
    refused = _refused(gates)
    if gates and not refused and not evaluation.untrained:
        kind = "classifier" if evaluation.task.method == "classifier" else "tuned"
        return Winner(kind=kind, name=CANDIDATE, title=TUNED_TITLE, why=f"{capital(TUNED_TITLE)} passes every gate.")
    reasons = [f"{TUNED_TITLE} does not pass {in_words(refused) or 'any gate'}"]
    if evaluation.untrained:
        reasons = ["nothing was trained"]
    for finalist in evaluation.finalists:
        if not (reason := not_shipped(finalist)):
            why = f"{capital('; '.join(reasons))}. Nothing is surely better than {finalist.title}, which passes its gates."
            return Winner(kind=finalist.kind, name=finalist.name, mode=finalist.mode, title=finalist.title, why=why)
        reasons.append(reason)
    return Winner(why=f"{capital('; '.join(reasons))}.")


def decision_on(evaluation: EvaluationResult, winner: Winner) -> Decision:
    """What is decided about an evaluation with this winner."""
    if evaluation.promoted:
        return "known"
    return _DECISIONS[winner.kind]


def would_ship_again(evaluation: EvaluationResult, winner: Winner) -> bool:
    """Whether the model of a run, promoted earlier, would be shipped by the present settings."""
    return winner.kind in TRAINED or bool(evaluation.untrained and winner.kind)


def row_of(winner: Winner) -> str:
    """The row of EvaluationResult.models with the winner's scores on the sealed test; without a winner, the candidate's."""
    return row_name(winner.kind, winner.name, winner.mode)


def finalist_of(winner: Winner, evaluation: EvaluationResult) -> Finalist | None:
    """The finalist that won; None if the fine-tuned model did, or nothing."""
    finalists = (f for f in evaluation.finalists if (f.kind, f.name) == (winner.kind, winner.name))
    return next(finalists, None)


def gates_of(winner: Winner, evaluation: EvaluationResult, gates: Sequence[GateResult]) -> list[GateResult]:
    """The gates that judged the winner; without one, those of the fine-tuned model (`gates`), or of the simplest finalist where
    nothing was trained."""
    finalist = finalist_of(winner, evaluation)
    if finalist is None and evaluation.untrained:
        finalist = evaluation.finalists[0]
    return finalist.gates if finalist else list(gates)


def not_shipped(finalist: Finalist) -> str:
    """Why a finalist is not shipped; empty if it may be."""
    if finalist.beaten_by:
        return f"{finalist.title} is surely worse than {in_words(finalist.beaten_by)}"
    refused = _refused(finalist.gates)
    if refused or not finalist.gates:
        return f"{finalist.title} does not pass {in_words(refused) or 'any gate'}"
    return ""


def _refused(gates: Sequence[GateResult]) -> list[str]:
    return [gate.name for gate in gates if not gate.passed]
