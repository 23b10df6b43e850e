"""What to say when a job failed: what happened, where to look, what to do; and whether another try can help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM, EXIT_PREEMPTED, NO_RETRY, describe

AUDIT_PAGE = "audit.html"
KILLED = -9
"""Ended by SIGKILL: nearly always the kernel's out-of-memory killer, and then another try only kills again."""

_FIXES = {
    EXIT_CONFIG: "correct what is named above and run again; the same job would fail the same way",
    EXIT_OOM: "lower training.micro_batch_size, then training.max_tokens; or use a machine with more memory",
    EXIT_PREEMPTED: "run again: it goes on from the last checkpoint",
    KILLED: "if nobody killed it, memory ran out: look at `dmesg`, lower training.micro_batch_size or free memory; "
    "running again goes on from the last checkpoint",
}
_OTHERWISE = "read the step's output (stderr) for the first error; running again goes on from the last checkpoint"


def failure(context: Any, message: str, metadata: Mapping[str, Any], *, retry: bool) -> Exception:
    """A dg.Failure, or without a Dagster context a RuntimeError with the same words."""
    if context is None:
        return RuntimeError(message)
    return dg.Failure(message, metadata=dict(metadata), allow_retries=retry)


def of_exit(context: Any, stage: str, code: int, device: str, job: Mapping[str, Any]) -> Exception:
    """The error for a child that ended with a code other than 0."""
    out = Path(job["out"])
    kind, told = _told(out / "error.json")
    lines = [f"{stage} on {device} {describe(code)}"]
    if told:
        lines.append(told)
    if code != EXIT_CONFIG or "fix:" not in told:
        lines.append(f"fix: {_FIXES.get(code, _OTHERWISE)}")
    metadata: dict[str, Any] = {"exit_code": code, "error_kind": kind, "device": device}
    page = Path(str(job.get("work") or "")) / AUDIT_PAGE
    if job.get("work") and page.is_file():
        metadata["audit_page"] = dg.MetadataValue.path(page)
    return failure(context, "\n".join(lines), metadata, retry=code not in NO_RETRY and code != KILLED)


def _told(path: Path) -> tuple[str, str]:
    """(kind, message) the child left, or ("", ""). A file it could not finish is said to be so."""
    if not path.is_file():
        return "", ""
    try:
        told = read_json(path)
        return str(told["kind"]), str(told["message"]).strip()
    except (ValueError, KeyError, TypeError) as error:
        return "", f"(its error.json cannot be read: {error!r})"
