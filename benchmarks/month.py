"""A month of one task in minutes: serving, feedback, drift, automatic retraining, a refused candidate, a rollback.

    python benchmarks/month.py FOLDER [PICTURE.svg]

Everything is the product's own: `finetune run`, `finetune automate --on`, `finetune serve`, a real `dagster dev`. This
script only plays the outside world: it sends requests, labels answers and plants two faults. A day is a block of 60
requests; the times in the logs are real. Afterwards the timeline is read from Dagster's history, MLflow and the artifact
store. FOLDER must be empty. Exit code 1 if an expected event did not happen.

Measures: finetune_pipeline/production, finetune_pipeline/orchestration.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.month_history import DriftLook, read_champion_checks, read_drift_looks, read_runs
from benchmarks.month_report import report
from benchmarks.month_world import (
    BAD_TRAINING,
    DAYS,
    LABELLED_SHARE,
    RARE_SHARE_AFTER,
    RARE_SHARE_BEFORE,
    REQUESTS_PER_DAY,
    SENSORS,
    SHIFT_DAY,
    TASK,
    USERS,
    draw_question,
    make_project,
)
from finetune_pipeline.cli.output import apply_environment
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.dagster_dev import ROOT, dagster_dev
from finetune_pipeline_tests.graph.project import Project

MAX_POLLS, POLL_SECONDS = 900, 2
"""Half an hour for each event that must happen without the script; longer on a machine that is busy or asleep."""
BAD_CANDIDATE_DAY, BAD_CHAMPION_DAY = 22, 24
"""Days of the planted faults, or as soon afterwards as the first candidate is decided."""


class OutsideWorld:
    """Users, the people who label answers, and the clock."""

    def __init__(self, project: Project, port: int) -> None:
        self.project, self.port, self.rng, self.day = project, port, random.Random(1), 0
        self.requests = self.labelled = 0
        self.tracking = Tracking()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return dict(json.load(response))

    def play_day(self) -> None:
        """Send a day's requests. Most answers get the right label as feedback; wrong ones are flagged too."""
        self.day += 1
        correct = 0
        for _ in range(REQUESTS_PER_DAY):
            text, label = draw_question(self.rng, RARE_SHARE_BEFORE if self.day < SHIFT_DAY else RARE_SHARE_AFTER)
            user = f"u{self.rng.randrange(USERS)}"
            response = self.post(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "user": user}
            )
            answer = response["choices"][0]["message"]["content"]
            correct += answer == label
            self.requests += 1
            if self.rng.random() < LABELLED_SHARE:
                feedback = {"id": response["id"], "label": label}
                self.labelled += 1
                self.post("/feedback", feedback if answer == label else {**feedback, "flag": "wrong"})
        log(f"day {self.day}: {response['model']} had {correct} of {REQUESTS_PER_DAY} right")

    def aliases(self) -> dict[str, int]:
        return registry.aliases(self.tracking, TASK)

    def wait(self, event: str, condition: Callable[[], Any]) -> bool:
        """Whether the event happened in time."""
        for _ in range(MAX_POLLS):
            if condition():
                return True
            time.sleep(POLL_SECONDS)
        log(f"did not happen within {POLL_SECONDS * MAX_POLLS} s: {event}")
        return False

    def drift_looks(self) -> list[DriftLook]:
        """Drift reports that judged a window."""
        return [look for look in read_drift_looks(Store().artifacts()) if look.windows]

    def model_versions(self) -> list[Path]:
        """Manifests of the registered candidates."""
        return list((self.project.home / "artifacts" / TASK / "model_version").glob("*/artifact.json"))


