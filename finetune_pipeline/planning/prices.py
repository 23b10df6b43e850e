"""What a training run would cost, by where it happens: a dated list that people edit, and arithmetic."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finetune_pipeline.findings import Finding, FindingsError

SHIPPED = Path(__file__).with_name("prices.yaml")
HERE = "this machine"
"""The engine whose hours are those of the plan."""


class Price(BaseModel):
    """One line of the list. unit ``million_tokens`` (of training), or ``hour`` with the assumed `tokens_per_second` of a
    model of `parameters`. low, high: between which the price lies, where it varies."""

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
        if (
            not (self.low if self.low is not None else self.price)
            <= self.price
            <= (self.high if self.high is not None else self.price)
        ):
            raise ValueError("low, price and high must be in this order")
        return self


def load_prices(path: Path | None = None, *, home: Path | None = None, task_folder: Path | None = None) -> list[Price]:
    """The list in a file, in its order: in `path`, else in task_folder/prices.yaml, else in home/prices.yaml, else the
    shipped one.

    Raises FindingsError with all problems: entry, field, what is wrong.
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


_SLOWER = 2.5
"""How much longer a rented machine may take than its assumed speed says, and how much shorter (its inverse's root)."""


def estimate_prices(
    training_tokens: float,
    prices: Sequence[Price],
    parameters: float | None = None,
    seconds: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Dollars (and hours, of rented machines) for so many tokens of training, cheapest first, each with an interval.

    training_tokens: tokens of the rows, times the epochs. parameters: of the model to be trained; assumed speeds are
    scaled to it where the list says for which size they hold. seconds: {low, expected, high} on this machine. The
    intervals: prices from `low` to `high`; speeds that were assumed, from 1.6 times as fast to 2.5 times as slow.
    Estimates: dates and notes say what they rest on.
    """
    told = []
    for p in prices:
        hours = spread = None
        if p.tokens_per_second:
            scale = parameters / p.parameters if parameters and p.parameters else 1.0
            hours = training_tokens * scale / p.tokens_per_second / 3600
            spread = (hours / _SLOWER**0.5, hours * _SLOWER)
        elif p.engine == HERE and seconds:
            hours, spread = seconds["expected"] / 3600, (seconds["low"] / 3600, seconds["high"] / 3600)
        low, high = (p.price if p.low is None else p.low), (p.price if p.high is None else p.high)
        if p.unit == "hour" and hours is not None and spread is not None:
            dollars, between = p.price * hours, (low * spread[0], high * spread[1])
        else:
            amount = training_tokens / 1e6
            dollars, between = p.price * amount, (low * amount, high * amount)
        told.append(
            {
                "engine": p.engine,
                "model": p.model,
                "dollars": round(dollars, 4),
                "dollars_between": [round(x, 4) for x in between],
                "hours": None if hours is None else round(hours, 3),
                "hours_between": None if spread is None else [round(x, 3) for x in spread],
                "price": p.price,
                "unit": p.unit,
                "tokens_per_second": p.tokens_per_second,
                "date": p.date.isoformat(),
                "until": p.until.isoformat() if p.until else None,
                "note": p.note,
            }
        )
    return sorted(told, key=lambda row: (row["dollars"], row["engine"], row["model"]))
