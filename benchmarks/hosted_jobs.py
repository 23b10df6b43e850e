"""How many jobs a hosted trainer buys for one order, under random kills and server failures.

    python -m benchmarks.hosted_jobs [--trainers openai,together] [--schedules 100] [--seed 0]
                                     [--out benchmarks/results/DATE-hosted-jobs.txt]

In a schedule, processes train until one has the result. The server (of `finetune_pipeline_tests`, on this machine) kills up
to three of them while it handles their requests, most often the one that buys, and fails up to five requests: it refuses with
503 or 429, resets the connection, does the work and then answers 503, a reset or a web page, or works only after the client
has given up. The control is a program without a ledger under the same failures: the SDK with its own retries, started until
it works.
"""

import argparse
import contextlib
import datetime
import random
import tempfile
from collections import Counter
from pathlib import Path

from openai import OpenAI, OpenAIError

from finetune_pipeline_tests.hosted_schedules import Outcome, processes, run_schedule
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import FAULTS, KEY
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.trainers.orders import make_rows


def jobs_of_control(seed: int) -> int:
    """Jobs bought by the SDK's own retries, started again until it works. No process is killed."""
    rng, server = random.Random(seed), OpenAiJobsServer()
    faults = rng.randint(0, 5)

    def fault(request: object) -> str | None:
        nonlocal faults
        if faults and rng.random() < 0.7:
            faults -= 1
            return rng.choice(FAULTS)
        return None

    file = server.add_file("rows.jsonl", b"{}")
    server.fault = fault
    with server:
        client = OpenAI(base_url=server.url, api_key=KEY, timeout=0.4)
        for _ in range(10):
            with contextlib.suppress(OpenAIError, AttributeError):
                if client.fine_tuning.jobs.create(model="org/tiny", training_file=file).id:
                    break
    return len(server.jobs)


def is_right(outcome: Outcome) -> bool:
    return outcome.jobs == 1 and outcome.done


def report(trainer: str, outcomes: list[Outcome]) -> list[str]:
    """Summarize the schedules of a trainer."""
    right, jobs = sum(map(is_right, outcomes)), sum(o.jobs for o in outcomes)
    faults = Counter(name.split(":")[0] for o in outcomes for name in o.faults)
    lines = [
        f"{trainer}: {right} of {len(outcomes)} schedules ended with the result and exactly one job ({jobs} jobs in all)",
        f"  {sum(o.kills for o in outcomes)} kills, {sum(o.runs for o in outcomes)} processes, "
        f"{sum(faults.values())} faults: {', '.join(f'{n} {name}' for name, n in sorted(faults.items()))}",
    ]
    return [*lines, *(f"  WRONG: {o}" for o in outcomes if not is_right(o))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", default="openai,together")
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    lines = [
        "Hosted training: jobs bought for one order, over random schedules of kills and failing servers.",
        f"python -m benchmarks.hosted_jobs, {datetime.date.today()}, {len(seeds)} schedules a trainer from seed "
        f"{arguments.seed}; the real SDKs, servers on this machine.",
        "",
    ]
    all_right = True
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder) / "rows")
        make_tiny_model(rows / "base")
        context = processes()
        for trainer in arguments.trainers.split(","):
            outcomes = []
            for seed in seeds:
                outcomes.append(run_schedule(trainer, seed, rows, Path(folder) / trainer / str(seed), context))
                print(outcomes[-1], flush=True)
            lines += report(trainer, outcomes)
            all_right &= all(map(is_right, outcomes))
    counts = [jobs_of_control(seed) for seed in seeds]
    lines.append(
        f"control (the SDK's retries, no kills): {sum(n > 1 for n in counts)} of {len(counts)} schedules bought more than one "
        f"job, at most {max(counts)}"
    )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")
    return 0 if all_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
