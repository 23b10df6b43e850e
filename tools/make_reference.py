"""Writes docs/reference.md from the code: spec keys, checks, gates, rules. A test fails when it is out of date.

python tools/make_reference.py            # writes
python tools/make_reference.py --check    # exits with 1 when the file differs
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from finetune_pipeline.data.formats import FORMATS
from finetune_pipeline.engine.checks import Check
from finetune_pipeline.engine.step import Step
from finetune_pipeline.evaluation.gates import table
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import default_table
from finetune_pipeline.spec.schema import json_schema
from finetune_pipeline.trainers import TRAINERS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference.md"


def cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def rows(header: list[str], lines: list[list[Any]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(cell(c) for c in line) + " |" for line in lines),
    ]


def spec_lines() -> list[list[Any]]:
    told = json_schema()
    lines: list[list[Any]] = []

    def section(prefix: str, properties: dict[str, Any], required: list[str]) -> None:
        for name, field in properties.items():
            reference = field.get("$ref", "").rpartition("/")[2]
            if reference:
                inner = told["$defs"][reference]
                section(f"{prefix}{name}.", inner["properties"], inner.get("required", []))
                continue
            if name == "output":
                for kind in ("LabelsOutput", "TextOutput", "JsonOutput"):
                    inner = told["$defs"][kind]
                    section(
                        f"output ({kind.removesuffix('Output').lower()}).",
                        inner["properties"],
                        inner.get("required", []),
                    )
                continue
            default = (
                "**required**"
                if name in required
                else f"`{field['default']}`"
                if field.get("default") is not None
                else "–"
            )
            lines.append([f"`{prefix}{name}`", default, field.get("description", "")])

    section("", told["properties"], told["required"])
    return lines


def step_line(step: Step) -> list[Any]:
    return [
        f"`{step.name}`",
        ", ".join(f"`{n}`" for n in step.needs) or "–",
        ", ".join(f"`{n}`" for n in step.after) or "–",
    ]


def on_a_no(check: Check) -> str:
    """What a "no" does."""
    if callable(check.blocking):
        return "by spec"
    if check.blocking:
        return "blocks"
    return "alarm" if check.live else "warns" if check.advisory else "gate"


def render() -> str:
    checks = [
        [
            f"`{step}`",
            f"`{c.name}`",
            on_a_no(c),
            c.description,
        ]
        for step, c in CHECKS
    ]
    gates = [[f"`{g['name']}`", g["needs"], g["default"], g["blocking"], g["what_to_do"]] for g in table()]
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `tools/make_reference.py`; do not edit by hand.",
            "",
            "## Keys of task.yaml",
            "",
            *rows(["key", "default", "meaning"], spec_lines()),
            "",
            "## Raw formats",
            "",
            "One file each in `data/formats/`; tried in this order, unless `data.format` names one.",
            "",
            *rows(["format", "keys"], [[f"`{name}`", of.documented or of.keys] for name, of in FORMATS.items()]),
            "",
            "## Training methods",
            "",
            "One file each in `spec/methods/`; `training.method` names one.",
            "",
            *rows(
                ["method", "what is trained", "what you get", "take it when"],
                [[f"`{m.name}`", m.trains, m.gives, m.when] for m in METHODS.values()],
            ),
            "",
            "Settings that `task.yaml` leaves unset take the method's own value while the spec is read.",
            "",
            *rows(
                ["setting", "methods", "value", "source"], [[f"`{key}`", *others] for key, *others in default_table()]
            ),
            "",
            "## Trainers",
            "",
            "One file each in `trainers/`; `training.trainer` names one.",
            "",
            *rows(
                ["trainer", "where it trains", "methods", "what comes back"],
                [
                    [f"`{t.name}`", t.where, ", ".join(sorted(t.methods)) if t.methods else "all", t.returns]
                    for t in TRAINERS.values()
                ],
            ),
            "",
            "## Steps",
            "",
            "A step's version follows from what it *needs*. What it comes *after* must be there, but decides "
            "nothing about its result.",
            "",
            *rows(["step", "needs", "after"], [step_line(s) for s in PIPELINE.steps.values()]),
            "",
            "## Checks",
            "",
            "`blocks`: a no stops everything downstream. `gate`: a no keeps `champion` where it is. `warns`: "
            "people should look. `alarm`: of what serves now; people look, or `retraining.rollback` acts.",
            "",
            *rows(["asset", "check", "on a no", "question"], checks),
            "",
            "## Gates",
            "",
            *rows(["gate", "needs", "default", "blocking", "what to do"], gates),
            "",
        ]
    )


def main() -> int:
    text = render()
    if "--check" in sys.argv:
        same = TARGET.exists() and TARGET.read_text("utf-8") == text
        print(
            "docs/reference.md is up to date"
            if same
            else "docs/reference.md is old: run python tools/make_reference.py"
        )
        return 0 if same else 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
