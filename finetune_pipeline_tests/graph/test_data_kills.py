"""The data stage killed at random moments: the reruns' artifacts equal those of an undisturbed run."""

import contextlib
import hashlib
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from finetune_pipeline.data import workers
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.graph.project import rows
from finetune_pipeline_tests.hosted_schedules import processes
from finetune_pipeline_tests.skilled_model import LABELS

KILLS = 2


def write_task(folder: Path) -> Path:
    (folder / "raw").mkdir(parents=True)
    raw_rows = rows(900)
    raw_rows += [{**row, "text": row["text"].upper() + "!"} for row in raw_rows[:150]]  # near-duplicates
    raw_rows += [{**row, "label": LABELS[i % 2]} for i, row in enumerate(raw_rows[150:180])]  # half are contradictions
    raw_rows += [{**row, "text": f"{row['text']} mail ann{i}@example.com"} for i, row in enumerate(raw_rows[200:260])]
    for i in range(4):
        lines = [json.dumps(row) for row in raw_rows[i::4]] + ["{broken", "", '{"text": ""}']
        (folder / "raw" / f"{i}.jsonl").write_text("\n".join(lines))
    spec = {"name": folder.name, "description": "Killed again and again.", "system_prompt": "Answer red or blue."}
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": {"kind": "labels", "labels": LABELS}}))
    return folder


def run_data_stage(folder: Path, store: Path, pool: bool) -> None:
    if pool:
        workers.LARGE = 0
    task, artifacts = load_task(folder), ArtifactStore(store)
    PIPELINE.run_to("splits", task, collect_run_inputs(task, None, artifacts), artifacts)


def start(*arguments: Any) -> Any:
    """Start a process that runs the data stage."""
    process = processes().Process(target=run_data_stage, args=arguments)
    process.start()
    return process


def digests(store: Path) -> dict[str, str]:
    """Digests of all files of artifacts and ledgers, by path in the store."""
    files = [p for p in sorted(store.rglob("*")) if p.is_file() and ".locks" not in p.parts and p.name != ".lock"]
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_killed_at_random_the_data_stage_ends_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alternates between a single process and a process pool."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a process with threads cannot be forked safely
    task = write_task(tmp_path / "killed")
    preload = processes().Process(target=int)
    preload.start()
    preload.join()
    started_at = time.monotonic()
    undisturbed = start(task, tmp_path / "undisturbed", False)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    seconds = time.monotonic() - started_at
    expected = digests(tmp_path / "undisturbed")
    assert sum("artifact.json" in name for name in expected) == len(PIPELINE.upstream("splits"))
    rng, store, kills = random.Random(0), tmp_path / "store", 0
    store.mkdir()
    for key in (tmp_path / "undisturbed").glob("*.key"):  # fingerprints depend on these random keys
        shutil.copy2(key, store)
    while kills < KILLS:
        run = start(task, store, kills % 2 == 1)
        run.join(rng.uniform(0.3, 0.95) * seconds)
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at this moment
            children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.join()
        if run.exitcode:
            kills += 1
            psutil.wait_procs(children, timeout=20)
            assert not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children), "orphans"
            for manifest in store.glob("*/*/*/artifact.json"):
                result = json.loads(manifest.read_text())
                for name, file in result["files"].items():
                    assert hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest() == file["sha256"]
        else:  # it ended before the kill: delete all artifacts and start again
            assert run.exitcode == 0
            assert digests(store) == expected
            for step in (store / task.name).iterdir():
                if step.name not in ("state", ".locks"):
                    shutil.rmtree(step)
    last = start(task, store, True)
    last.join()
    assert last.exitcode == 0
    assert {name: digest for name, digest in digests(store).items() if ".making-" not in name} == expected
