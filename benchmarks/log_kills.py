"""Exactly once: intakes killed at random moments while a writer writes and rotates logs in every way; rows in = rows out.

    python benchmarks/log_kills.py [--kills 200] [--seed 0]

A process writes rows, flushing in the middle of lines, to several files and rotates them: by renaming, by copying and
truncating, by gzipping (a renamed file, while intakes look on), and by date. Intakes run all the while, each killed with
SIGKILL after a random time. At the end one undisturbed intake runs. Every row the writer finished must be in the store
exactly once, by id and content.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production import log_intake as module
from finetune_pipeline.production.log_intake import ingest_new_lines, log_store
from finetune_pipeline.spec import load_task

ROTATIONS = ("rename", "copytruncate", "rename_gzip", "dated", "copytruncate_gzip")
_TEXT = "the courier left the parcel at the wrong door and nobody answers the telephone " * 4


def make_task(root: Path) -> Path:
    """A task folder without rows."""
    folder = root / "demo"
    (folder / "logs").mkdir(parents=True)
    spec = {
        "name": "demo",
        "description": "d",
        "system_prompt": "s",
        "output": {"kind": "labels", "labels": ["a", "b"]},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    return folder


def write_logs(folder: Path, told: Path, stop: Path, seed: int, pause: float) -> None:
    """Write and rotate until `stop` exists; `told` gets the number of rows and the count of each rotation."""
    rng, number, used = random.Random(seed), 0, Counter[str]()
    logs = folder / "logs"
    names = ["a", "b", "c"]
    out = {name: (logs / f"{name}.jsonl").open("ab", buffering=0) for name in names}
    while not stop.exists():
        name = rng.choice(names)
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
            at = rng.randrange(len(line))
            out[name].write(line[:at])
            if rng.random() < 0.1:
                time.sleep(pause)  # half a line stands there for a while
            out[name].write(line[at:])
            number += 1
        if rng.random() < 0.15:
            kind = rng.choice(ROTATIONS)
            used[kind] += 1
            out[name] = rotate(out[name], logs / f"{name}.jsonl", kind, number)
        time.sleep(pause)
    told.write_text(json.dumps({"rows": number, "rotations": used}))


def rotate(handle: Any, path: Path, kind: str, number: int) -> Any:
    """Rotate one file the way `kind` says; returns the handle to go on with."""
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
    """Take in over and over, in small batches, so that much of the time is spent where rows become durable."""
    module._BATCH_BYTES = 4096
    task, store = load_task(folder), ArtifactStore(home)
    while True:
        ingest_new_lines(task, store)


def play(root: Path, kills: int, seed: int, pause: float = 0.002, longest: float = 0.12) -> dict[str, Any]:
    """Run the whole thing; returns {rows_in, rows_out, lost, twice, kills, kills_after_a_commit,
    kills_before_the_ledger, rotations, seconds}."""
    began = time.monotonic()
    rng = random.Random(seed)
    folder, home = make_task(root), root / "home"
    told, stop = root / "told.json", root / "stop"
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=write_logs, args=(folder, told, stop, seed, pause))
    writer.start()
    segments, orphans, commits, done = home / "demo" / "state" / "logs", 0, 0, 0
    for _ in range(kills):
        process = context.Process(target=intake, args=(folder, home))
        process.start()
        time.sleep(rng.uniform(0.0, longest))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        state = _state(segments)
        commits += state[0] > done
        done, orphans = state[0], orphans + state[1]
    stop.touch()
    writer.join()
    task, store = load_task(folder), ArtifactStore(home)
    ingest_new_lines(task, store)
    written = json.loads(told.read_text())
    rows = list(log_store(task, store).rows())
    counts = Counter(row.get("id", "bad") for row in rows)
    return {
        "rows_in": written["rows"],
        "rows_out": len(rows),
        "lost": sum(f"r{i}" not in counts for i in range(written["rows"])),
        "twice": sum(n - 1 for n in counts.values()),
        "kills": kills,
        "kills_after_a_commit": commits,
        "kills_before_the_ledger": orphans,
        "rotations": written["rotations"],
        "seconds": round(time.monotonic() - began, 1),
    }


def _state(state: Path) -> tuple[int, int]:
    """(segments the ledger names, 1 if the kill left rows that no ledger names, whole or half-written)."""
    ledger = state / "ledger.json"
    named = {s["name"] for s in json.loads(ledger.read_text())["segments"]} if ledger.exists() else set()
    there = list((state / "segments").iterdir()) if (state / "segments").is_dir() else []
    return len(named), int(any(p.stem not in named for p in there))


def main() -> int:
    """Print the figures; 1 if a row was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-logs-") as root:
        found = play(Path(root), told.kills, told.seed)
    for key, value in found.items():
        print(f"{key:26} {value}")
    good = found["rows_in"] == found["rows_out"] and not found["lost"] and not found["twice"]
    print("rows in = rows out" if good else "ROWS WERE LOST OR DOUBLED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
