"""The gates a candidate must pass to become `champion`. A gate without its measurement fails.

Every module of this package that decorates a function with :func:`~.base.gate` is part of the registry, and so is every
installed package's with an entry point of the group ``finetune_pipeline.gates``.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.evaluation.decisions import DefaultGate
from finetune_pipeline.evaluation.finalists import as_candidate
from finetune_pipeline.evaluation.gates.base import GATES, Gate, LeastRows, Outcome, gate
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import GateResult, GateStatus
from finetune_pipeline.plugins import load_plugins
from finetune_pipeline.spec.looseness import with_defaults
from finetune_pipeline.spec.model import TaskSpec

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
load_plugins("gates", GATES)

__all__ = [
    "GATES",
    "Gate",
    "GateResult",
    "GateStatus",
    "LeastRows",
    "Outcome",
    "decide",
    "decide_finalists",
    "gate",
    "held_back_by_defaults",
]


def decide(spec: TaskSpec, evaluation: EvaluationResult) -> list[GateResult]:
    """Judge the fine-tuned model by every gate, always in the same order. Where nothing was trained, none is asked of it."""
    if evaluation.untrained:
        return [gate.not_asked("Nothing was trained.") for gate in GATES.values()]
    return [gate(spec, gate.reads(evaluation)) for gate in GATES.values()]


def decide_finalists(spec: TaskSpec, evaluation: EvaluationResult) -> EvaluationResult:
    """Judge every finalist by the gates that are asked of it. Returns the evaluation with their results."""
    finalists = []
    for finalist in evaluation.finalists:
        judged = as_candidate(evaluation, finalist)
        gates = [gate.of_finalist(spec, judged) for gate in GATES.values()]
        finalists.append(finalist.model_copy(update={"gates": gates}))
    return evaluation.model_copy(update={"finalists": finalists})


def held_back_by_defaults(
    spec: TaskSpec, gates: Sequence[GateResult], judge: Callable[[TaskSpec], Sequence[GateResult]]
) -> list[DefaultGate]:
    """Judge again by the default of every threshold that is looser. Returns the gates that passed and then do not.

    judge: Judges the same model by another spec. What it did not measure is no reason.
    """
    passed = {gate.name for gate in gates if gate.status == "passed"}
    return [
        DefaultGate(name=gate.name, message=gate.message)
        for gate in judge(with_defaults(spec))
        if gate.name in passed and gate.status in ("failed", "warned") and gate.measured is not None
    ]
