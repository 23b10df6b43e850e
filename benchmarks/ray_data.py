"""The data stage here and on a Ray cluster: the same artifacts, and how long each takes.

    python benchmarks/ray_data.py --rows 100000 1000000

Rows are made by benchmarks/chat_rows.py (seed fixed, planted duplicates and broken lines). The cluster is one of
`finetune cluster up` on this machine, so that both use the same cores: the difference is what the cluster costs. Exits
with 1 if any file of validated_examples or clean_examples differs.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from chat_rows import SYSTEM_PROMPT, write_chat_rows

from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.trainers.ray_cluster import start_cluster, stop_cluster

COMPARED = ("validated_examples", "clean_examples")
SPEC = """\
name: bench
description: Generated rows for measuring.
system_prompt: {prompt}
output: {{kind: text}}
data: {{raw: [raw/*.jsonl], contradictions: warn}}
compute: {{data: {place}}}
"""


def run(folder: Path, place: str) -> tuple[dict[str, Artifact], dict[str, float]]:
    """The artifacts of the compared steps, and the seconds of each."""
    (folder / "bench/task.yaml").write_text(SPEC.format(prompt=json.dumps(SYSTEM_PROMPT), place=place))
    task, store = load_task(folder / "bench"), ArtifactStore(folder / place)
    key = folder / "local" / "scrubbing.key"
    if place == "ray":
        store.root.mkdir(exist_ok=True)
        (store.root / key.name).write_bytes(key.read_bytes())
        (store.root / key.name).chmod(0o600)
    world, artifacts, seconds = collect_run_inputs(task, None, store), {}, {}
    for name in ("production_logs", "raw_examples", *COMPARED):
        began = time.perf_counter()
        artifacts[name] = PIPELINE.run(name, task, world, store)
        seconds[name] = time.perf_counter() - began
    return artifacts, seconds


def digests(artifact: Artifact) -> dict[str, str]:
    """The digest of every file but the manifest, which holds times."""
    files = (p for p in artifact.folder.rglob("*") if p.is_file() and p.name != "artifact.json")
    return {p.relative_to(artifact.folder).as_posix(): digest_file(p) for p in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    given, differ = parser.parse_args(), False
    with tempfile.TemporaryDirectory(prefix="ray-data-") as home:
        os.environ["FINETUNE_HOME"] = home
        start_cluster(Path(home))
        try:
            print(f"{os.cpu_count()} cores\n{'rows':>9} {'step':20} {'here, s':>9} {'Ray, s':>9}  files")
            for rows in given.rows:
                folder = Path(home) / str(rows)
                (folder / "bench/raw").mkdir(parents=True)
                write_chat_rows(folder / "bench/raw/a.jsonl", rows)
                (here, local), (there, ray) = run(folder, "local"), run(folder, "ray")
                for name in COMPARED:
                    same = digests(here[name]) == digests(there[name]) and here[name].facts == there[name].facts
                    differ |= not same
                    print(f"{rows:9} {name:20} {local[name]:9.1f} {ray[name]:9.1f}  {'same' if same else 'DIFFERENT'}")
                facts = there["clean_examples"].facts
                print(
                    f"{'':9} kept {facts['kept']}, near-duplicates {facts['near_duplicates']}, {facts['clusters']} clusters"
                )
        finally:
            stop_cluster(Path(home))
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
