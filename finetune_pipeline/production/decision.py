"""Whether another round of training is worth starting, as a sentence with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.spec.model import TaskSpec


def decide_retraining(spec: TaskSpec, drift: Mapping[str, Any], logs: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Retrain when production brought enough corrected rows, or when it drifted and brought some; else wait.

    Returns facts {retrain, usable_rows, needed_rows, reasons, sentence}; writes decision.json.
    """
    usable, needed = int(logs["corrections"]), spec.logs.min_new_rows
    drifted = list(drift["drifted"])
    reasons = [f"{usable} corrected production rows, {needed} asked for", str(drift["sentence"])]
    retrain = usable >= needed or (bool(drifted) and usable > 0)
    if retrain:
        sentence = f"Train again: {usable} corrected rows" + (
            f" and drift in {', '.join(drifted)}." if drifted else "."
        )
    elif drifted:
        sentence = f"Production drifted in {', '.join(drifted)}, but no corrected row came in: label some first."
    else:
        sentence = f"Wait for {needed - usable} more corrected rows."
    facts = {"retrain": retrain, "usable_rows": usable, "needed_rows": needed, "reasons": reasons, "sentence": sentence}
    write_json(out / "decision.json", facts)
    return facts
