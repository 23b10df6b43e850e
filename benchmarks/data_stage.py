"""The whole data stage at scale: raw file to certified splits.

    python benchmarks/data_stage.py --rows 1000000 --compare

Rows are made by benchmarks/chat_rows.py (seed fixed, about 600 bytes each, planted duplicates and broken lines). Figures
are of a fresh process: seconds of wall clock and of CPU (all processes of the stage together), and the peak of the summed
resident memory of the stage's processes, sampled ten times a second. The kernels are compiled before.
"""

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

# The stage's worker processes import this module again, as they import the light `finetune` command: the package is
# imported where it is used.

SPEC = """\
name: bench
description: Generated rows for measuring.
system_prompt: {prompt}
output: {{kind: text}}
data:
  raw: [raw/*.jsonl]
  contradictions: warn
"""
LIMITS = {"seconds": 150.0, "mebibytes": 2560.0}
"""For a million rows, on two idle cores."""


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
    from finetune_pipeline.engine.store import ArtifactStore
    from finetune_pipeline.pipeline import DATA, PIPELINE, STEPS
    from finetune_pipeline.spec import load_task
    from finetune_pipeline.steps.run_inputs import collect_run_inputs

    task = load_task(folder / "bench")
    store = ArtifactStore(folder / "store")
    began, cpu = time.perf_counter(), cpu_seconds()
    world = collect_run_inputs(task, None, store)
    steps = {}
    for name in ("production_logs", *(step.name for step in STEPS if step.group == DATA and not step.view_of)):
        start, used = time.perf_counter(), cpu_seconds()
        artifact = PIPELINE.run(name, task, world, store)
        steps[name] = {
            "seconds": time.perf_counter() - start,
            "cpu": cpu_seconds() - used,
            "facts": {k: v for k, v in artifact.facts.items() if isinstance(v, int)},
        }
    return {"seconds": time.perf_counter() - began, "cpu": cpu_seconds() - cpu, "steps": steps}


def measured(folder: Path) -> dict[str, Any]:
    """run_stage in a fresh process."""
    figures = folder / "told.json"
    os.sync()
    command = [sys.executable, __file__, "--run", str(folder), "--told", str(figures)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        memory = Memory(process.pid)
        memory.start()
    peak = memory.finish()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result: dict[str, Any] = json.loads(figures.read_text())
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
        given.told.write_text(json.dumps(run_stage(given.run)))
        return
    from chat_rows import SYSTEM_PROMPT, write_chat_rows

    from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
    from finetune_pipeline.data.split.alike import AlikeIndex, features_of

    folder = given.folder or Path(tempfile.mkdtemp(prefix="data-stage-"))
    raw = folder / "bench" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "bench" / "task.yaml").write_text(SPEC.format(prompt=json.dumps(SYSTEM_PROMPT)))
    write_chat_rows(raw / "a.jsonl", given.rows, seed=0)
    size = (raw / "a.jsonl").stat().st_size
    print(f"{given.rows} rows, {size / 2**20:.0f} MiB, {os.cpu_count()} cores")
    near_duplicate_clusters(["compiles", "the kernels"], 0.8)
    AlikeIndex(*features_of(["compiles", "the others"], 22), 22).nearest()
    figures = measured(folder)
    print(f"{'step':22} {'seconds':>9} {'CPU s':>9}")
    for name, step in {**figures["steps"], "all": figures}.items():
        print(f"{name:22} {step['seconds']:9.2f} {step['cpu']:9.2f}")
    met = figures["seconds"] <= LIMITS["seconds"] and figures["mebibytes"] <= LIMITS["mebibytes"]
    print(
        f"peak memory {figures['mebibytes']:.0f} MiB; limits for a million rows ({LIMITS}): {'met' if met else 'not met'}"
    )
    for name in ("clean_examples", "splits"):
        print(name, figures["steps"][name]["facts"])
    if not given.folder:
        shutil.rmtree(folder)
    if given.compare:
        print(flush=True)
        script = Path(__file__).with_name("near_duplicates.py")
        subprocess.run([sys.executable, str(script), "--rows", "100000", "--datasketch"], check=True)


if __name__ == "__main__":
    main()
