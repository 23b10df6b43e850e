"""How much longer the champion's clients wait while a second model answers behind it, and what kills of a rollout's server lose.

    python benchmarks/shadow_load.py latency --home HOME       # a home in which order_intake was run
    python benchmarks/shadow_load.py kills --work DIR [--kills 100]

`latency`: two servers of the fine-tuned demo model, one of them with the same model behind it, answer the same rows in turn, in
blocks, each request a moment after the last answer, so that the second model is always at work. `kills`: a small project whose
second version takes over from the first. Its server is killed with SIGKILL at random moments while clients ask, and between
them `finetune rollout --step`, which moves the registry. Every answer that a client got must be in the log exactly once, no
second model may be left, and the rollout must come to its end.

Measures: finetune_pipeline/serving/shadow.py, finetune_pipeline/serving/service.py, finetune_pipeline/tracking/rollouts.py.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.serving.shadow import Shadow
from finetune_pipeline.spec import load_task
from finetune_pipeline.tracking import registry, rollouts
from finetune_pipeline_tests.graph.project import LORA, Project, easy_rows
from finetune_pipeline_tests.graph.test_rollout import later_rows
from finetune_pipeline_tests.graph.test_shipped_kinds import FORCED

ROOT = Path(__file__).resolve().parents[1]
WAIT = 0.2
"""Seconds between an answer and the next request."""


def ask(port: int, text: str) -> str:
    """Ask a server, and return the id of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"messages": [{"role": "user", "content": text}]})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["id"])


def latency(home: Path, blocks: int, rows: int) -> None:
    """Print the champion's latency without and with a second model behind it, by pairs of the same rows."""
    task = load_task(ROOT / "data" / "order_intake")
    folder = max(home.glob("artifacts/order_intake/merged_model/*/model"), key=lambda path: path.stat().st_mtime)
    texts = [json.loads(line)["prompt"] for line in (task.folder / "raw" / "handwritten_test.jsonl").open()]

    def served(number: int) -> ServedModel:
        return ServedModel(f"order_intake:{number}", folder, None, task.spec.system_prompt, task.spec.answer_length)

    seconds: dict[str, list[float]] = {"alone": [], "with shadow": []}
    with tempfile.TemporaryDirectory() as temporary:
        writer = LogWriter(Path(temporary))
        shadow = Shadow(served(2), writer.write, print)
        alone = Service(task, lambda: served(1), writer)
        both = Service(task, lambda: served(1), writer, shadow=shadow)
        with LocalServer(chat_app(alone)) as first, LocalServer(chat_app(both)) as second:
            for block in range(blocks):
                servers = [("alone", first), ("with shadow", second)]
                for name, server in servers if block % 2 else servers[::-1]:
                    while name == "alone" and shadow.facts()["waiting"]:
                        time.sleep(0.1)  # it has caught up
                    for i in range(rows):
                        time.sleep(WAIT)
                        began = time.perf_counter()
                        ask(server.port, texts[(block * rows + i) % len(texts)])
                        seconds[name].append(time.perf_counter() - began)
            facts = shadow.facts()
        alone.close()
        both.close()
    print(f"{blocks} blocks of {rows} rows each way; the second model: {facts}")
    pairs = np.array(seconds["with shadow"]) / np.array(seconds["alone"])
    for name, values in seconds.items():
        median, late = np.quantile(values, [0.5, 0.95])
        print(f"{name:<12} median {median:.3f} s, 95% {late:.3f} s")
    low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75])
    print(f"ratio of the same row: median {middle:.3f}, quartiles {low:.3f} and {high:.3f}")


def rolled_out(work: Path) -> Project:
    """Return a project whose version 2 is to take over from version 1."""
    logs = {"judging_share": 0.0, "max_family_share": 1.0, "settle_seconds": 0, "sample_share": 0.0}
    rollout = {"shadow_rows": 1000, "share": [10, 50], "share_rows": 150, "margin": 0.2}
    split = {"validation": 0.2, "test": 0.3}
    project = Project(
        work, training=LORA, gates=FORCED, logs=logs, split=split, rollout=rollout, drift={"feedback_days": 0}
    )
    project.write_rows(easy_rows(400))
    assert project.run()[0] == 0
    project.write_rows(later_rows(400), "b.jsonl")
    assert project.run()[0] == 0 and rollouts.present(project.tracking, "colours")
    project.cold = True  # each command is a process of its own, which a kill ends
    return project


def kills(work: Path, number: int, seed: int) -> None:
    """Kill server and steps of a rollout, and print what was lost."""
    project, rng = rolled_out(work), random.Random(seed)
    told, killed_steps, seen, run = set[str](), 0, Counter[str](), os.getpid()
    environment = {**project.environment(), "PYTHONUNBUFFERED": "1"}
    for kill in range(number):
        if kill % 3 == 2:
            command = project.command("rollout", "colours", "--step")
            step = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                step.wait(rng.uniform(1, 8))
            step.kill()
            killed_steps += step.wait() == -signal.SIGKILL
        command = project.command("serve", "colours", "--port", "0")
        with (work / "server.txt").open("w") as said:
            server = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=said)
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
        assert address, f"the server did not start: {(work / 'server.txt').read_text()[-2000:]}"
        moment = time.monotonic() + rng.uniform(0.2, 2.5)
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError, KeyError):
            while time.monotonic() < moment:
                told.add(ask(int(address[1]), f"stone fire {rng.random()} {run}"))
                time.sleep(0.02)
        server.kill()
        server.wait()
        rollout = rollouts.present(project.tracking, "colours")
        seen[rollout.alias if rollout else "champion"] += 1
        assert registry.champion(project.tracking, "colours") in (1, 2)
    for _ in range(4):
        project.finetune("rollout", "colours", "--step")
    time.sleep(3)
    lines = (project.folder / "logs" / "served.jsonl").read_text().splitlines()
    rows, broken = [], 0
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            broken += 1
    logged = Counter(row["id"] for row in rows if "output" in row)
    behind = Counter(row["id"] for row in rows if "shadow" in row)
    left = [process.pid for process in psutil.process_iter(["cmdline"]) if "spawn_main" in str(process.info["cmdline"])]
    print(f"{number} kills of the server, {killed_steps} of a step; stages at the kills: {dict(seen)}")
    print(f"answers told to clients {len(told)}, of them not in the log {len(told - logged.keys())}, "
          f"twice {sum(n > 1 for n in logged.values())}; lines cut off {broken}")  # fmt: skip
    print(f"second answers {len(behind)}, twice {sum(n > 1 for n in behind.values())}")
    print(f"aliases at the end {registry.aliases(project.tracking, 'colours')}; second models left {len(left)}")
    print(
        f"the next run of the data stage ends with {project.finetune('run', 'colours', '--stage', 'data').returncode}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["latency", "kills"])
    parser.add_argument("--home", type=Path, default=ROOT / ".finetune")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "latency":
        latency(options.home, options.blocks, options.rows)
    else:
        assert options.work is not None, "give --work, an empty folder"
        kills(options.work, options.kills, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
