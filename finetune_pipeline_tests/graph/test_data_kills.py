"""The data stage is killed at random moments; what the reruns make is what an undisturbed run makes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

from finetune_pipeline_tests.graph.project import rows
from finetune_pipeline_tests.skilled_model import LABELS

KILLS = 2


def write_task(folder: Path) -> Path:
    (folder / "raw").mkdir(parents=True)
    made = rows(900)
    made += [{**row, "text": row["text"].upper() + "!"} for row in made[:150]]  # repeats
    made += [{**row, "label": LABELS[i % 2]} for i, row in enumerate(made[150:180])]  # half of them contradictions
    made += [{**row, "text": f"{row['text']} mail ann{i}@example.com"} for i, row in enumerate(made[200:260])]
    for i in range(4):
        lines = [json.dumps(row) for row in made[i::4]] + ["{broken", "", '{"text": ""}']
        (folder / "raw" / f"{i}.jsonl").write_text("\n".join(lines))
    spec = {
        "name": folder.name,
        "description": "Killed again and again.",
        "system_prompt": "Answer red or blue.",
        "output": {"kind": "labels", "labels": LABELS},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    return folder


def start(task: Path, store: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "finetune_pipeline_tests.graph.data_stage_run", str(task), str(store), *more]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)


def everything(store: Path) -> dict[str, str]:
    """Digest of every file of every artifact, and of the ledger; the manifest's name says which artifact it is."""
    files = [p for p in sorted(store.rglob("*")) if p.is_file() and ".locks" not in p.parts and p.name != ".lock"]
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def with_keys_of(store: Path, new: Path) -> Path:
    """A new store with the random keys of another, since fingerprints depend on them."""
    new.mkdir()
    for key in store.glob("*.key"):
        shutil.copy2(key, new / key.name)
    return new


def test_killed_at_random_the_data_stage_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """In one process and in a pool of them: whichever is killed, either can go on."""
    task = write_task(tmp_path / "killed")
    began = time.monotonic()
    assert start(task, tmp_path / "undisturbed").wait(240) == 0
    takes = time.monotonic() - began
    wanted = everything(tmp_path / "undisturbed")
    assert sum("artifact.json" in name for name in wanted) == 6
    rng, store, kills = random.Random(0), with_keys_of(tmp_path / "undisturbed", tmp_path / "store"), 0
    while kills < KILLS:
        run = start(task, store, *(["pool"] if kills % 2 else []))
        try:
            run.wait(rng.uniform(0.3, 0.95) * takes)
        except subprocess.TimeoutExpired:
            children = psutil.Process(run.pid).children(recursive=True)
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            psutil.wait_procs(children, timeout=20)
            assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children), "orphans"
            for manifest in store.glob("*/*/*/artifact.json"):
                result = json.loads(manifest.read_text())
                for name, file in result["files"].items():
                    assert hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() == file["sha256"]
        else:  # it was quicker than the kill: begin anew, with everything there is thrown away but the ledger and the key
            assert run.returncode == 0
            assert everything(store) == wanted
            for step in (store / task.name).iterdir():
                if step.name not in ("state", ".locks"):
                    shutil.rmtree(step)
    assert start(task, store, "pool").wait(240) == 0
    left = {name: digest for name, digest in everything(store).items() if ".making-" not in name}
    assert left == wanted
