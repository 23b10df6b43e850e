"""Decides which of the evaluated models is shipped."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.result import EvaluationResult, Winner
from finetune_pipeline.evaluation.result_parts import GateResult

CANDIDATE = "candidate"


def winner_of(evaluation: EvaluationResult, gates: Sequence[GateResult]) -> Winner:
    """Return the model to ship: the fine-tuned one if it passes every gate, else none. gates: of the fine-tuned model."""
    failed = [gate.name for gate in gates if not gate.passed]
    if failed or not gates:
        return Winner(why=f"The fine-tuned model does not pass {', '.join(failed) or 'any gate'}.")
    kind = "classifier" if evaluation.task.method == "classifier" else "tuned"
    return Winner(kind=kind, name=CANDIDATE, title="the fine-tuned model", why="It passes every gate.")