def log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextlib.contextmanager
def serve(project: Project, folder: Path) -> Iterator[int]:
    """`finetune serve` on a free port; yields the port."""
    command = project.command("serve", TASK, "--port", "0")
    with (folder / "serve.log").open("w") as log_file:
        process = subprocess.Popen(
            command,
            env=project.environment(),
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        first_line = process.stdout.readline()
        if "http://127.0.0.1:" not in first_line:
            raise RuntimeError(f"finetune serve did not start: {first_line}{(folder / 'serve.log').read_text()}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield int(first_line.split("http://127.0.0.1:")[1].split("/")[0])
        finally:
            process.terminate()
            process.wait(60)


def sensor_started_run() -> bool:
    return any(run.is_whole and run.trigger in SENSORS for run in read_runs())


def champion_check_recovered() -> bool:
    """Whether the check of the champion failed, and passes again."""
    passed = [check.passed for check in read_champion_checks()]
    return not all(passed) and passed[-1]


def finetune(project: Project, *arguments: str) -> int:
    """Run a command of the product; print the end of its output if it failed."""
    done = project.finetune(*arguments, timeout=3600)
    log(f"finetune {' '.join(arguments)}: exit code {done.returncode}")
    if done.returncode == 1:
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode


def play_month(world: OutsideWorld, planted: dict[str, Any]) -> None:
    """Play all days.

    Args:
        world: What to play.
        planted: Gets what no store knows: {requests, labelled, bad_candidate, bad_champion}.
    """
    while world.day < DAYS:
        world.play_day()
        planted |= {"requests": world.requests, "labelled": world.labelled}
        versions = len(world.model_versions())
        if world.day == SHIFT_DAY - 1:
            world.wait("a drift report before the shift", world.drift_looks)
        elif world.day == SHIFT_DAY + 4:
            world.wait("a run started by a sensor", sensor_started_run)
        elif SHIFT_DAY + 5 <= world.day < BAD_CANDIDATE_DAY - 3 and versions == 1:
            time.sleep(8)  # the retraining goes on meanwhile, and does not know these rows
        elif world.day == BAD_CANDIDATE_DAY - 3:
            world.wait("a candidate of the automatic retraining", lambda: len(world.model_versions()) > 1)
            time.sleep(5)  # the server polls the registry every two seconds
        if world.day == BAD_CANDIDATE_DAY - 1:
            world.wait(
                "a drift report against the new training data",
                lambda: len({look.trained_on for look in world.drift_looks()}) > 1,
            )
            planted["bad_candidate"] = plant_candidate(world)
        if world.day == BAD_CHAMPION_DAY - 1 and "bad_candidate" in planted:
            planted["bad_champion"] = plant_champion(world, planted["bad_candidate"]["version"])
        if world.day == BAD_CHAMPION_DAY and "bad_champion" in planted:
            good = planted["bad_champion"]["good"]
            world.wait("the rollback", lambda good=good: world.aliases()[registry.CHAMPION] == good)
            world.wait("the champion's check fails and passes again", champion_check_recovered)
    world.wait("a last drift report and its decision", lambda: is_of_month_end(world.drift_looks()[-1]))


def is_of_month_end(look: DriftLook) -> bool:
    """Whether a drift report covers the end of the month, and has led to a decision."""
    return look.rows > (DAYS - 2) * REQUESTS_PER_DAY and bool(look.decision)


def plant_candidate(world: OutsideWorld) -> dict[str, Any]:
    """Run once with a typing error in task.yaml: a learning rate that teaches nothing."""
    project = world.project
    good_training = dict(project.spec["training"])
    before = set(world.model_versions())
    started = time.time()
    project.write_spec(training={**good_training, **BAD_TRAINING})
    code = finetune(project, "run", TASK)
    project.write_spec(training=good_training)
    new = [json.loads(path.read_text()) for path in world.model_versions() if path not in before]
    version = new[-1]["facts"]["model_version"] if new else None
    return {"day": world.day, "time": started, "code": code, "version": version}


def plant_champion(world: OutsideWorld, version: int | None) -> dict[str, Any]:
    """Move the aliases in MLflow by hand, past the gates, so that the refused candidate serves."""
    good = world.aliases()[registry.CHAMPION]
    client = world.tracking.client()
    client.set_registered_model_alias(TASK, registry.PREVIOUS, str(good))
    client.set_registered_model_alias(TASK, registry.CHAMPION, str(version))
    planted = {"day": world.day, "time": time.time(), "version": version, "good": good}
    log(f"planted: champion {version} by hand, before it {good}")
    time.sleep(5)
    return planted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty or new folder")
    parser.add_argument("picture", type=Path, nargs="?", help="default: FOLDER/month.svg")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    project = make_project(folder)
    os.environ.update(project.environment())
    apply_environment()
    began = time.monotonic()
    if finetune(project, "run", TASK):
        print("the first candidate was not promoted: there is nothing to serve", file=sys.stderr)
        return 1
    finetune(project, "automate", TASK, "--on")
    planted: dict[str, Any] = {}
    with serve(project, folder) as port, dagster_dev(folder / "dev.log", os.environ, cwd=ROOT):
        try:
            play_month(OutsideWorld(project, port), planted)
        except KeyboardInterrupt:
            log("interrupted before the month was over")
    (folder / "planted.json").write_text(json.dumps(planted))
    log(f"played in {time.monotonic() - began:.0f} s")
    return report(project, planted, arguments.picture or folder / "month.svg")


if __name__ == "__main__":
    sys.exit(main())
