"""The whole data stage at scale, from the raw file to certified splits.

    python benchmarks/data_stage.py [--rows 300000]

Rows are made by chat_rows.py (fixed seed, about 600 bytes each, planted duplicates and broken lines). Measured in a fresh
process: seconds of wall clock and CPU (of all the stage's processes), and the peak of their summed resident memory, sampled
ten times a second. The kernels are compiled beforehand.

Measures: finetune_pipeline/data.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# The stage's worker processes import this module again, so it imports the package only where it is used.

SPEC = """\
name: bench
description: Generated rows for measuring.
system_prompt: {prompt}
output: {{kind: text}}
data:
  raw: [raw/*.jsonl]
  contradictions: warn
"""
LIMITS = {"seconds": 300.0, "mebibytes": 2560.0}
"""For 300,000 rows, on two idle cores."""


class Memory(threading.Thread):
    """Samples the resident memory of another process and its children. peak: in MiB."""

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
    """CPU time of this process and its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run_stage(folder: Path) -> dict[str, Any]:
    """Make all artifacts of the data stage in this process. Returns the cost in total and by step."""
    from finetune_pipeline.engine.store import ArtifactStore
    from finetune_pipeline.pipeline import DATA, PIPELINE, STEPS
    from finetune_pipeline.spec import load_task
    from finetune_pipeline.steps.run_inputs import collect_run_inputs

    task = load_task(folder / "bench")
    store = ArtifactStore(folder / "store")
    began, cpu = time.perf_counter(), cpu_seconds()
    run_inputs = collect_run_inputs(task, None, store)
    steps = {}
    for name in ("production_logs", *(step.name for step in STEPS if step.group == DATA and not step.view_of)):
        step_began, step_cpu = time.perf_counter(), cpu_seconds()
        artifact = PIPELINE.run(name, task, run_inputs, store)
        steps[name] = {
            "seconds": time.perf_counter() - step_began,
            "cpu": cpu_seconds() - step_cpu,
            "facts": {k: v for k, v in artifact.facts.items() if isinstance(v, int)},
        }
    return {"seconds": time.perf_counter() - began, "cpu": cpu_seconds() - cpu, "steps": steps}


def measure(folder: Path) -> dict[str, Any]:
    """Call run_stage in a new process, and add its peak memory."""
    result = folder / "result.json"
    os.sync()
    command = [sys.executable, __file__, "--run", str(folder), "--result", str(result)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        memory = Memory(process.pid)
        memory.start()
    peak = memory.finish()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {**json.loads(result.read_text()), "mebibytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        arguments.result.write_text(json.dumps(run_stage(arguments.run)))
        return
    from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
    from finetune_pipeline_tests.chat_rows import SYSTEM_PROMPT, write_chat_rows

    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="data-stage-"))
    raw = folder / "bench" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (folder / "bench" / "task.yaml").write_text(SPEC.format(prompt=json.dumps(SYSTEM_PROMPT)))
    write_chat_rows(raw / "a.jsonl", arguments.rows, seed=0)
    size = (raw / "a.jsonl").stat().st_size
    print(f"{arguments.rows} rows, {size / 2**20:.0f} MiB, {os.cpu_count()} cores")
    near_duplicate_clusters(["two texts", "that compile kernels"], 0.8)
    figures = measure(folder)
    print(f"{'step':22} {'seconds':>9} {'CPU s':>9}")
    for name, step in {**figures["steps"], "all": figures}.items():
        print(f"{name:22} {step['seconds']:9.2f} {step['cpu']:9.2f}")
    met = figures["seconds"] <= LIMITS["seconds"] and figures["mebibytes"] <= LIMITS["mebibytes"]
    print(
        f"peak memory {figures['mebibytes']:.0f} MiB; limits for 300,000 rows ({LIMITS}): {'met' if met else 'not met'}"
    )
    for name in ("clean_examples", "splits"):
        print(name, figures["steps"][name]["facts"])
    if not arguments.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
