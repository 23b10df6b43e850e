"""Writes the table of docs/gates.md from the code. A test fails when it is out of date.

python tools/make_gates.py            # writes
python tools/make_gates.py --check    # exits with 1 when the file differs
"""

from __future__ import annotations

import sys
from pathlib import Path

from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.statistics import level_left, looks_spent
from finetune_pipeline.pipeline import CHECKS

sys.path.insert(0, str(Path(__file__).resolve().parent))

from make_reference import rows

TARGET = Path(__file__).resolve().parent.parent / "docs" / "gates.md"
BEGIN, END = "<!-- made by tools/make_gates.py: begin -->", "<!-- made by tools/make_gates.py: end -->"
BEFORE_TRAINING = ("worth_training", "enough_test_rows")


def made() -> str:
    """The part between the marks."""
    gates = [[f"`{g.name}`", g.needs, g.default, g.holds_back, g.what_to_do] for g in GATES.values()]
    before = [[f"`{c.name}`", f"`{step}`", c.description] for step, c in CHECKS if c.name in BEFORE_TRAINING]
    looks = [
        [k, f"{100 * (1 - level_left(k)):.4g}%", f"{100 * level_left(k) / 2:.2g}%", f"{100 * looks_spent(k):.2g}%"]
        for k in (1, 2, 3, 5, 10, 20)
    ]
    return "\n".join(
        [
            BEGIN,
            "",
            "### Between a candidate and `champion`",
            "",
            *rows(["gate", "needs", "default", "holds back", "what to do"], gates),
            "",
            "### Before training",
            "",
            *rows(["check", "asset", "question"], before),
            "",
            "### The level of each look",
            "",
            *rows(
                [
                    "candidate on one test",
                    "interval that decides",
                    "wrongly promoted, at most",
                    "this or an earlier one",
                ],
                looks,
            ),
            "",
            END,
        ]
    )


def render(old: str) -> str:
    """The page with its made part replaced."""
    head, _, rest = old.partition(BEGIN)
    return head + made() + rest.partition(END)[2]


def main() -> int:
    old = TARGET.read_text("utf-8")
    text = render(old)
    if "--check" in sys.argv:
        print("docs/gates.md is up to date" if text == old else "docs/gates.md is old: run python tools/make_gates.py")
        return 0 if text == old else 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
