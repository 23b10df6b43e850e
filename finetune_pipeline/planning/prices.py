"""What a training would cost elsewhere, from a dated list of prices that people edit."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finetune_pipeline.findings import Finding, FindingsError

SHIPPED = Path(__file__).with_name("prices.yaml")


class Price(BaseModel):
    """One line of the list.

    Attributes:
        unit: ``million_tokens`` of training, or ``hour`` with the assumed `tokens_per_second` of a model of `parameters`.
        low, high: Between which the price lies, where it varies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field(min_length=1)
    model: str = Field(min_length=1)
    unit: Literal["million_tokens", "hour"]
    price: float = Field(ge=0, allow_inf_nan=False)
    low: float | None = Field(None, ge=0, allow_inf_nan=False)
    high: float | None = Field(None, ge=0, allow_inf_nan=False)
    tokens_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    parameters: float | None = Field(None, gt=0, allow_inf_nan=False)
    date: datetime.date
    until: datetime.date | None = None
    note: str = Field(min_length=1)

    @model_validator(mode="after")
    def _speed_belongs_to_hours(self) -> Price:
        if (self.unit == "hour") != (self.tokens_per_second is not None):
            raise ValueError("tokens_per_second goes with unit: hour, and only with it")
        low, high = self.between
        if not low <= self.price <= high:
            raise ValueError("low, price and high must be in this order")
        return self

    @property
    def between(self) -> tuple[float, float]:
        """The lowest and the highest price."""
        return self.price if self.low is None else self.low, self.price if self.high is None else self.high


def load_prices(path: Path | None = None, *, home: Path | None = None, task_folder: Path | None = None) -> list[Price]:
    """Read a price list: `path`, else task_folder/prices.yaml, else home/prices.yaml, else the shipped one.

    Raises:
        FindingsError: With every problem: entry, field, what is wrong.
    """
    own = [folder / SHIPPED.name for folder in (task_folder, home) if folder is not None]
    path = path or next((p for p in own if p.is_file()), SHIPPED)
    try:
        rows = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FindingsError([_problem(path, "", str(error))]) from error
    if not isinstance(rows, list):
        raise FindingsError([_problem(path, "", "it must be a list of prices")])
    prices: list[Price] = []
    findings: list[Finding] = []
    for number, row in enumerate(rows, 1):
        try:
            prices.append(Price.model_validate(row))
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(map(str, problem["loc"]))
                findings.append(_problem(path, f": price {number}{f', {where}' if where else ''}", problem["msg"]))
    if findings:
        raise FindingsError(findings)
    return prices


def _problem(path: Path, where: str, message: str) -> Finding:
    return Finding(
        "plan.prices", "error", f"{path.name}{where}", message, "see the comments at the head of the shipped list"
    )


_FASTER, _SLOWER = 2.5**-0.5, 2.5
"""Range of the hours of a rented machine, as factors of what its assumed speed says."""


def estimate_prices(
    training_tokens: float, prices: Sequence[Price], parameters: float | None = None
) -> list[dict[str, Any]]:
    """Dollars (and hours of rented machines) for a training, cheapest first, each with an interval.

    Args:
        training_tokens: Tokens of the rows, times the epochs.
        parameters: Of the model to be trained; assumed speeds are scaled to it where the list says for which size they are.
    """
    rows = []
    for p in prices:
        hours = None
        amount, between = training_tokens / 1e6, (training_tokens / 1e6, training_tokens / 1e6)
        if p.tokens_per_second:
            scale = parameters / p.parameters if parameters and p.parameters else 1.0
            amount = hours = training_tokens * scale / p.tokens_per_second / 3600
            between = (hours * _FASTER, hours * _SLOWER)
        rows.append(
            {
                "engine": p.engine,
                "model": p.model,
                "dollars": round(p.price * amount, 4),
                "dollars_between": [round(x * y, 4) for x, y in zip(p.between, between, strict=True)],
                "hours": None if hours is None else round(hours, 3),
                "hours_between": None if hours is None else [round(x, 3) for x in between],
                "price": p.price,
                "unit": p.unit,
                "tokens_per_second": p.tokens_per_second,
                "date": p.date.isoformat(),
                "until": p.until.isoformat() if p.until else None,
                "note": p.note,
            }
        )
    return sorted(rows, key=lambda row: (row["dollars"], row["engine"], row["model"]))
