"""A month of one task in minutes: served, judged by people, drifted, trained again by itself, refused, rolled back.

    python benchmarks/month.py FOLDER [PICTURE.svg]

Everything is the product's own: `finetune run`, `finetune automate --on`, `finetune serve`, a real `dagster dev`. The play
does only what the world outside does: it asks, says what was right, and plants two faults. A day is a block of 60 requests;
the times in the logs are real. The timeline is read from Dagster's history, MLflow and the artifact store afterwards.
FOLDER must be empty. What did not happen is told, and the exit code is 1.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from month_story import Look, read_checks, read_looks, read_runs
from month_world import A_DAY, AFTER, BAD, BEFORE, DAYS, LABELLED, SENSORS, SHIFT, TASK, USERS, make_project, question

from finetune_pipeline.cli.output import apply_environment
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.dagster_dev import ROOT, dagster_dev
from finetune_pipeline_tests.graph.project import Project

PATIENCE = 900
"""How often the play looks, two seconds apart, for something to happen by itself: half an hour of its own time. A machine that
is busy or asleep makes it longer."""
BAD_CANDIDATE, BAD_CHAMPION = 22, 24
"""Days of the planted faults, or as soon afterwards as the first candidate is decided."""


class Play:
    """The outside world: requests, feedback, and the wall clock."""

    def __init__(self, project: Project, port: int) -> None:
        self.project, self.port, self.rng, self.day = project, port, random.Random(1), 0
        self.asked = self.told = 0
        self.tracking = Tracking()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return dict(json.load(answer))

    def play_day(self) -> None:
        """Ask a day's questions; of half the answers somebody says what was right, and flags wrong ones."""
        self.day += 1
        right = 0
        for _ in range(A_DAY):
            text, label = question(self.rng, BEFORE if self.day < SHIFT else AFTER)
            user = f"u{self.rng.randrange(USERS)}"
            made = self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "user": user})
            said = made["choices"][0]["message"]["content"]
            right += said == label
            self.asked += 1
            if self.rng.random() < LABELLED:
                told = {"id": made["id"], "label": label}
                self.told += 1
                self.post("/feedback", told if said == label else {**told, "flag": "wrong"})
        say(f"day {self.day}: {made['model']} had {right} of {A_DAY} right")

    def aliases(self) -> dict[str, int]:
        return registry.aliases(self.tracking, TASK)

    def wait(self, what: str, condition: Any) -> bool:
        """Whether it came about in time."""
        for _ in range(PATIENCE):
            if condition():
                return True
            time.sleep(2)
        say(f"waited {2 * PATIENCE} s in vain: {what}")
        return False

    def looks(self) -> list[Look]:
        """Looks at production that judged a window."""
        return [look for look in read_looks(Store().artifacts()) if look.windows]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def made(project: Project, step: str) -> list[Path]:
    """Artifacts of a step."""
    return list((project.home / "artifacts" / TASK / step).glob("*/artifact.json"))


@contextlib.contextmanager
def served(project: Project, folder: Path) -> Iterator[int]:
    """`finetune serve` on a free port, which is given."""
    command = project.command("serve", TASK, "--port", "0")
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, env=project.environment(), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        assert process.stdout is not None
        told = process.stdout.readline()
        if "http://127.0.0.1:" not in told:
            raise RuntimeError(f"finetune serve did not start: {told}{(folder / 'serve.log').read_text()}")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield int(told.split("http://127.0.0.1:")[1].split("/")[0])
        finally:
            process.terminate()
            process.wait(60)


def started_by_sensor() -> bool:
    """Whether a whole run was started that nobody asked for by hand."""
    return any(run.whole and run.trigger in SENSORS for run in read_runs())


def check_recovered() -> bool:
    """Whether the check of the champion failed, and passes again."""
    told = [passed for _, passed, _ in read_checks()]
    return not all(told) and told[-1]


def command(project: Project, *arguments: str) -> int:
    """A command of the product; its end is shown."""
    done = project.finetune(*arguments, timeout=3600)
    say(f"finetune {' '.join(arguments)}: exit code {done.returncode}")
    if done.returncode == 1:
        print(done.stdout[-2000:], done.stderr[-2000:])
    return done.returncode


