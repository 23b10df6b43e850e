"""What `finetune advise` decides on a trivially easy public set and on the two tasks that ship, and why.

    python benchmarks/advise.py BITEXT [--rows N] [--work FOLDER] [--task NAME …]

BITEXT: the folder of bitext-intent, as published (dev, test, train). Each task runs through the real command with the bundled
model; N validation rows are asked of each prompt (default 12), zero-shot and with the three nearest examples, so that it ends
in minutes on one core. The models of words are scored on all validation rows. Ends with code 1 unless bitext-intent gets a no,
and both others a yes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).resolve().parent.parent / "data"
WANTED = {"bitext_intent": False, "ticket_triage": True, "order_intake": True}


def bitext(folder: Path, target: Path) -> dict[str, Any]:
    """A task of the public set: what its 27 intents are called is all the prompt says of them."""
    shutil.copytree(folder, target / "raw")
    found = {row["intent"] for path in folder.rglob("*.csv") for row in csv.DictReader(path.open(encoding="utf-8"))}
    return {
        "name": "bitext_intent",
        "description": "What a customer wants of a shop.",
        "system_prompt": f"Answer with exactly one label and nothing else. Labels: {', '.join(sorted(found))}",
        "output": {"kind": "labels", "labels": sorted(found)},
        "data": {"raw": ["raw/**/*.csv"], "fields": {"text": "utterance", "label": "intent"}},
    }


def task(name: str, public: Path, data: Path, rows: int) -> None:
    """The task's folder, with its spec limited to `rows` validation rows."""
    target = data / name
    if name == "bitext_intent":
        spec = bitext(public, target)
    else:
        shutil.copytree(SHIPPED / name, target)
        spec = yaml.safe_load((target / "task.yaml").read_text("utf-8"))
    spec["baseline"] = {**spec.get("baseline", {}), "shots": [0], "retrieved": 3, "rows": rows}
    (target / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bitext", type=Path)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--task", nargs="*", choices=list(WANTED), default=list(WANTED))
    told = parser.parse_args()
    work = told.work or Path(tempfile.mkdtemp(prefix="advise-"))
    right = True
    for name in told.task:
        task(name, told.bitext, work / "data", told.rows)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "finetune_pipeline.cli.main", "advise", name, "--json"],
            env={**os.environ, "FINETUNE_DATA": str(work / "data"), "FINETUNE_HOME": str(work / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 2):
            print(f"{name}: failed\n{done.stderr[-3000:]}")
            return 1
        advice = json.loads(done.stdout)
        print(f"{name}: {advice['decision']} (exit code {done.returncode}, {time.monotonic() - began:.0f} s)")
        for reason in advice["reasons"]:
            print(f"  - {reason}")
        print(flush=True)
        right &= advice["fine_tune"] is WANTED[name]
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
