"""Finds the checkpoint to resume from after a kill: complete, undamaged, and of the same job.

A checkpoint counts only if it contains ``complete.json``, written last, with the digests of the job and of every file.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from finetune_pipeline.engine.files import DamagedFile, digest_file, read_json, write_json

MARK = "complete.json"


@dataclass
class Resume:
    """The checkpoint to resume from (`folder` None: from the start), and skipped ones {name, reason}.
    finished: the training ended with it (last step, or stopped early). best: the best checkpoint's folder."""

    folder: Path | None = None
    step: int = 0
    finished: bool = False
    best: Path | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)


class _Mark(TypedDict):
    job: str
    best: str | None
    finished: bool
    files: dict[str, str]


def mark_complete(folder: Path, job_digest: str, best: str | None, finished: bool = False) -> None:
    """Mark a checkpoint as complete. `best`: name of the best checkpoint so far, which must also exist."""
    files = {p.name: digest_file(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != MARK}
    write_json(folder / MARK, {"job": job_digest, "best": best, "finished": finished, "files": files})


def _fault(folder: Path, job_digest: str) -> str | None:
    """Return the fault of a checkpoint, or None."""
    try:
        mark = read_json(folder / MARK, _Mark)
    except FileNotFoundError:
        return "it is half-written (the process died while saving it)"
    except DamagedFile:
        return f"its {MARK} is unreadable"
    if mark["job"] != job_digest:
        return "it belongs to a job with other data or settings"
    for name, digest in mark["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if digest_file(folder / name) != digest:
            return f"{name} is corrupt (its digest differs)"
    return None


def find_resumable(root: Path, job_digest: str) -> Resume:
    """Return the last complete checkpoint of this job in `root`; delete unusable ones, and name them.
    Also skips a checkpoint whose best predecessor is unusable, since training ends by loading the best one."""
    resume = Resume()
    by_suffix = {p.name.removeprefix("checkpoint-"): p for p in root.glob("checkpoint-*")}
    folders = {int(suffix): folder for suffix, folder in by_suffix.items() if suffix.isdigit()}
    faults = {step: _fault(folder, job_digest) for step, folder in folders.items()}
    usable = {folders[step].name for step, fault in faults.items() if fault is None}
    for step in sorted(folders, reverse=True):
        fault, folder = faults[step], folders[step]
        if fault is None:
            mark = read_json(folder / MARK)
            best = mark["best"]
            if best is None or best in usable:
                if resume.folder is None:
                    resume.folder, resume.step, resume.finished = folder, step, bool(mark["finished"])
                    resume.best = root / best if best else None
                continue
            fault = f"the best checkpoint before it, {best}, is not usable"
        resume.skipped.append({"name": folder.name, "reason": fault})
        shutil.rmtree(folder)
    return resume
