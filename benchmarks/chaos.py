"""Faults of every kind against a whole project on a tiny random model: what an undisturbed run made must come out.

    python -m benchmarks.chaos --work DIR [--faults kills,disk,…] [--kills 2] [--assets adapter,…] [--seed 0]

An undisturbed run from nothing comes first. For each fault the project is as that run left it but for some assets, in the
same place (DIR/now); the fault happens, what is needed is repaired (space is made, the server is open again),
`finetune run` is started once more, and then every file of every artifact must have the digest of the undisturbed run
(what is measured left out: `chaos_runs.contents`). At no time may an artifact be visible that differs from its manifest,
every row of the production log must be in production_logs once, and nothing half made may be left. Needs Linux; `disk`
needs the right to mount.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.chaos_dagster import dagster_fault
from benchmarks.chaos_mlflow import Proxy, mlflow_server
from benchmarks.chaos_runs import Run, contents, left_open, made, remove, stage_of
from finetune_pipeline_tests.graph.disturbed import (
    LOG_ROWS,
    fresh,
    heavy_child,
    kill_in,
    kill_run,
    last_output,
    logged,
    run_in_progress,
    stop_run,
    wait_for,
    whole,
)
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.tiny_model import make_tiny_model

SOME = ["splits", "merged_model", "model_version"]
"""Made anew where a fault needs a run, not all of one: data with a ledger, a job with torch, and the registry."""
TRIES = 6
"""Runs started for one kill: one that ended before its moment came does not count, and the next moment is drawn earlier."""


class Chaos:
    """The work folder: the undisturbed run, how long each asset took in it, and the place where faults happen."""

    def __init__(self, work: Path, seed: int, kills: int, assets: list[str]) -> None:
        self.work, self.seed, self.kills, self.assets = work.absolute(), seed, kills, assets
        self.now, self.kept, self.finished = (self.work / n for n in ("now", "undisturbed.json", "finished"))
        self.base = self.work / "base"
        if not self.base.exists():
            make_tiny_model(self.base)
        self.wanted: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.code = 0

    def without(self, assets: list[str]) -> Project:
        """The project as the undisturbed run left it, but for these assets, in the place of faults."""
        shutil.rmtree(self.now, ignore_errors=True)
        project = Project(self.now, base=self.base, cold=True)
        shutil.rmtree(self.now)
        shutil.copytree(self.finished, self.now, symlinks=True)
        (self.now / "run.log").unlink(missing_ok=True)
        for asset in assets:
            remove(project, asset)
        return project

    def undisturbed(self) -> str:
        """One run that nothing happens to: what it makes, in which order and how long. Kept for the next start."""
        if not self.kept.exists():
            project = fresh(self.now, self.base)
            begun: dict[str, float] = {}
            took: dict[str, float] = {}
            run = Run(project)
            while run.poll() is None:
                now = set(run_in_progress(project, run))
                for asset in now - set(begun):
                    begun[asset] = time.monotonic()
                for asset in set(begun) - now - set(took):
                    took[asset] = time.monotonic() - begun[asset]
                time.sleep(0.02)
            assert run.wait() in (0, 2), last_output(project)
            saved = {"wanted": contents(project), "seconds": took, "code": run.wait(), "artifacts": whole(project)}
            shutil.rmtree(self.finished, ignore_errors=True)
            shutil.copytree(self.now, self.finished, symlinks=True)
            self.kept.write_text(json.dumps(saved, indent=1))
        saved = json.loads(self.kept.read_text())
        self.wanted, self.seconds, self.code = saved["wanted"], saved["seconds"], saved["code"]
        return f"{len(self.wanted)} files of {saved['artifacts']} artifacts, exit code {self.code}"

    def judge(self, project: Project, code: int) -> list[str]:
        """Everything that is not as after the undisturbed run; empty: all is."""
        wrong = (
            [f"exit code {code}, undisturbed {self.code}: {last_output(project)[-600:]}"] if code != self.code else []
        )
        whole(project)
        got = contents(project)
        wrong += [
            f"{name} {'differs' if name in got else 'is missing'}"
            for name in self.wanted
            if got.get(name) != self.wanted[name]
        ]
        wrong += [f"{name} is new" for name in got if name not in self.wanted]
        rows = logged(project)
        lost = {f"answer-{i}" for i in range(LOG_ROWS)} - set(rows)
        if lost or len(rows) != LOG_ROWS:
            wrong.append(f"{len(lost)} log rows lost, {len(rows) - len(set(rows))} doubled")
        half = list((project.home / "artifacts").glob("*/*/.making-*"))
        wrong += [f"left behind: {path}" for path in half]
        return wrong + left_open(project)


def finish(project: Project, *arguments: str, **environment: str) -> int:
    """Run until it ends by itself. Returns the exit code."""
    return Run(project, *arguments, **environment).wait(900)


def kills(chaos: Chaos) -> tuple[Project, int, str]:
    """Each asset's process is killed while it is being made, at several moments: the command line, or its child that works
    with torch. What was taken away is made again by the runs that follow, of which each makes the next asset too."""
    rng, project, table = random.Random(chaos.seed), chaos.without([]), []
    assets = [name for name in chaos.seconds if not chaos.assets or name in chaos.assets]
    for asset, following in zip(assets, [*assets[1:], ""], strict=True):
        stage, landed = stage_of(asset), []
        for number in range(chaos.kills):
            for attempt in range(TRIES):
                if made(project, asset):
                    remove(project, asset)
                run = Run(project, "--stage", stage)
                child = number % 2 == 0
                where = kill_in(project, run, asset, chaos.seconds[asset] * 0.9 / 2**attempt, rng, child=child)
                whole(project)
                if where.startswith(asset):
                    landed.append(where.removeprefix(asset).strip(" ()"))
                    break
        table.append(f"  {asset:<22}{len(landed)} kills: {', '.join(landed)}")
        print(table[-1], flush=True)
        if not following or stage_of(following) != stage:
            finish(project, "--stage", stage)
    return project, finish(project), f"{sum(': ' in line and int(line[24]) for line in table)} kills"


def signals(chaos: Chaos) -> tuple[Project, int, str]:
    """A whole run from nothing gets a signal at a random moment, is started again, gets the next, and so on, `kills` times
    ten; the command line alone gets it, or its whole group, as from a terminal."""
    rng, table = random.Random(chaos.seed), []
    key = chaos.finished / "home" / "artifacts" / "scrubbing.key"
    project = fresh(chaos.now, chaos.base, key)
    project.cold = False
    for number in range(10 * chaos.kills):
        name = ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP")[number % 4]
        (project.root / "run.log").unlink(missing_ok=True)
        run = Run(project)
        wait_for(run, lambda run=run: run_in_progress(project, run))
        end = time.monotonic() + rng.uniform(0, 25)
        while time.monotonic() < end and run.poll() is None:
            time.sleep(0.01)
        if run.poll() is not None:
            table.append(f"  run {number} had ended")
            break
        where, group = "+".join(run_in_progress(project, run)) or "between two", rng.random() < 0.5
        took = stop_run(run, signal.Signals[name], group=group)
        whole(project)
        said = last_output(project)
        if name in ("SIGINT", "SIGTERM") and "warm_workers" not in said:  # which answer signals while they start
            assert "Traceback" not in said and "locked" not in said and said.count("stopped; what was made") == 1, said
        table.append(f"  {name} for the {'group' if group else 'command'} in {where}, which ended {took:.1f} s later")
        print(table[-1], flush=True)
    return project, finish(project), f"{len(table)} signals"


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[str], object]]:
    """A file system of `size` bytes at `place`; yields what changes its size. What is on it at the end stays at the place."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        subprocess.run(["cp", "-a", f"{place}/.", aside], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
        try:
            subprocess.run(["cp", "-a", f"{aside}/.", str(place)], check=True)
            yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}", str(place)], check=True)
            subprocess.run(["cp", "-a", f"{place}/.", aside], check=True)
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
        subprocess.run(["cp", "-a", f"{aside}/.", str(place)], check=True)


