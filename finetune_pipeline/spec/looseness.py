"""Which thresholds of a spec ask less of a candidate than their defaults.

Every threshold of a gate states once, in its annotation, in which direction it becomes looser::

    min_valid_share: Annotated[Share, LOWER] = Field(0.95, ...)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Looser:
    """Which values of a threshold are looser than its default.

    Attributes:
        sign: 1: greater ones; -1: smaller ones; 0: none, since the key is no threshold, or its default asks for nothing.
        order: For words instead of numbers: the values, strictest first.
    """

    sign: int = 0
    order: tuple[str, ...] = ()

    def than(self, default: Any, value: Any) -> bool:
        """Whether `value` asks for less than `default`."""
        if self.order:
            return self.order.index(value) > self.order.index(default)
        return self.sign != 0 and self.sign * (value - default) > 0


LOWER, HIGHER, NEITHER = Looser(-1), Looser(1), Looser()
BLOCK_THEN_WARN, BETTER_THEN_NOT_WORSE = Looser(order=("block", "warn")), Looser(order=("better", "not_worse"))


@dataclass(frozen=True)
class LooseThreshold:
    """A threshold looser than its default, by its key in task.yaml."""

    key: str
    value: Any
    default: Any

    def __str__(self) -> str:
        value, default = (f"{v:g}" if isinstance(v, int | float) else str(v) for v in (self.value, self.default))
        return f"{self.key} {value} (default {default})"


def direction(field: FieldInfo) -> Looser | None:
    """Return the direction that a field states; None if it states none."""
    return next((mark for mark in field.metadata if isinstance(mark, Looser)), None)


def loose_thresholds(model: BaseModel, prefix: str = "") -> Iterator[LooseThreshold]:
    """Find every threshold of a spec, and of its sections, that is looser than its default."""
    for name, field in type(model).model_fields.items():
        value, looser = getattr(model, name), direction(field)
        if isinstance(value, BaseModel):
            yield from loose_thresholds(value, f"{prefix}{name}.")
        elif looser is not None and looser.than(field.default, value):
            yield LooseThreshold(prefix + name, value, field.default)


def with_defaults(model: Model) -> Model:
    """Return the spec with the default of every threshold that is looser."""
    sections = {name: with_defaults(value) for name, value in model if isinstance(value, BaseModel)}
    own = {loose.key: loose.default for loose in loose_thresholds(model) if "." not in loose.key}
    return model.model_copy(update={**sections, **own})
