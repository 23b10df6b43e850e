"""Disturb a whole project on a tiny random model by kills and a full disk; its artifacts must come out the same.

    python -m benchmarks.chaos --work DIR [--faults 'kills,killed with a waiter,disk'] [--kills 2] [--assets adapter,…] [--seed 0]

An undisturbed run from nothing comes first and is kept in DIR. Each fault starts from its result, without some assets, in
DIR/now. The fault happens, its cause is repaired (there is space again), `finetune run` is started once more, and then every
file of every artifact must have the digest of the undisturbed run (except for measured values, see `comparable.contents`). At
no time may an artifact differ from its manifest; every row of the production log must be in production_logs exactly once;
nothing unfinished may be left behind. Needs Linux; `disk` needs the right to mount.

Measures: finetune_pipeline/engine, finetune_pipeline/orchestration, finetune_pipeline/tracking.
"""

import argparse
import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune_pipeline_tests.graph.comparable import contents
from finetune_pipeline_tests.graph.disturbed import (
    LOG_ROWS,
    check_artifacts,
    has_artifact,
    kill_in,
    last_output,
    left_in_pool,
    logged_ids,
    new_project,
    problems_left,
    remove,
    run_id_of,
    run_in_progress,
    stage_of,
    stop_run,
)
from finetune_pipeline_tests.graph.forked import Run
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.tiny_model import make_tiny_model

REMOVED = ["splits", "merged_model", "model_version"]
"""Assets that a fault's run makes again where one of each kind is enough: with a ledger, with torch, in the registry."""
TRIES = 6
"""Runs started for one kill. One that ends before its moment comes does not count, and the next moment is drawn earlier."""


class Chaos:
    """The work folder: the undisturbed run, how long it took for each asset, and the project that is disturbed."""

    def __init__(self, work: Path, seed: int, kills: int, assets: list[str]) -> None:
        self.work, self.seed, self.kills, self.assets = work.absolute(), seed, kills, assets
        self.now, self.record, self.finished = (self.work / n for n in ("now", "undisturbed.json", "finished"))
        self.base = self.work / "base"
        if not self.base.exists():
            make_tiny_model(self.base)
        self.expected: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.code = 0

    def project_without(self, assets: list[str]) -> Project:
        """The project as the undisturbed run left it, without these assets, in DIR/now."""
        shutil.rmtree(self.now, ignore_errors=True)
        project = Project(self.now, base=self.base, cold=True)
        shutil.rmtree(self.now)
        shutil.copytree(self.finished, self.now, symlinks=True)
        (self.now / "run.log").unlink(missing_ok=True)
        for asset in assets:
            remove(project, asset)
        return project

    def run_undisturbed(self) -> str:
        """Run without a fault, unless DIR holds such a run. Returns a summary."""
        if not self.record.exists():
            project = new_project(self.now, self.base)
            begun: dict[str, float] = {}
            seconds: dict[str, float] = {}
            run = Run(project)
            while run.poll() is None:
                in_progress = set(run_in_progress(project, run))
                for asset in in_progress - set(begun):
                    begun[asset] = time.monotonic()
                for asset in set(begun) - in_progress - set(seconds):
                    seconds[asset] = time.monotonic() - begun[asset]
                time.sleep(0.02)
            assert run.wait() in (0, 2), last_output(project)
            record = {
                "expected": contents(project),
                "seconds": seconds,
                "code": run.wait(),
                "artifacts": check_artifacts(project),
            }
            shutil.rmtree(self.finished, ignore_errors=True)
            shutil.copytree(self.now, self.finished, symlinks=True)
            self.record.write_text(json.dumps(record, indent=1))
        record = json.loads(self.record.read_text())
        self.expected, self.seconds, self.code = record["expected"], record["seconds"], record["code"]
        return f"{len(self.expected)} files of {record['artifacts']} artifacts, exit code {self.code}"

    def differences(self, project: Project, code: int) -> list[str]:
        """Everything that is not as after the undisturbed run."""
        check_artifacts(project)
        files = contents(project)
        problems = [
            f"{name} {'differs' if name in files else 'is missing'}"
            for name in self.expected
            if files.get(name) != self.expected[name]
        ]
        problems += [f"{name} is new" for name in files if name not in self.expected]
        if code != self.code:
            problems.insert(0, f"exit code {code}, undisturbed {self.code}: {last_output(project)[-600:]}")
        rows = logged_ids(project)
        lost = {f"answer-{i}" for i in range(LOG_ROWS)} - set(rows)
        if lost or len(rows) != LOG_ROWS:
            problems.append(f"{len(lost)} log rows lost, {len(rows) - len(set(rows))} doubled")
        unfinished = (project.home / "artifacts").glob("*/*/.making-*")
        return problems + [f"left behind: {path}" for path in unfinished] + problems_left(project)


def finish(project: Project, *arguments: str, **environment: str) -> int:
    """Run until it ends by itself. Returns the exit code."""
    return Run(project, *arguments, **environment).wait(900)


