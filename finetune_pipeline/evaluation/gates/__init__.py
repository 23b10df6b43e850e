"""The gates a candidate must pass to become `champion`. A gate without its measurement fails.

Every module of this package that decorates a function with :func:`~.base.gate` is part of the registry, and so is every
installed package's with an entry point of the group ``finetune_pipeline.gates``.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

from finetune_pipeline.evaluation.gates.base import GATES, Gate, LeastRows, Outcome, gate
from finetune_pipeline.evaluation.result import DefaultGate, EvaluationResult
from finetune_pipeline.evaluation.result_parts import GateResult, GateStatus
from finetune_pipeline.plugins import load_plugins
from finetune_pipeline.spec.looseness import with_defaults
from finetune_pipeline.spec.model import TaskSpec

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
load_plugins("gates", GATES)

__all__ = [
    "GATES",
    "Decision",
    "Gate",
    "GateResult",
    "GateStatus",
    "LeastRows",
    "Outcome",
    "decide",
    "gate",
    "held_back_by_defaults",
    "verdict",
]
Decision = Literal["promote", "use_simple", "refuse"]
"""The decision of all gates: promote to `champion`; use a simple model instead; or keep `champion`."""


def decide(spec: TaskSpec, evaluation: EvaluationResult) -> list[GateResult]:
    """Judge an evaluation by every gate, always in the same order."""
    return [gate(spec, gate.reads(evaluation)) for gate in GATES.values()]


def held_back_by_defaults(
    spec: TaskSpec, gates: Sequence[GateResult], evaluate: Callable[[TaskSpec], EvaluationResult]
) -> list[DefaultGate]:
    """Judge again by the default of every threshold that is looser. Returns the gates that passed and then do not.

    evaluate: Evaluates the candidate by another spec. What it did not measure is no reason.
    """
    strict, passed = with_defaults(spec), {gate.name for gate in gates if gate.status == "passed"}
    strict_gates = decide(strict, evaluate(strict))
    return [
        DefaultGate(name=gate.name, message=gate.message)
        for gate in strict_gates
        if gate.name in passed and gate.status in ("failed", "warned") and gate.measured is not None
    ]


def verdict(gates: Sequence[GateResult]) -> Decision:
    """`promote` if all gates pass (and there are any); `use_simple` if only beats_simple fails."""
    failed = [gate.name for gate in gates if not gate.passed]
    if gates and not failed:
        return "promote"
    return "use_simple" if failed == ["beats_simple"] else "refuse"
