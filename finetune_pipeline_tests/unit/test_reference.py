"""The reference page is made from the code and must not lag behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_up_to_date_and_complete() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_reference.py"), "--check"],
        text=True, capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    for word in ("`training.unquantized_epochs`", "`no_leakage`", "`beats_baseline`", "`retraining_decision`"):
        assert word in text


def test_the_gates_page_is_up_to_date_and_names_every_gate() -> None:
    from finetune_pipeline.evaluation.gates import GATES

    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_gates.py"), "--check"],
        text=True, capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = (ROOT / "docs" / "gates.md").read_text("utf-8")
    for gate in GATES.values():
        assert f"| `{gate.name}` |" in text and gate.what_to_do in text
