"""One gate's answer, and how gates read what may not be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finetune_pipeline.evaluation.wording import is_number


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer. measured and threshold: the two numbers compared (null where nothing could be measured).
    warns: it passed only because the spec has this gate tell and not stop."""

    name: str
    passed: bool
    measured: float | None
    threshold: float | None
    message: str
    what_to_do: str
    warns: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def answer(
    name: str, passed: bool, measured: Any, threshold: float | None, message: str, to_do: str, warns: bool = False
) -> GateResult:
    """A result; what is no number was not measured, and a gate that passed without a warning has nothing to be done."""
    value = float(measured) if is_number(measured) else None
    return GateResult(name, passed or warns, value, threshold, message, "" if passed else to_do, warns and not passed)


def part(value: Any) -> Mapping[str, Any]:
    """A part of an evaluation, empty where it is missing or of another type."""
    return value if isinstance(value, Mapping) else {}
