"""Estimates what fine-tuning would need, from the rows alone; tokens are estimated from characters."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split.placement import expected_rows
from finetune_pipeline.evaluation.wording import counted, dollars
from finetune_pipeline.planning.costs import TrainingCost, training_costs
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.tokens import epochs_of
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.rows import training_examples

CHARACTERS_A_TOKEN = 4
"""For English text and the tokenizers of small models; other languages need more tokens."""
_SIZE = re.compile(r"(?<!\d)(\d++(?:\.\d++)?)([mb])\b", re.IGNORECASE)


@dataclass(frozen=True)
class Needs:
    """The rows, tokens and money that a training needs. rows: clean rows; least: the spec's minimum; tokens: estimate for all
    epochs."""

    rows: int
    least: int
    train_rows: int
    tokens: int
    method: str
    costs: list[TrainingCost]

    def lines(self) -> list[str]:
        rows = f"{counted(self.rows, 'clean row')}, {self.train_rows:,} of them to train on"
        if self.rows < self.least:
            rows += f"; {self.least - self.rows:,} more are needed to start (data.min_examples)"
        paid: dict[str, TrainingCost] = {}
        for cost in self.costs:
            if cost.high > 0:
                paid.setdefault(cost.where.split(",")[0], cost)
        offers = [f"{where} {dollars(cost.high)} at most" for where, cost in list(paid.items())[:3]]
        return [
            f"fine-tuning needs: {rows}; about {self.tokens:,} tokens with {self.method}",
            f"money: {', '.join(['nothing but time here', *offers])} (`finetune plan TASK --costs` lists all)",
        ]


def parameters_by_name(base_model: str) -> float:
    """Return the number of parameters in a model's name (``…-135m-…``, ``…-7B``), or 0 if it has none."""
    size = _SIZE.search(base_model)
    return float(size[1]) * (1e6 if size[2].lower() == "m" else 1e9) if size else 0.0


def training_needs(spec: TaskSpec, rows: Sequence[Example], home: Path) -> Needs:
    """Estimate what training would need. rows: all clean rows; home: folder with prices."""
    train_rows = len(rows) - sum(expected_rows(spec, rows))
    epoch_examples = training_examples(rows, spec.training)
    characters = sum(len(m["content"]) for e in epoch_examples for m in e.messages)
    epoch_tokens = characters / CHARACTERS_A_TOKEN * train_rows / max(1, len(rows))
    prices, today = load_prices(home=home), datetime.datetime.now(datetime.UTC).date()
    return Needs(
        rows=len(rows),
        least=spec.data.min_examples,
        train_rows=train_rows,
        tokens=round(epoch_tokens * epochs_of(spec.training)),
        method=spec.training.method,
        costs=training_costs(spec, prices, round(epoch_tokens), parameters_by_name(spec.base_model), today),
    )
