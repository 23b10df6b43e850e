"""Reads the dated, editable price list, and computes the cost of a training from it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.planning.tokens import whole_epochs
from finetune_pipeline.spec.loading import load_yaml
from finetune_pipeline.spec.training import TrainingSettings

SHIPPED = Path(__file__).with_name("prices.yaml")
STALE_DAYS = 180
"""Age in days after which a price must be confirmed."""
Range = tuple[float, float]
"""(lowest, highest)."""
_FEWEST_HOURS, _MOST_HOURS = 0.63, 2.5
"""Bounds for the hours of a rented machine, as factors on the hours at its assumed speed."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Line(BaseModel):
    """One line of the list. until: last day of the offer, if known; note: source of the figures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field(min_length=1)
    model: str = Field(min_length=1)
    date: datetime.date
    until: datetime.date | None = None
    note: str = Field(min_length=1)

    @property
    def name(self) -> str:
        return f"{self.engine}, {self.model}"

    def warnings(self, today: datetime.date) -> list[str]:
        """Return warnings about the price: its age, or the end of the offer."""
        warnings = []
        if self.until and self.until < today:
            warnings.append(f"no longer offered since {self.until}")
        elif self.until:
            warnings.append(f"offered until {self.until} only")
        if (age := (today - self.date).days) > STALE_DAYS:
            warnings.append(f"{age} days old: confirm it")
        return warnings


class Price(Line):
    """The price of training at a service or on a rented machine.

    Attributes:
        unit: ``million_tokens`` of training, or ``hour`` with the assumed `tokens_per_second` for a model with `parameters`.
        low, high: Range of the price, if it varies.
        answered_per_second: Output tokens per second when serving, from answered_low to answered_high.
        measured: Whether the user measured the speeds.
    """

    unit: Literal["million_tokens", "hour"]
    price: Amount
    low: Amount | None = None
    high: Amount | None = None
    tokens_per_second: Speed | None = None
    parameters: Speed | None = None
    answered_per_second: Speed | None = None
    answered_low: Speed | None = None
    answered_high: Speed | None = None
    measured: bool = False

    @model_validator(mode="after")
    def _check_fields(self) -> Price:
        if (self.unit == "hour") != (self.tokens_per_second is not None):
            raise ValueError("tokens_per_second is required with unit: hour, and allowed only there")
        low, high = self.between
        if not low <= self.price <= high:
            raise ValueError("low <= price <= high must hold")
        speeds = (self.answered_low, self.answered_per_second, self.answered_high)
        if self.unit != "hour" and any(speeds):
            raise ValueError("answered_per_second is allowed only with unit: hour")
        known_speeds = [speed for speed in speeds if speed]
        if known_speeds and (self.answered_per_second is None or known_speeds != sorted(known_speeds)):
            raise ValueError("answered_low <= answered_per_second <= answered_high must hold")
        return self

    @property
    def between(self) -> tuple[float, float]:
        """The lowest and the highest price."""
        lowest = self.price if self.low is None else self.low
        highest = self.price if self.high is None else self.high
        return lowest, highest

    def for_model(self, parameters: float) -> Price:
        """Return the line with its speeds scaled to a model of that size; unchanged if it does not say whose speeds they are."""
        if not (parameters and self.parameters):
            return self
        names = ("tokens_per_second", "answered_low", "answered_per_second", "answered_high")
        scale = self.parameters / parameters
        scaled = {name: speed * scale for name in names if (speed := getattr(self, name)) is not None}
        return self.model_copy(update={**scaled, "parameters": parameters})

    def of_training(self, tokens: float, parameters: float | None) -> tuple[Range, Range | None]:
        """Return (dollars, hours of a rented machine) of a training. tokens: of all epochs. The assumed speed is scaled to the
        model's `parameters` if the price list names the model size of that speed."""
        low, high = self.between
        if not self.tokens_per_second:
            return (low * tokens / 1e6, high * tokens / 1e6), None
        scale = parameters / self.parameters if parameters and self.parameters else 1.0
        hours = tokens * scale / self.tokens_per_second / 3600
        fewest, most = hours * _FEWEST_HOURS, hours * _MOST_HOURS
        return (low * fewest, high * most), (fewest, most)

    def of_job(self, epoch_tokens: int, training: TrainingSettings) -> tuple[int, Range]:
        """Return (billed tokens, dollars) of a job at a service."""
        tokens = epoch_tokens * whole_epochs(training)
        return tokens, self.of_training(tokens, None)[0]