def kills(chaos: Chaos) -> tuple[Project, int, str]:
    """Kill the command or its worker process while it makes an asset, at random moments, for each asset in turn. The run for
    the next asset makes again what was removed."""
    rng, project, total = random.Random(chaos.seed), chaos.project_without([]), 0
    assets = [name for name in chaos.seconds if not chaos.assets or name in chaos.assets]
    for asset, following in zip(assets, [*assets[1:], ""], strict=True):
        stage, victims = stage_of(asset), []
        for number in range(chaos.kills):
            for attempt in range(TRIES):
                if has_artifact(project, asset):
                    remove(project, asset)
                run = Run(project, "--stage", stage)
                latest = chaos.seconds[asset] * 0.9 / 2**attempt
                where = kill_in(project, run, asset, latest, rng, child=number % 2 == 0)
                check_artifacts(project)
                if where.startswith(asset):
                    victims.append(where.removeprefix(asset).strip(" ()"))
                    break
        total += len(victims)
        print(f"  {asset:<22}{len(victims)} kills: {', '.join(victims)}", flush=True)
        if not following or stage_of(following) != stage:
            finish(project, "--stage", stage)
    return project, finish(project), f"{total} kills"


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], object]]:
    """Mount a file system of `size` bytes at `folder`, with its files; yields a function that changes the size. The files are
    copied back at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as copy:
        subprocess.run(["cp", "-a", f"{folder}/.", copy], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
        try:
            subprocess.run(["cp", "-a", f"{copy}/.", str(folder)], check=True)
            yield lambda new_size: subprocess.run(["mount", "-o", f"remount,size={new_size}", str(folder)], check=True)
            subprocess.run(["cp", "-a", f"{folder}/.", copy], check=True)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        subprocess.run(["cp", "-a", f"{copy}/.", str(folder)], check=True)


def _bytes_on_disk(folder: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def disk(chaos: Chaos) -> tuple[Project, int, str]:
    """Run on a full disk of several sizes, one after the other; then there is space."""
    rng, events = random.Random(chaos.seed), []
    needed = _bytes_on_disk(chaos.project_without([]).home)
    project = chaos.project_without(REMOVED)
    used = _bytes_on_disk(project.home)
    sizes = sorted(used + int(rng.uniform(0.05, 0.95) * (needed - used)) for _ in range(max(2, chaos.kills)))
    with small_disk(project.home, sizes[0]) as resize:
        for size in sizes:
            resize(str(size))
            (project.root / "run.log").unlink(missing_ok=True)
            code, output = finish(project), last_output(project)
            events.append(f"{size / 1e6:.1f} MB: exit code {code}")
            assert code == 1 and "disk is full" in output and "Traceback" not in output, output
            check_artifacts(project)
        resize("1g")
        code = finish(project)
    return project, code, "; ".join(events)


def killed_with_a_waiter(chaos: Chaos) -> tuple[Project, int, str]:
    """Two runs at once; kill one with all its processes at a random moment and start another, fifteen times `kills`. Those that
    are not killed must end, with what the undisturbed run made; then some assets are removed, and the next two begin."""
    rng, removed = random.Random(chaos.seed), [*REMOVED, "few_shot_baseline", "adapter"]
    project = chaos.project_without(removed)
    project.cold = False
    runs, killed, ended, left = [Run(project), Run(project)], 0, 0, Counter[str]()
    while killed < 15 * chaos.kills:
        end = time.monotonic() + rng.uniform(0, 15)
        while time.monotonic() < end and all(run.poll() is None for run in runs):
            time.sleep(0.01)
        if any(run.poll() is not None for run in runs):
            ended += _end_undisturbed(chaos, project, runs)
            for asset in removed:
                remove(project, asset)
            runs = [Run(project), Run(project)]
            continue
        victim = runs.pop(rng.randrange(2))
        where = "+".join(run_in_progress(project, victim)) or "between two"
        run_id = run_id_of(project, victim)
        stop_run(victim, signal.SIGKILL, group=True)
        rows = left_in_pool(project, run_id)
        left.update(rows or ["nothing"])
        killed += 1
        check_artifacts(project)
        print(f"  {killed:>2} killed in {where}; in the pool: {', '.join(rows) or 'nothing'}", flush=True)
        runs.append(Run(project))
    ended += _end_undisturbed(chaos, project, runs)
    counts = ", ".join(f"{kind} {count}" for kind, count in left.most_common())
    return project, finish(project), f"{killed} kills, {ended} runs ended by themselves; left in the pool: {counts}"


def _end_undisturbed(chaos: Chaos, project: Project, runs: list[Run]) -> int:
    """Wait until runs end, and assert their exit code and what they made. Returns their number."""
    codes = [run.wait(900) for run in runs]
    assert codes == [chaos.code] * len(runs), f"exit codes {codes}, undisturbed {chaos.code}: {last_output(project)}"
    problems = chaos.differences(project, finish(project))  # the last run ends the records of those that were killed
    assert not problems, problems
    return len(runs) + 1


FAULTS: dict[str, Callable[[Chaos], tuple[Project, int, str]]] = {
    "kills": kills,
    "killed with a waiter": killed_with_a_waiter,
    "disk": disk,
}
"""Each makes a fault happen and returns the project, the exit code of the last run, and what happened."""


def main() -> int:
    """Print the table. Returns 1 when an outcome was not the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--kills", type=int, default=2, help="kills of each asset, sizes of the disk (two at least)")
    parser.add_argument("--assets", default="", help="kill only in these")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = [name for name in arguments.faults.split(",") if name]
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    assets = [name for name in arguments.assets.split(",") if name]
    chaos = Chaos(arguments.work, arguments.seed, arguments.kills, assets)
    print(f"{datetime.date.today()}  python {sys.version.split()[0]}, seed {arguments.seed}")
    print(f"undisturbed: {chaos.run_undisturbed()}", flush=True)
    failed = 0
    for name in faults:
        began = time.monotonic()
        project, code, events = FAULTS[name](chaos)
        problems = chaos.differences(project, code)
        failed += bool(problems)
        verdict = "NOT EQUAL: " + "; ".join(problems[:10]) if problems else "equal to the undisturbed run"
        print(f"\n{name}: {verdict}  ({time.monotonic() - began:.0f} s)\n  {events}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
