"""Exactly-once log intake: intakes are killed at random while a process writes and rotates logs; no row is lost or doubled.

A process writes rows to several files, flushing in the middle of lines, and rotates the files: by renaming, by copying and
truncating, by gzipping (while intakes read), and by date. Meanwhile intakes run, each killed with SIGKILL after a random time.
At the end one undisturbed intake runs. Every written row must be in the store exactly once.
"""

import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production import log_intake
from finetune_pipeline.production.log_intake import ingest_new_lines
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests.unit.production.streams import make_task

ROTATIONS = ("rename", "copytruncate", "rename_gzip", "dated", "copytruncate_gzip")
_PAUSE_S = 0.002
_TEXT = "the courier left the parcel at the wrong door and nobody answers the telephone " * 4


def write_logs(folder: Path, summary: Path, stop: Path, seed: int) -> None:
    """Write and rotate until `stop` exists; then write the number of rows and of each kind of rotation to `summary`."""
    rng, number, rotations = random.Random(seed), 0, Counter[str]()
    logs = folder / "logs"
    files = {name: (logs / f"{name}.jsonl").open("ab", buffering=0) for name in ("a", "b", "c")}
    while not stop.exists():
        name = rng.choice(list(files))
        for _ in range(rng.randint(1, 20)):
            row = {
                "id": f"r{number}",
                "timestamp": "2026-05-01T10:00:00Z",
                "input": f"{number} {_TEXT[: rng.randint(10, 300)]}",
                "output": "a",
                "model_version": "1",
                "user": f"u{number % 7}",
            }
            line = json.dumps(row).encode() + b"\n"
            middle = rng.randrange(len(line))
            files[name].write(line[:middle])
            if rng.random() < 0.1:
                time.sleep(_PAUSE_S)  # the file ends with half a line for a while
            files[name].write(line[middle:])
            number += 1
        if rng.random() < 0.15:
            kind = rng.choice(ROTATIONS)
            rotations[kind] += 1
            files[name] = rotate(files[name], logs / f"{name}.jsonl", kind, number)
        time.sleep(_PAUSE_S)
    summary.write_text(json.dumps({"rows": number, "rotations": rotations}))


def rotate(handle: Any, path: Path, kind: str, number: int) -> Any:
    """Rotate a file. Returns the handle for further writes."""
    old = path.with_name(f"{path.name}.{number}")
    if kind.startswith("copytruncate"):
        shutil.copyfile(path, old)
        os.truncate(path, 0)
    else:
        handle.close()
        if kind == "dated":
            old = path.with_name(f"{path.stem}-{number}.jsonl")
        os.rename(path, old)
        handle = path.open("ab", buffering=0)
    if kind.endswith("gzip"):
        with old.open("rb") as plain, gzip.open(f"{old}.gz", "wb", compresslevel=1) as zipped:
            while piece := plain.read(4096):
                zipped.write(piece)
                zipped.flush()
        old.unlink()
    return handle


def intake(folder: Path, home: Path) -> None:
    """Ingest in a loop, in small batches, so that much of the time is spent where rows become durable."""
    log_intake._BATCH_BYTES = 4096
    task, store = load_task(folder), ArtifactStore(home)
    while True:
        ingest_new_lines(task, store)


def play(root: Path, kills: int, seed: int, longest: float) -> dict[str, Any]:
    """Kill intakes of growing logs. Returns counts of rows and rotations.

    Args:
        root: Folder to work in.
        kills: Number of intakes that are killed.
        seed: Of all random choices.
        longest: Most seconds that an intake runs.
    """
    rng = random.Random(seed)
    folder, home = make_task(root), root / "home"
    summary, stop = root / "summary.json", root / "stop"
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=write_logs, args=(folder, summary, stop, seed))
    writer.start()
    for _ in range(kills):
        process = context.Process(target=intake, args=(folder, home))
        process.start()
        time.sleep(rng.uniform(0.0, longest))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    stop.touch()
    writer.join()
    task, store = load_task(folder), ArtifactStore(home)
    ingest_new_lines(task, store)
    written = json.loads(summary.read_text())
    rows = list(log_store(task, store).rows())
    counts = Counter(row.get("id", "bad") for row in rows)
    return {
        "rows_in": written["rows"],
        "rows_out": len(rows),
        "lost": sum(f"r{i}" not in counts for i in range(written["rows"])),
        "twice": sum(n - 1 for n in counts.values()),
        "rotations": written["rotations"],
    }
