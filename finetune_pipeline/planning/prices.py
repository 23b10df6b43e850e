"""What a training run would cost, by where it happens: a dated list that people edit, and arithmetic."""

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
    """One line of the list. unit ``million_tokens`` (of training), or ``hour`` with the assumed `tokens_per_second`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field(min_length=1)
    model: str = Field(min_length=1)
    unit: Literal["million_tokens", "hour"]
    price: float = Field(ge=0, allow_inf_nan=False)
    tokens_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    date: datetime.date
    until: datetime.date | None = None
    note: str = Field(min_length=1)

    @model_validator(mode="after")
    def _speed_belongs_to_hours(self) -> Price:
        if (self.unit == "hour") != (self.tokens_per_second is not None):
            raise ValueError("tokens_per_second goes with unit: hour, and only with it")
        return self


def load_prices(path: Path | None = None) -> list[Price]:
    """The list in a file (the shipped one by default), in its order.

    Raises FindingsError with all problems: entry, field, what is wrong.
    """
    path = path or SHIPPED
    try:
        rows = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FindingsError([_problem(path, "", str(error))]) from error
    if not isinstance(rows, list):
        raise FindingsError([_problem(path, "", "it must be a list of prices")])
    prices: list[Price] = []
    found: list[Finding] = []
    for number, row in enumerate(rows, 1):
        try:
            prices.append(Price.model_validate(row))
        except ValidationError as error:
            for problem in error.errors():
                where = ".".join(map(str, problem["loc"]))
                found.append(_problem(path, f": price {number}{f', {where}' if where else ''}", problem["msg"]))
    if found:
        raise FindingsError(found)
    return prices


def _problem(path: Path, where: str, message: str) -> Finding:
    return Finding(
        "plan.prices", "error", f"{path.name}{where}", message, "see the comments at the head of the shipped list"
    )


def estimate_prices(training_tokens: float, prices: Sequence[Price]) -> list[dict[str, Any]]:
    """Dollars (and hours, of rented machines) for so many tokens of training, cheapest first.

    training_tokens: tokens of the rows, times the epochs. Estimates: dates and notes say what they rest on.
    """
    told = []
    for p in prices:
        hours = training_tokens / p.tokens_per_second / 3600 if p.tokens_per_second else None
        dollars = p.price * (training_tokens / 1e6 if hours is None else hours)
        told.append(
            {
                "engine": p.engine,
                "model": p.model,
                "dollars": round(dollars, 4),
                "hours": None if hours is None else round(hours, 3),
                "price": p.price,
                "unit": p.unit,
                "tokens_per_second": p.tokens_per_second,
                "date": p.date.isoformat(),
                "until": p.until.isoformat() if p.until else None,
                "note": p.note,
            }
        )
    return sorted(told, key=lambda row: (row["dollars"], row["engine"], row["model"]))