class ApiPrice(Line):
    """Dollars per million tokens of calls to a model behind an API: input (uncached) and output; tuned: of fine-tuned models."""

    unit: Literal["million_served"]
    input: Amount
    output: Amount
    tuned: bool = False


_LINES = TypeAdapter(list[Annotated[Price | ApiPrice, Field(discriminator="unit")]])


@dataclass(frozen=True)
class PriceList:
    """The prices of a file: of training (including machines by the hour), and of calls to APIs."""

    path: Path
    training: list[Price]
    apis: list[ApiPrice]

    @property
    def machines(self) -> list[Price]:
        """Return the machines with a known serving speed, those that the user measured first."""
        return sorted((p for p in self.training if p.answered_per_second), key=lambda price: not price.measured)

    def for_model(self, parameters: float) -> PriceList:
        """Return the list with every machine's speeds scaled to a model of that size."""
        return replace(self, training=[price.for_model(parameters) for price in self.training])

    def served(self) -> list[dict[str, object]]:
        """Return the lines about serving as plain JSON; :meth:`of_served` reads them."""
        return [price.model_dump(mode="json", exclude_none=True) for price in (*self.apis, *self.machines)]

    @classmethod
    def of_served(cls, rows: Sequence[dict[str, object]], path: Path = SHIPPED) -> PriceList:
        """Restore the list that :meth:`served` wrote, or make it of all rows of a file. Raises pydantic's ValidationError."""
        lines = _LINES.validate_python(rows)
        return cls(path, [p for p in lines if isinstance(p, Price)], [p for p in lines if isinstance(p, ApiPrice)])


AnyPrice = TypeVar("AnyPrice", Price, ApiPrice)


def newest_price(prices: Iterable[AnyPrice], model: str) -> AnyPrice | None:
    """Return the price of a model; its name may end with a date that the list omits (`gpt-4o-mini-2024-07-18`)."""
    undated_model = re.sub(r"-\d{4}-\d\d-\d\d$", "", model)
    fitting = [price for price in prices if price.model.removesuffix(", fine-tuned") in (model, undated_model)]
    return max(fitting, key=lambda price: (len(price.model), price.date), default=None)


def load_prices(*, home: Path | None = None, task_folder: Path | None = None) -> PriceList:
    """Read a price list: task_folder/prices.yaml, else home/prices.yaml, else the shipped one. Raises FindingsError with
    every problem, its entry and field."""
    candidates = [folder / SHIPPED.name for folder in (task_folder, home) if folder is not None]
    path = next((p for p in candidates if p.is_file()), SHIPPED)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FindingsError([_problem(path, str(error))]) from error
    rows = load_yaml(text, str(path), "plan.prices")
    if not isinstance(rows, list):
        raise FindingsError([_problem(path, "it must be a list of prices")])
    try:
        return PriceList.of_served(rows, path)
    except ValidationError as error:
        problems = [
            ("Field required", (*p["loc"], "", "unit")) if p["type"] == "union_tag_not_found" else (p["msg"], p["loc"])
            for p in error.errors()
        ]
        raise FindingsError(_problem(path, message, *place) for message, place in problems) from error


def _problem(path: Path, message: str, *place: int | str) -> Finding:
    """Return the finding for an invalid line. place: its index, its unit, and the field, as pydantic gives them."""
    number = f": price {int(place[0]) + 1}" if place else ""
    field = ", " + ".".join(map(str, place[2:])) if place[2:] else ""
    fix = "see the comments at the top of the shipped list"
    return Finding("plan.prices", "error", f"{path}{number}{field}", message, fix)
