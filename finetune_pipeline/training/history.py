"""The training history in JSON Lines: appended during training, and written anew from a checkpoint's state when a run resumes."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.facts import Facts

_METRICS = ("loss", "eval_loss", "learning_rate", "grad_norm")


class LoggedLoss(Facts, frozen=True, kw_only=True):
    """One logged step: the loss on training rows, on validation, or both."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None

    @property
    def is_finite(self) -> bool:
        return all(loss is None or math.isfinite(loss) for loss in (self.loss, self.eval_loss))


class Overfitting(Facts, frozen=True, kw_only=True):
    """How the validation loss developed after its best step; see :func:`overfitting`."""

    best_step: int
    best_eval: float
    last_eval: float
    rise: float
    train_fell: float | None
    verdict: str


def entries_of(log_history: Iterable[Mapping[str, Any]]) -> list[LoggedLoss]:
    """Return the history in the log of transformers' TrainerState."""
    return [
        LoggedLoss(
            step=log["step"],
            epoch=round(log.get("epoch") or 0.0, 4),
            **{name: float(log[name]) for name in _METRICS if name in log},
        )
        for log in log_history
        if "loss" in log or "eval_loss" in log
    ]


def _lines(entries: Iterable[LoggedLoss]) -> str:
    return "".join(json.dumps(entry.to_json(), allow_nan=False) + "\n" for entry in entries)


def write(path: Path, entries: Iterable[LoggedLoss]) -> None:
    path.write_text(_lines(entries), "utf-8")


def append(path: Path, entry: LoggedLoss) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines([entry]))


def validation_losses(entries: Iterable[LoggedLoss]) -> list[tuple[int, float]]:
    """Return (step, loss) of every validation."""
    return [(entry.step, entry.eval_loss) for entry in entries if entry.eval_loss is not None]


def training_losses(entries: Iterable[LoggedLoss]) -> list[tuple[int, float]]:
    """Return (step, loss) of every logged training step."""
    return [(entry.step, entry.loss) for entry in entries if entry.loss is not None]


MUCH_RISE = 0.10
"""Relative rise of the validation loss over its best value, from which a model is called overfitted."""


def overfitting(entries: list[LoggedLoss]) -> Overfitting:
    """Report whether the validation loss rose while the training loss fell.

    rise: relative rise of the last validation loss over the best one. train_fell: mean training loss before the best
    validation, minus the mean after it, over equally many steps (None: there are none after it). If validation was best
    before training, the two halves of the steps are compared. verdict: ``overfitted`` (rise of a tenth or more while the
    training loss fell), ``turning`` (a smaller rise while it fell), ``unstable`` (a rise while it did not fall: probably
    too high a learning rate), ``none``.
    """
    evaluated, trained = validation_losses(entries), training_losses(entries)
    best_step, best = min(evaluated, key=lambda logged: logged[1])
    _, latest = evaluated[-1]
    rise = latest / best - 1 if best else 0.0
    after = [loss for step, loss in trained if step > best_step]
    before = [loss for step, loss in trained if step <= best_step][-len(after) :] if after else []
    if not before and len(after) > 1:  # never better than before training
        before, after = after[: len(after) // 2], after[len(after) // 2 :]
    fell = sum(before) / len(before) - sum(after) / len(after) if before and after else None
    verdict = "none"
    if rise > 0:
        verdict = "unstable" if fell is None or fell <= 0 else "overfitted" if rise >= MUCH_RISE else "turning"
    return Overfitting(
        best_step=best_step, best_eval=best, last_eval=latest, rise=rise, train_fell=fell, verdict=verdict
    )
