"""The training history in JSON Lines, appended during training and truncated when a run resumes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import replace_text

Entry = dict[str, Any]


def _lines(entries: Iterable[Entry]) -> str:
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)


def write(path: Path, entries: Iterable[Entry]) -> None:
    path.write_text(_lines(entries), "utf-8")


def append(path: Path, entry: Entry) -> None:
    """Add one line {step, epoch, loss or eval_loss, learning_rate, seconds}."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines([entry]))


def read(path: Path) -> list[Entry]:
    """Return all complete lines in order, without a partial last line (after a kill)."""
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def truncate(path: Path, step: int) -> list[Entry]:
    """Truncate the history to entries up to `step`, where a run resumes. Returns them."""
    entries = [e for e in read(path) if e["step"] <= step]
    replace_text(path, _lines(entries), durable=False)
    return entries


def without_times(entries: list[Entry]) -> list[Entry]:
    """Return the entries without `seconds`, which differ from run to run."""
    return [{k: v for k, v in e.items() if k != "seconds"} for e in entries]


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
