"""The examples a candidate must have right, whatever else it gains: ids in the spec, or a file of them."""

from __future__ import annotations

from pathlib import Path

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.model import TaskSpec


def never_break_ids(spec: TaskSpec, folder: Path) -> list[str]:
    """The ids of gates.never_break, sorted, each once; in a file one a line, `#` begins a comment.

    Raises FindingsError when the file is missing or not UTF-8.
    """
    told = spec.gates.never_break
    if isinstance(told, str):
        try:
            lines = (folder / told).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise FindingsError([_finding(f"{told} cannot be read: {reason}")]) from error
        told = [line.partition("#")[0] for line in lines]
    return sorted({name.strip() for name in told if name.strip()})


def _finding(message: str) -> Finding:
    return Finding(
        "spec.never_break",
        "error",
        "task.yaml: gates.never_break",
        message,
        "give a file of the task folder with one example id a line, or the ids themselves as a list",
    )