def month(play: Play, planted: dict[str, Any]) -> None:
    """Play all days into `planted`, what only the play knows: {asked, told, bad_candidate, bad_champion: {day, time, version}}."""
    project = play.project
    while play.day < DAYS:
        play.play_day()
        planted |= {"asked": play.asked, "told": play.told}
        versions = len(made(project, "model_version"))
        if play.day == SHIFT - 1:
            play.wait("a look at production before the shift", play.looks)
        elif play.day == SHIFT + 4:
            play.wait("a run that a sensor starts", started_by_sensor)
        elif SHIFT + 5 <= play.day < BAD_CANDIDATE - 3 and versions == 1:
            time.sleep(8)  # the run goes on meanwhile, and these rows are news to its candidate
        elif play.day == BAD_CANDIDATE - 3:
            play.wait("a candidate made by itself", lambda: len(made(project, "model_version")) > 1)
            time.sleep(5)  # the server looks every two seconds
        if play.day == BAD_CANDIDATE - 1:
            play.wait("production is held against the new data", lambda: len({s.trained_on for s in play.looks()}) > 1)
            planted["bad_candidate"] = plant_candidate(play)
        if play.day == BAD_CHAMPION - 1 and "bad_candidate" in planted:
            planted["bad_champion"] = plant_champion(play, planted["bad_candidate"]["version"])
        if play.day == BAD_CHAMPION and "bad_champion" in planted:
            good = planted["bad_champion"]["good"]
            play.wait("the rollback", lambda good=good: play.aliases()[registry.CHAMPION] == good)
            play.wait("the check of the champion fails and passes again", check_recovered)
    play.wait("a last look at production, and what is decided", lambda: looked_last(play.looks()[-1]))


def looked_last(look: Look) -> bool:
    """Whether a look saw the end of the month, and something was decided from it."""
    return look.rows > (DAYS - 2) * A_DAY and bool(look.decision)


def plant_candidate(play: Play) -> dict[str, Any]:
    """A slip of the pen in task.yaml: a learning rate that teaches nothing. Then it is mended again."""
    project = play.project
    good = dict(project.spec["training"])
    before = {p.parent.name for p in made(project, "model_version")}
    started = time.time()
    project.write_spec(training={**good, **BAD})
    code = command(project, "run", TASK)
    project.write_spec(training=good)
    new = [json.loads(p.read_text()) for p in made(project, "model_version") if p.parent.name not in before]
    version = new[-1]["facts"]["model_version"] if new else None
    return {"day": play.day, "time": started, "code": code, "version": version}


def plant_champion(play: Play, version: int | None) -> dict[str, Any]:
    """Somebody moves the aliases in MLflow by hand, past the gates: the refused candidate serves."""
    good = play.aliases()[registry.CHAMPION]
    client = play.tracking.client()
    client.set_registered_model_alias(TASK, registry.PREVIOUS, str(good))
    client.set_registered_model_alias(TASK, registry.CHAMPION, str(version))
    told = {"day": play.day, "time": time.time(), "version": version, "good": good}
    say(f"planted: champion {version} by hand, before it {good}")
    time.sleep(5)
    return told


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        print(f"{folder} is not empty", file=sys.stderr)
        return 2
    project = make_project(folder)
    os.environ.update(project.environment())
    apply_environment()
    began = time.monotonic()
    if command(project, "run", TASK):
        print("the first candidate was not promoted: there is nothing to play with", file=sys.stderr)
        return 1
    command(project, "automate", TASK, "--on")
    planted: dict[str, Any] = {}
    with served(project, folder) as port, dagster_dev(folder / "dev.log", os.environ, cwd=ROOT):
        try:
            month(Play(project, port), planted)
        except KeyboardInterrupt:
            say("stopped before the month was over")
    (folder / "planted.json").write_text(json.dumps(planted))
    say(f"played in {time.monotonic() - began:.0f} s")
    from month_timeline import report

    return report(project, planted, Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "month.svg")


if __name__ == "__main__":
    sys.exit(main())
