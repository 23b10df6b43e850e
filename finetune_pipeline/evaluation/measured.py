"""Types of measured values: numbers and intervals that are finite or None, and the two kinds of parts of a result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from finetune_pipeline.evaluation.wording import is_interval, is_number


def plain_json(value: Any) -> Any:
    """Convert a value to strict JSON types: tuples become lists, numpy scalars numbers, NaN and infinities null."""
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain_json(item) for item in value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def finite(value: Any) -> float | None:
    """Return a finite number as it is, and None for anything else."""
    value = value.item() if hasattr(value, "item") else value
    return value if is_number(value) else None


Number = Annotated[int | float | None, BeforeValidator(finite)]
"""A finite number; anything else reads as None."""
Count = Annotated[int | None, BeforeValidator(lambda value: value if type(value) is int else None)]
"""A whole number; anything else reads as None."""
Flag = Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)]
"""True or False; anything else reads as None."""
Interval = Annotated[
    tuple[float, float] | None, BeforeValidator(lambda value: tuple(value) if is_interval(value) else None)
]
"""Lower and upper bound, both finite; anything else reads as None."""


class Part(BaseModel):
    """A part of a result that the evaluation itself makes."""

    model_config = ConfigDict(frozen=True, protected_namespaces=(), populate_by_name=True)


class Facts(Part):
    """A part that reads what another step wrote: further keys are kept, and missing ones are None."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        return plain_json(value) if isinstance(value, Mapping) else value
