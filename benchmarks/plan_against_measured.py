"""The plan's memory formula against the peak of real trainings, each in a process of its own.

    python benchmarks/plan_against_measured.py [--base FOLDER] [--only NAME,...]

Every configuration is planned by planning.planner.Planner, as `finetune plan` does, and then trained for one epoch of a
few rows of ticket_triage by the job the graph runs; measured is the process's largest resident size (ru_maxrss). `long`
rows are made of three tickets each. Exits with 1 if a formula is off by more than 15%.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.worker.jobs import base_job, train_job

LIMIT = 0.15
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "qlora bf16, batches of 8": {"method": "qlora", "precision": "bfloat16"},
    "qlora f32, batches of 4": {"method": "qlora", "precision": "float32", "micro_batch_size": 4},
    "lora f32, batches of 8": {"method": "lora", "precision": "float32"},
    "lora bf16, padded, long": {"method": "lora", "precision": "bfloat16", "shared_prefix": False, "micro_batch_size": 4},
    "lora bf16, checkpointing, long": {"method": "lora", "precision": "bfloat16", "gradient_checkpointing": True},
    "full bf16, batches of 4": {"method": "full", "precision": "bfloat16", "micro_batch_size": 4},
    "full f32, batches of 2, checkpointing": {
        "method": "full", "precision": "float32", "micro_batch_size": 2, "gradient_checkpointing": True,
    },
    "prompt bf16, long": {"method": "prompt", "precision": "bfloat16"},
    "prefix f32, batches of 8": {"method": "prefix", "precision": "float32"},
}  # fmt: skip


def rows(path: Path, number: int, long: bool) -> list[Example]:
    """The first rows of a split; long: each with the texts of three."""
    found = read_examples(path)
    if long:
        for i, example in enumerate(found[:number]):
            others = [found[(i + k) % len(found)].messages[1]["content"] for k in (1, 2)]
            example.messages[1]["content"] = "\n".join([example.messages[1]["content"], *others])
    return found[:number]


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do a job in a child process; its measured.json."""
    write_json(folder / "job.json", job)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "finetune_pipeline.worker.entry", str(folder / "job.json")]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return dict(read_json(Path(job["out"]) / "measured.json"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=Path, required=True, help="folder of a `splits` artifact of ticket_triage")
    parser.add_argument("--base", default="bundled/smollm2-135m-instruct")
    parser.add_argument("--only", default="", help="names of configurations that contain one of these, by comma")
    parser.add_argument("--rows", type=int, default=48)
    a = parser.parse_args()
    wanted = [w for w in a.only.split(",") if w]
    worst = 0.0
    print(f"{datetime.date.today()}, {a.base}, {a.rows} training rows, one thread, CPU")
    print(
        f"{'configuration':38} {'planned':>9} {'measured':>9} {'off':>7}   largest batch (tokens), parts planned in MiB"
    )
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        base = place / "base"
        base.mkdir()
        run(base_job(base_model=a.base, revision=None, out=base), base)
        for number, (name, settings) in enumerate(CONFIGURATIONS.items()):
            if wanted and not any(w in name for w in wanted):
                continue
            told = TrainingSpec.model_validate({**settings, "epochs": 1, "evals_per_epoch": 1}).model_dump()
            told["unquantized_epochs"] = 0.0
            folder = place / str(number)
            folder.mkdir()
            split = {
                which: rows(examples_of(a.splits, which), n, "long" in name)
                for which, n in (("train", a.rows), ("validation", 8))
            }
            for which, examples in split.items():
                write_examples(folder / f"{which}.jsonl", examples)
            planner = Planner(base, split["train"], split["validation"])
            memory, tokens = planner.memory(told), max(batch.tokens for batch in planner.batches("train", told))
            measured = run(
                train_job(
                    base=base,
                    train=folder / "train.jsonl",
                    validation=folder / "validation.jsonl",
                    settings=told,
                    out=folder / "out",
                    work=folder / "work",
                ),
                folder,
            )["peak_memory_mib"]
            planned = memory.total / 2**20
            off = planned / measured - 1
            worst = max(worst, abs(off))
            parts = ", ".join(f"{k} {v / 2**20:.0f}" for k, v in asdict(memory).items() if v)
            print(f"{name:38} {planned:>9.0f} {measured:>9.0f} {off:>+7.1%}   {tokens}: {parts}", flush=True)
    print(f"furthest off: {worst:.1%}, allowed {LIMIT:.0%}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
