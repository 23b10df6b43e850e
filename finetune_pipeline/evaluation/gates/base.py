"""Base class, result and registry of gates.

A gate is one module of this package with one function::

    from finetune_pipeline.evaluation.gates.base import Outcome, gate
    from finetune_pipeline.spec.model import TaskSpec

    @gate(
        order=160,
        needs="The candidate answers in at most 20 tokens on average.",
        default="20",
        what_to_do="Add shorter answers to the training rows.",
        reads=lambda evaluation: evaluation.cost and evaluation.cost.tokens["candidate"].answer,
    )
    def short_answers(spec: TaskSpec, tokens: float | None) -> Outcome:
        if tokens is None:
            return Outcome(False, None, 20.0, "The tokens of the answers were not counted.")
        return Outcome(tokens <= 20, tokens, 20.0, f"{tokens:g} tokens an answer; at most 20 are allowed.")

A threshold that task.yaml may set is a field of :class:`~finetune_pipeline.spec.evaluation.GatesSpec`. A gate that task.yaml does
not ask for says so by `unasked`; one that does not apply to what was evaluated returns the status `not_asked`. Both pass. A gate
is asked of the fine-tuned model; with ``trained_only=""`` also of the finalists, each of which stands in `evaluation` as
`candidate` then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import GateResult, GateStatus
from finetune_pipeline.evaluation.wording import is_number
from finetune_pipeline.spec.evaluation import GatesSpec
from finetune_pipeline.spec.model import TaskSpec

DEFAULTS = GatesSpec.model_validate({})
"""Default thresholds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The return value of a gate's function.

    Attributes:
        status: True is `passed`, False `failed`.
        measured: The number compared with the threshold; a non-number counts as not measured.
        to_do: What to do about a failure, if different from the gate's general advice.
    """

    status: GateStatus | bool
    measured: Any
    threshold: float | None
    message: str
    to_do: str | None = None


@dataclass(frozen=True, slots=True)
class LeastRows:
    """The test rows without which a gate refuses even a candidate without a mistake.

    Attributes:
        rows: None: no number of rows is enough.
        to_do: What to change in task.yaml instead of the test.
    """

    rows: int | None
    to_do: str


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that a candidate must meet.

    Attributes:
        order: Gates are judged and shown in ascending order.
        needs: The condition, for the reference page and the asset check.
        default: The default threshold.
        holds_back: What a failure stops.
        reads: The part of the evaluation that `judge` gets.
        unasked: Why the spec does not ask for it, as a sentence; empty: it does.
        trained_only: Why it is asked of trained models alone, as a sentence; empty: also of simple models and prompts, with `reads`
            applied to the evaluation of finalists.as_candidate.
        least_rows: The test rows that it needs whatever the candidate answers; None if it needs none. Needs of room above a
            rival follow from the rival (planning.gate_needs).
    """

    name: str
    order: int
    needs: str
    default: str
    holds_back: str
    what_to_do: str
    reads: Callable[[EvaluationResult], Any]
    judge: Callable[[TaskSpec, Any], Outcome]
    least_rows: Callable[[TaskSpec], LeastRows | None]
    unasked: Callable[[TaskSpec], str]
    trained_only: str

    def __call__(self, spec: TaskSpec, part: Any) -> GateResult:
        if why := self.unasked(spec):
            return self.not_asked(why)
        outcome = self.judge(spec, part)
        status = outcome.status
        if isinstance(status, bool):
            status = "passed" if status else "failed"
        measured = float(outcome.measured) if is_number(outcome.measured) else None
        to_do = (outcome.to_do or self.what_to_do) if status in ("failed", "warned") else ""
        return GateResult(
            name=self.name,
            status=status,
            measured=measured,
            threshold=outcome.threshold,
            message=outcome.message,
            what_to_do=to_do,
        )

    def of_finalist(self, spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
        """Judge a simple model or a prompt. evaluation: from finalists.as_candidate."""
        if not self.trained_only:
            return self(spec, self.reads(evaluation))
        return self.not_asked(self.trained_only)

    def not_asked(self, why: str) -> GateResult:
        return GateResult(name=self.name, status="not_asked", measured=None, threshold=None, message=why)


GATES: dict[str, Gate] = {}
"""Every gate by its name, in ascending order."""


def gate(
    *,
    order: int,
    needs: str,
    default: str,
    what_to_do: str,
    holds_back: str = "champion",
    reads: Callable[[EvaluationResult], Any] = lambda evaluation: evaluation,
    least_rows: Callable[[TaskSpec], LeastRows | None] = lambda spec: None,
    unasked: Callable[[TaskSpec], str] = lambda spec: "",
    trained_only: str = "It is asked of trained models alone.",
) -> Callable[[Callable[[TaskSpec, Any], Outcome]], Gate]:
    """Make a gate of a function and add it to the registry. The arguments are the attributes of :class:`Gate`."""

    def register(judge: Callable[[TaskSpec, Any], Outcome]) -> Gate:
        name = judge.__name__
        new_gate = Gate(
            name, order, needs, default, holds_back, what_to_do, reads, judge, least_rows, unasked, trained_only
        )
        GATES[new_gate.name] = new_gate
        ordered = sorted(GATES.values(), key=lambda known_gate: known_gate.order)
        GATES.clear()
        GATES.update({known_gate.name: known_gate for known_gate in ordered})
        return new_gate

    return register
