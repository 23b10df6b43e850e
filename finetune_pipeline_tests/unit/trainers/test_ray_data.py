"""The data stage on a Ray cluster leaves, byte for byte, what it leaves on one machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.chat_rows import SYSTEM_PROMPT, write_chat_rows
from finetune_pipeline_tests.ray_cluster import local_cluster

pytest.importorskip("ray")
ROWS = 20_000
"""Some more than a block, which holds eight MiB."""
SPEC = """\
name: bench
description: Rows to compare.
system_prompt: {prompt}
output: {{kind: text}}
data: {{raw: [raw/*.jsonl], benchmarks: [asked.jsonl], contradictions: warn}}
compute: {{data: {place}}}
training: {{ray: {{address: '{address}'}}}}
"""


@pytest.mark.ray
def test_the_same_rows_are_kept_in_the_same_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    raw = tmp_path / "bench/raw/a.jsonl"
    raw.parent.mkdir(parents=True)
    write_chat_rows(raw, ROWS)
    first = json.loads(raw.open().readline())["messages"]
    question = next(turn["content"] for turn in first if turn["role"] == "user")
    (tmp_path / "bench/asked.jsonl").write_text(json.dumps({"question": question}) + "\n")
    key = ArtifactStore(tmp_path / "local").root / "scrubbing.key"
    results: dict[str, dict[str, Any]] = {}
    with local_cluster(cpus=2) as cluster:
        for place in ("local", "ray"):
            spec = SPEC.format(prompt=json.dumps(SYSTEM_PROMPT), place=place, address=cluster.address)
            (tmp_path / "bench/task.yaml").write_text(spec)
            task, store = load_task(tmp_path / "bench"), ArtifactStore(tmp_path / place)
            if place == "ray":
                store.root.mkdir()
                (store.root / "scrubbing.key").write_bytes(key.read_bytes())
                (store.root / "scrubbing.key").chmod(0o600)
            results[place] = PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)
    results["local"].pop("production_logs")
    for name, local in results["local"].items():
        remote = results["ray"][name]
        assert remote.version == local.version and remote.facts == local.facts, name
        files = {p.relative_to(local.folder): p for p in local.folder.rglob("*") if p.is_file()}
        assert {p.relative_to(remote.folder) for p in remote.folder.rglob("*") if p.is_file()} == set(files), name
        if name != "splits":  # the sealed test has a nonce
            for file, path in files.items():
                if file.name != "artifact.json":
                    assert (remote.folder / file).read_bytes() == path.read_bytes(), (name, file)
    facts = results["ray"]["clean_examples"].facts
    assert facts["near_duplicates"] > 50 and facts["exact_duplicates"] > 50 and facts["benchmark_rows"] > 0
    assert not list((tmp_path / "ray/storage").glob("bench-*")), "rows do not stay behind"
