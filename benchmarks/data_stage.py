"""The whole data stage at scale: raw file to certified splits, then again with one per cent of new rows.

    python benchmarks/data_stage.py --rows 1000000 --compare

Rows are made by benchmarks/chat_rows.py (seed fixed, about 600 bytes each, planted duplicates and broken lines). Every
figure is of a fresh process: seconds of wall clock and of CPU (all processes of the stage together), and the peak of
the summed resident memory of the stage's processes, sampled ten times a second. Before the clock starts, what was written
before is brought to the disk: nobody adds rows in the second in which the first million was done. The second time is so
short that it is measured three times from the same state; the median counts, all three are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.artifacts import ArtifactStore, write_json
from finetune_pipeline.graph import Graph, World
from finetune_pipeline.spec import load_task
from finetune_pipeline.stages.data import STEPS

SPEC = """\
name: bench
description: Generated rows for measuring.
system_prompt: {prompt}
output: {{kind: text}}
data:
  raw: [raw/*.jsonl]
  contradictions: warn
"""
STAGES = [step.name for step in STEPS]
REPEATS = 3
LIMITS = {"seconds": 150.0, "mebibytes": 2560.0, "again_share": 0.05}


class Memory(threading.Thread):
    """Samples the resident memory of a process and its children, from outside of it; `peak` in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        me = psutil.Process(self._pid)
        while not self._ended.wait(0.1):
            total = 0
            try:
                processes = (me, *me.children(recursive=True))
            except psutil.Error:  # it has ended
                continue
            for process in processes:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total / 2**20)

    def finish(self) -> float:
        self._ended.set()
        self.join()
        return self.peak


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def run_stage(folder: Path) -> dict[str, Any]:
    """Make all artifacts of the data stage in this process; per step and in total."""
    from finetune_pipeline.data.raw_files import raw_digest

    task = load_task(folder / "bench")
    store = ArtifactStore(folder / "store")
    began, cpu = time.perf_counter(), cpu_seconds()
    logs = store.root / "logs.jsonl"
    logs.parent.mkdir(parents=True, exist_ok=True)
    logs.touch()
    world = World(raw_digest(task, store.seen_files(task.name)), _no_reviews(), "none", "none", {})
    graph = Graph([_logs_step(), *STEPS])
    steps = {}
    for name in ("production_logs", *STAGES):
        start, used = time.perf_counter(), cpu_seconds()
        artifact = graph.run(name, task, world, store)
        steps[name] = {
            "seconds": time.perf_counter() - start,
            "cpu": cpu_seconds() - used,
            "facts": {k: v for k, v in artifact.facts.items() if isinstance(v, int)},
        }
    return {
        "seconds": time.perf_counter() - began,
        "cpu": cpu_seconds() - cpu,
        "steps": steps,
    }


def _no_reviews() -> str:
    from finetune_pipeline.data.review import reviews_digest

    return reviews_digest(Path("/nonexistent"))


def _logs_step() -> Any:
    from finetune_pipeline.graph import Step

    def make(work: Any) -> dict[str, Any]:
        (work.out / "examples.jsonl").touch()
        return {}

    return Step("production_logs", (), "0", lambda s, w: None, make)


def measured(folder: Path) -> dict[str, Any]:
    """run_stage in a fresh process."""
    told = folder / "told.json"
    os.sync()
    command = [sys.executable, __file__, "--run", str(folder), "--told", str(told)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        memory = Memory(process.pid)
        memory.start()
    peak = memory.finish()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result: dict[str, Any] = json.loads(told.read_text())
    return result | {"mebibytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--compare", action="store_true", help="also against datasketch and the guides' validator")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        write_json(given.told, run_stage(given.run))
        return
    from chat_rows import SYSTEM_PROMPT, write_chat_rows

    folder = given.folder or Path(tempfile.mkdtemp(prefix="data-stage-"))
    raw = folder / "bench" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "bench" / "task.yaml").write_text(SPEC.format(prompt=json.dumps(SYSTEM_PROMPT)))
    write_chat_rows(raw / "a.jsonl", given.rows, seed=0)
    time.sleep(3)  # files people keep are older than this: what has just been written is not remembered as seen
    size = (raw / "a.jsonl").stat().st_size
    print(f"{given.rows} rows, {size / 2**20:.0f} MiB, {os.cpu_count()} cores")
    first = measured(folder)
    write_chat_rows(raw / "b.jsonl", max(1, given.rows // 100), seed=1)
    subprocess.run(["cp", "-a", folder / "store", folder / "kept"], check=True)  # hard links stay hard links
    tries = []
    for _ in range(REPEATS):
        shutil.rmtree(folder / "store")
        subprocess.run(["cp", "-a", folder / "kept", folder / "store"], check=True)
        tries.append(measured(folder))
    again = sorted(tries, key=lambda told: float(told["seconds"]))[REPEATS // 2]
    print(f"{'step':22} {'first s':>9} {'CPU s':>9} {'again s':>9} {'CPU s':>9}")
    for name in first["steps"]:
        a, b = first["steps"][name], again["steps"][name]
        print(f"{name:22} {a['seconds']:9.2f} {a['cpu']:9.2f} {b['seconds']:9.2f} {b['cpu']:9.2f}")
    share = again["seconds"] / first["seconds"]
    print(f"{'all':22} {first['seconds']:9.2f} {first['cpu']:9.2f} {again['seconds']:9.2f} {again['cpu']:9.2f}")
    print("again, every time:", ", ".join(f"{told['seconds']:.2f}" for told in tries))
    met = (
        first["seconds"] <= LIMITS["seconds"]
        and max(first["mebibytes"], again["mebibytes"]) <= LIMITS["mebibytes"]
        and share <= LIMITS["again_share"]
    )
    print(f"limits for a million rows ({LIMITS}): {'met' if met else 'not met'}")
    print(f"peak memory {first['mebibytes']:.0f} MiB, again {again['mebibytes']:.0f} MiB; again / first = {share:.3f}")
    for name in ("clean_examples", "splits"):
        print(name, first["steps"][name]["facts"])
    if not given.folder:
        shutil.rmtree(folder)
    if given.compare:
        for script, *options in (
            ("near_duplicates.py", "--rows", "100000", "--datasketch"),
            ("parsing.py", "--rows", "300000"),
        ):
            print(flush=True)
            subprocess.run([sys.executable, str(Path(__file__).with_name(script)), *options], check=True)


if __name__ == "__main__":
    main()
