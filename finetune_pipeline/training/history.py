"""The training history in JSON Lines: appended during training, and written anew from a checkpoint's state when a run resumes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
_METRICS = ("loss", "eval_loss", "learning_rate", "grad_norm")


def entries_of(log_history: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return the history {step, epoch, loss or eval_loss, learning_rate, grad_norm} in the log of transformers' TrainerState."""
    return [
        {"step": log["step"], "epoch": round(log.get("epoch") or 0.0, 4), **{k: log[k] for k in _METRICS if k in log}}
        for log in log_history
        if "loss" in log or "eval_loss" in log
    ]


def _lines(entries: Iterable[Entry]) -> str:
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)


def write(path: Path, entries: Iterable[Entry]) -> None:
    path.write_text(_lines(entries), "utf-8")


def append(path: Path, entry: Entry) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines([entry]))


MUCH_RISE = 0.10
"""Relative rise of the validation loss over its best value, from which a model is called overfitted."""


def overfitting(entries: list[Entry]) -> dict[str, Any]:
    """Report whether the validation loss rose while the training loss fell.

    rise: relative rise of the last validation loss over the best one. train_fell: mean training loss before the best
    validation, minus the mean after it, over equally many steps (None: there are none after it). If validation was best
    before training, the two halves of the steps are compared. verdict: ``overfitted`` (rise of a tenth or more while the
    training loss fell), ``turning`` (a smaller rise while it fell), ``unstable`` (a rise while it did not fall: probably
    too high a learning rate), ``none``.
    """
    evaluated = [e for e in entries if "eval_loss" in e]
    best = min(evaluated, key=lambda e: e["eval_loss"])
    latest = evaluated[-1]
    rise = latest["eval_loss"] / best["eval_loss"] - 1 if best["eval_loss"] else 0.0
    after = [e["loss"] for e in entries if "loss" in e and e["step"] > best["step"]]
    before = [e["loss"] for e in entries if "loss" in e and e["step"] <= best["step"]][-len(after) :] if after else []
    if not before and len(after) > 1:  # never better than before training
        before, after = after[: len(after) // 2], after[len(after) // 2 :]
    fell = sum(before) / len(before) - sum(after) / len(after) if before and after else None
    verdict = "none"
    if rise > 0:
        verdict = "unstable" if fell is None or fell <= 0 else "overfitted" if rise >= MUCH_RISE else "turning"
    return {
        "best_step": best["step"],
        "best_eval": best["eval_loss"],
        "last_eval": latest["eval_loss"],
        "rise": rise,
        "train_fell": fell,
        "verdict": verdict,
    }
