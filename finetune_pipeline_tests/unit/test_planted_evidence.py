"""The script that plants faults: what it calls named and stopped, what it calls let through, and that a fault is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.planted_evidence import Planted
from benchmarks.planted_world import Asked, Outcome

ROOT = Path(__file__).resolve().parents[2]
YES = Asked("evaluation_report", "beats_baseline", True, "gate", "m")
NO = Asked("evaluation_report", "format_compliance", False, "gate", "m")


def test_a_fault_is_named_by_its_own_check_and_stopped() -> None:
    planted = Planted("f", "h", "format_compliance", Outcome(2, [YES, NO], [], None, False))
    assert planted.good
    assert not replace(planted, named="beats_baseline").good, "another's no is not its own"
    assert not replace(planted, named="merge_parity").good, "it was not asked"
    assert not replace(planted, more=("told", False)).good
    assert not replace(planted, outcome=Outcome(0, [YES, NO], [], 1, True)).good, "it went through"
    assert not replace(planted, outcome=Outcome(1, [YES, NO], [("s", "m")], None, False)).good, "a crash is no verdict"


def test_a_fault_is_planted_where_it_is_named_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("from benchmarks.planted_faults import plant\n\nplant()\n")
    code = "import finetune_pipeline.data.split.splitting as s; print(s.place.__qualname__)"
    names = {}
    for fault in ("independent_split", ""):
        env = {**os.environ, "PLANTED_FAULT": fault, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        names[fault] = done.stdout.strip()
    assert names == {"independent_split": "independent_split.<locals>.thrown", "": "place"}
