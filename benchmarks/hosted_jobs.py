"""Random schedules of kills and failing servers for hosted trainers: how many jobs are bought for one order.

    python -m benchmarks.hosted_jobs [--trainers openai,together] [--schedules 100] [--seed 0]

A schedule: processes train until one has the result. The server (of `finetune_pipeline_tests`, on this machine) kills up to
three of them while it handles their requests, most often the one that buys, and up to five requests go wrong: refused with
503 or 429, connection reset, done and then 503, a reset or a web page instead of the answer, done or begun only when nobody
waits any more. The control does the same to a program without a ledger: the SDK with its own retries, run until it works.
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
from finetune_pipeline_tests.service_server import FAULTS, KEY, serving
from finetune_pipeline_tests.unit.trainers.orders import make_base, make_rows


def control(seed: int) -> int:
    """Jobs bought by the SDK's own retries, started again until it works; no process is killed."""
    dice, server = random.Random(seed), OpenAiJobsServer()
    faults = dice.randint(0, 5)

    def fault(request: object) -> str | None:
        nonlocal faults
        if faults and dice.random() < 0.7:
            faults -= 1
            return dice.choice(FAULTS)
        return None

    file = server.add_file("rows.jsonl", b"{}")
    server.fault = fault
    with serving(server):
        client = OpenAI(base_url=server.url, api_key=KEY, timeout=0.4)
        for _ in range(10):
            with contextlib.suppress(OpenAIError, AttributeError):
                if client.fine_tuning.jobs.create(model="org/tiny", training_file=file).id:
                    break
    return len(server.jobs)


def report(trainer: str, outcomes: list[Outcome]) -> list[str]:
    """Lines about the schedules of a trainer."""
    exactly = sum(o.jobs == 1 and o.done for o in outcomes)
    faults = Counter(name.split(":")[0] for o in outcomes for name in o.faults)
    bought = sum(o.jobs for o in outcomes)
    lines = [
        f"{trainer}: {exactly} of {len(outcomes)} schedules ended with the result and exactly one job ({bought} jobs in all)",
        f"  {sum(o.kills for o in outcomes)} kills, {sum(o.runs for o in outcomes)} processes, "
        f"{sum(faults.values())} faults: {', '.join(f'{n} {name}' for name, n in sorted(faults.items()))}",
    ]
    wrong = [o for o in outcomes if o.jobs != 1 or not o.done]
    return [*lines, *(f"  WRONG: {o}" for o in wrong)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainers", default="openai,together")
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        "Hosted training: jobs bought for one order, over random schedules of kills and failing servers.",
        f"python -m benchmarks.hosted_jobs, {today}, {len(seeds)} schedules a trainer from seed {arguments.seed}; the real "
        "SDKs, servers on this machine.",
        "",
    ]
    good = True
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder) / "rows")
        make_base(rows)
        context = processes()
        for trainer in arguments.trainers.split(","):
            outcomes = []
            for seed in seeds:
                outcomes.append(run_schedule(trainer, seed, rows, Path(folder) / trainer / str(seed), context))
                print(outcomes[-1], flush=True)
            lines += report(trainer, outcomes)
            good &= all(o.jobs == 1 and o.done for o in outcomes)
    counts = [control(seed) for seed in seeds]
    more = sum(n > 1 for n in counts)
    more, most = sum(n > 1 for n in counts), max(counts)
    lines.append(
        f"control (the SDK's retries, no kills): {more} of {len(counts)} schedules bought more than one job, at most {most}"
    )
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / f"{today}-hosted-jobs.txt").write_text(text, "utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
