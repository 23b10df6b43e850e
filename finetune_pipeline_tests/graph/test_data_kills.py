"""The data stage is killed at random moments; what the reruns make is what an undisturbed run makes."""

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
    made = rows(900)
    made += [{**row, "text": row["text"].upper() + "!"} for row in made[:150]]  # repeats
    made += [{**row, "label": LABELS[i % 2]} for i, row in enumerate(made[150:180])]  # half of them contradictions
    made += [{**row, "text": f"{row['text']} mail ann{i}@example.com"} for i, row in enumerate(made[200:260])]
    for i in range(4):
        lines = [json.dumps(row) for row in made[i::4]] + ["{broken", "", '{"text": ""}']
        (folder / "raw" / f"{i}.jsonl").write_text("\n".join(lines))
    spec = {"name": folder.name, "description": "Killed again and again.", "system_prompt": "Answer red or blue."}
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": {"kind": "labels", "labels": LABELS}}))
    return folder


def make_data_stage(folder: Path, store: Path, pool: bool) -> None:
    if pool:
        workers.LARGE = 0
    task, artifacts = load_task(folder), ArtifactStore(store)
    PIPELINE.run_to("splits", task, collect_run_inputs(task, None, artifacts), artifacts)


def start(*arguments: Any) -> Any:
    """A process that makes the data stage."""
    process = processes().Process(target=make_data_stage, args=arguments)
    process.start()
    return process


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


def test_killed_at_random_the_data_stage_ends_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process and in a pool of them: whichever is killed, either can go on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a process with threads cannot be forked safely
    task = write_task(tmp_path / "killed")
    imports = processes().Process(target=int)
    imports.start()
    imports.join()
    began = time.monotonic()
    undisturbed = start(task, tmp_path / "undisturbed", False)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    takes = time.monotonic() - began
    wanted = everything(tmp_path / "undisturbed")
    assert sum("artifact.json" in name for name in wanted) == 6
    rng, store, kills = random.Random(0), with_keys_of(tmp_path / "undisturbed", tmp_path / "store"), 0
    while kills < KILLS:
        run = start(task, store, kills % 2 == 1)
        run.join(rng.uniform(0.3, 0.95) * takes)
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
        else:  # it was quicker than the kill: begin anew, with everything there is thrown away but the ledger and the key
            assert run.exitcode == 0
            assert everything(store) == wanted
            for step in (store / task.name).iterdir():
                if step.name not in ("state", ".locks"):
                    shutil.rmtree(step)
    last = start(task, store, True)
    last.join()
    assert last.exitcode == 0
    left = {name: digest for name, digest in everything(store).items() if ".making-" not in name}
    assert left == wanted
