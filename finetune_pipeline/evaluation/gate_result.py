"""One gate's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from finetune_pipeline.evaluation.wording import is_number

GateStatus = Literal["passed", "failed", "warned", "not_asked"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer.

    Attributes:
        name: Of the gate.
        status: `warned`: it says no, and the spec has it hold nothing back. `not_asked`: the spec asks nothing of it, or
            there is nothing to ask, such as no champion to beat.
        measured: The number compared, or None where nothing could be measured.
        threshold: What it is compared with.
        message: What was measured, for people.
        what_to_do: Empty where nothing has to be done.
    """

    name: str
    status: GateStatus
    measured: float | None
    threshold: float | None
    message: str
    what_to_do: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate lets the candidate through."""
        return self.status != "failed"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as in gates.json."""
        return {**asdict(self), "passed": self.passed}

    @classmethod
    def from_dict(cls, gate: Mapping[str, Any]) -> GateResult:
        """The result that :meth:`to_dict` wrote."""
        return cls(**{key: value for key, value in gate.items() if key != "passed"})


def answer(
    name: str,
    status: GateStatus | bool,
    measured: Any,
    threshold: float | None,
    message: str,
    to_do: str,
) -> GateResult:
    """A result. True is `passed`, False `failed`; what is no number was not measured."""
    if isinstance(status, bool):
        status = "passed" if status else "failed"
    value = float(measured) if is_number(measured) else None
    return GateResult(name, status, value, threshold, message, to_do if status in ("failed", "warned") else "")
