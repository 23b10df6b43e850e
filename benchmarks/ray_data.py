"""The data stage on this machine and on a Ray cluster: equal artifacts, and seconds of each.

    python benchmarks/ray_data.py [--rows 100000 1000000]

Rows are made by chat_rows.py (fixed seed, planted duplicates and broken lines). The cluster is started
on this machine, so both use the same cores and the difference is the cluster's overhead. Exit code 1 if any file of
validated_examples or clean_examples differs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.chat_rows import SYSTEM_PROMPT, write_chat_rows
from finetune_pipeline_tests.ray_cluster import local_cluster

COMPARED = ("validated_examples", "clean_examples")
SPEC = """\
name: bench
description: Generated rows for measuring.
system_prompt: {prompt}
output: {{kind: text}}
data: {{raw: [raw/*.jsonl], contradictions: warn}}
compute: {{data: {place}}}
training: {{ray: {{address: '{address}'}}}}
"""


def run(folder: Path, place: str, address: str) -> tuple[dict[str, Artifact], dict[str, float]]:
    """Run the compared steps. Returns the artifact and the seconds of each."""
    (folder / "bench/task.yaml").write_text(SPEC.format(prompt=json.dumps(SYSTEM_PROMPT), place=place, address=address))
    task, store = load_task(folder / "bench"), ArtifactStore(folder / place)
    key = folder / "local" / "scrubbing.key"
    if place == "ray":
        store.root.mkdir(exist_ok=True)
        (store.root / key.name).write_bytes(key.read_bytes())
        (store.root / key.name).chmod(0o600)
    run_inputs, artifacts, seconds = collect_run_inputs(task, None, store), {}, {}
    for name in ("production_logs", "raw_examples", *COMPARED):
        began = time.perf_counter()
        artifacts[name] = PIPELINE.run(name, task, run_inputs, store)
        seconds[name] = time.perf_counter() - began
    return artifacts, seconds


def digests(artifact: Artifact) -> dict[str, str]:
    """Digest of every file except the manifest, which holds times."""
    files = (p for p in artifact.folder.rglob("*") if p.is_file() and p.name != "artifact.json")
    return {p.relative_to(artifact.folder).as_posix(): digest_file(p) for p in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments, differ = parser.parse_args(), False
    with tempfile.TemporaryDirectory(prefix="ray-data-") as home:
        os.environ["FINETUNE_HOME"] = home
        with local_cluster() as cluster:
            print(f"{os.cpu_count()} cores\n{'rows':>9} {'step':20} {'local, s':>9} {'Ray, s':>9}  files")
            for rows in arguments.rows:
                folder = Path(home) / str(rows)
                (folder / "bench/raw").mkdir(parents=True)
                write_chat_rows(folder / "bench/raw/a.jsonl", rows)
                local, local_seconds = run(folder, "local", cluster.address)
                ray, ray_seconds = run(folder, "ray", cluster.address)
                for name in COMPARED:
                    same = digests(local[name]) == digests(ray[name]) and local[name].facts == ray[name].facts
                    differ |= not same
                    seconds = f"{local_seconds[name]:9.1f} {ray_seconds[name]:9.1f}"
                    print(f"{rows:9} {name:20} {seconds}  {'same' if same else 'DIFFERENT'}")
                facts = ray["clean_examples"].facts
                print(
                    f"{'':9} kept {facts['kept']}, near-duplicates {facts['near_duplicates']}, {facts['clusters']} clusters"
                )
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
