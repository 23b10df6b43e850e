"""Planned memory of training against the peak of real trainings, each in its own process.

    python benchmarks/plan_against_measured.py --splits FOLDER [--base FOLDER] [--only NAME,...] [--rows 200]

Every configuration is planned by planning.planner.Planner, as `finetune plan` does, and then trained for one epoch on a few
rows of a task by the job that the graph runs. Measured is the process's largest resident size (ru_maxrss). `long` rows
consist of three tickets each. Exit code 1 if a plan is off by more than 15%.
"""

import argparse
import datetime
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_tasks import make_base, run_job
from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.worker.jobs import train_job

LIMIT = 0.15
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "qlora bf16, batches of 8": {"method": "qlora", "precision": "bfloat16"},
    "qlora f32, batches of 4": {"method": "qlora", "precision": "float32", "micro_batch_size": 4},
    "lora bf16, batches of 8": {"method": "lora", "precision": "bfloat16"},
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
    """The first rows of a split. long: each gets the texts of three."""
    examples = read_examples(path)
    if long:
        for i, example in enumerate(examples[:number]):
            others = [examples[(i + k) % len(examples)].messages[1]["content"] for k in (1, 2)]
            example.messages[1]["content"] = "\n".join([example.messages[1]["content"], *others])
    return examples[:number]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=Path, required=True, help="folder of a `splits` artifact")
    parser.add_argument("--base", default="bundled/smollm2-135m-instruct")
    parser.add_argument("--only", default="", help="parts of configuration names, separated by commas")
    parser.add_argument("--rows", type=int, default=200)
    arguments = parser.parse_args()
    parts = [part for part in arguments.only.split(",") if part]
    worst = 0.0
    print(f"{datetime.date.today()}, {arguments.base}, {arguments.rows} training rows, one thread, CPU")
    print(
        f"{'configuration':38} {'planned':>9} {'measured':>9} {'off':>7}   largest batch (tokens), parts planned in MiB"
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = make_base(Path(scratch), base_model=arguments.base)
        for number, (name, configuration) in enumerate(CONFIGURATIONS.items()):
            if parts and not any(part in name for part in parts):
                continue
            settings = TrainingSpec.model_validate({**configuration, "epochs": 1, "evals_per_epoch": 1}).model_dump()
            settings["unquantized_epochs"] = 0.0
            folder = Path(scratch) / str(number)
            folder.mkdir()
            split = {
                which: rows(examples_of(arguments.splits, which), n, "long" in name)
                for which, n in (("train", arguments.rows), ("validation", 8))
            }
            for which, examples in split.items():
                write_examples(folder / f"{which}.jsonl", examples)
            planner = Planner(base, split["train"], split["validation"])
            memory, tokens = planner.memory(settings), max(b.tokens for b in planner.batches("train", settings))
            job = train_job(
                base=base,
                train=folder / "train.jsonl",
                validation=folder / "validation.jsonl",
                settings=settings,
                out=folder / "out",
                work=folder / "work",
            )
            measured = run_job(job, folder)["peak_memory_mib"]
            planned = memory.total / 2**20
            off = planned / measured - 1
            worst = max(worst, abs(off))
            terms = ", ".join(f"{k} {v / 2**20:.0f}" for k, v in asdict(memory).items() if v)
            print(f"{name:38} {planned:>9.0f} {measured:>9.0f} {off:>+7.1%}   {tokens}: {terms}", flush=True)
    print(f"furthest off: {worst:.1%}, allowed {LIMIT:.0%}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