def _used(folder: Path) -> int:
    """Bytes that a folder's files take on a file system of pages."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def disk(chaos: Chaos) -> tuple[Project, int, str]:
    """The disk is full at several sizes, one after the other; then there is space."""
    rng, seen = random.Random(chaos.seed), []
    full = _used(chaos.without([]).home)
    project = chaos.without(SOME)
    used = _used(project.home)
    sizes = sorted(used + int(rng.uniform(0.05, 0.95) * (full - used)) for _ in range(max(2, chaos.kills)))
    with small_disk(project.home, sizes[0]) as resize:
        for size in sizes:
            resize(str(size))
            (project.root / "run.log").unlink(missing_ok=True)
            code = finish(project)
            seen.append(f"{size / 1e6:.1f} MB: exit code {code}")
            assert "Traceback" not in last_output(project), last_output(project)
            assert code == 1 and "disk is full" in last_output(project), last_output(project)
            whole(project)
        resize("1g")
        code = finish(project)
    return project, code, "; ".join(seen)


def mlflow(chaos: Chaos) -> tuple[Project, int, str]:
    """The tracking server refuses, says nothing, or is slow, each from a random moment on; then it is back."""
    rng, project, seen = random.Random(chaos.seed), chaos.without(SOME), []
    quick = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    with mlflow_server(chaos.work / "mlflow") as port, Proxy(port) as proxy:
        environment = {**quick, "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{proxy.port}"}
        for mode in ("refuse", "silent"):
            run, asset = Run(project, **environment), rng.choice(SOME)
            wait_for(run, functools.partial(_works_on, project, run, asset))
            proxy.mode = mode
            code = run.wait(900)
            seen.append(f"{mode} in {asset}: exit code {code}")
            assert code == 1 and "MLflow at http" in last_output(project) and "fix:" in last_output(project), (
                last_output(project)
            )
            whole(project)
            proxy.mode = "open"
        proxy.mode = "slow"
        began = time.monotonic()
        code = finish(project, **environment)
        seen.append(f"then each answer 0.2 s late: exit code {code} after {time.monotonic() - began:.0f} s")
    return project, code, "; ".join(seen)


def _works_on(project: Project, run: Run, asset: str) -> bool:
    return asset in run_in_progress(project, run)


def checkpoint(chaos: Chaos) -> tuple[Project, int, str]:
    """Training is killed after a checkpoint, and a byte of that checkpoint's files is changed."""
    rng, project = random.Random(chaos.seed), chaos.without(["adapter"])
    run = Run(project)
    work = project.home / "artifacts" / project.folder.name / ".work" / "adapter"
    complete = "*/**/checkpoint-*/trainer_state.json"
    assert wait_for(run, lambda: list(work.glob(complete)) and heavy_child(run)), "no checkpoint"
    kill_run(run)
    newest = max(work.glob(complete), key=lambda p: p.stat().st_mtime).parent
    victim = rng.choice(sorted(p for p in newest.iterdir() if p.is_file() and p.stat().st_size))
    content = bytearray(victim.read_bytes())
    content[rng.randrange(len(content))] ^= 0xFF
    victim.write_bytes(content)
    return project, finish(project), f"one byte of {newest.name}/{victim.name} changed"


def two_at_once(chaos: Chaos) -> tuple[Project, int, str]:
    """Two runs of the same task are started in the same moment."""
    project = chaos.without(SOME)
    runs = [Run(project), Run(project)]
    codes = [run.wait(900) for run in runs]
    return project, finish(project), f"exit codes {codes[0]} and {codes[1]}"


FAULTS: dict[str, Callable[[Chaos], tuple[Project, int, str]]] = {
    "kills": kills,
    "signals": signals,
    "checkpoint": checkpoint,
    "two at once": two_at_once,
    "disk": disk,
    "mlflow": mlflow,
    "dagster": lambda chaos: dagster_fault(chaos.without([*SOME, "adapter"]), random.Random(chaos.seed)),
}


def main() -> int:
    """Print the table; 1 when an outcome was not the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--kills", type=int, default=2, help="kills of each asset, sizes of the disk (two at least)")
    parser.add_argument("--assets", default="", help="kill in these only")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    assets = [name for name in options.assets.split(",") if name]
    chaos = Chaos(options.work, options.seed, options.kills, assets)
    print(f"{datetime.date.today()}  python {sys.version.split()[0]}, seed {options.seed}")
    print(f"undisturbed: {chaos.undisturbed()}", flush=True)
    failed = 0
    for name in filter(None, options.faults.split(",")):
        began = time.monotonic()
        project, code, seen = FAULTS[name](chaos)
        wrong = chaos.judge(project, code)
        failed += bool(wrong)
        verdict = "equal to the undisturbed run" if not wrong else "NOT EQUAL: " + "; ".join(wrong[:10])
        print(f"\n{name}: {verdict}  ({time.monotonic() - began:.0f} s)\n  {seen}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
