"""Write docs/reference.md from the code: spec keys, formats, steps, checks, gates. A test fails when it is out of date.

python tools/make_reference.py            # writes the file
python tools/make_reference.py --check    # exits with 1 if the file differs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_pipeline.data.formats import FORMATS
from finetune_pipeline.engine.checks import Check
from finetune_pipeline.engine.step import Step
from finetune_pipeline.evaluation.gates import GATES
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.spec.loading import json_schema
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import COMMON, format_number
from finetune_pipeline.trainers import TRAINERS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference.md"


def default_table() -> list[tuple[str, str, str, str]]:
    """Return (key, methods, value, source) of every default, grouping methods with the same default."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key in COMMON:
        for method in METHODS.values():
            default = method.default(key)
            rows.setdefault((key, format_number(default.value), default.source), []).append(method.name)
    return [(key, ", ".join(methods), value, source) for (key, value, source), methods in rows.items()]


def cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def rows(header: list[str], lines: list[list[Any]]) -> list[str]:
    """A Markdown table."""
    return [" | ".join(header), "|".join(["---"] * len(header)), *(" | ".join(map(cell, line)) for line in lines)]


def spec_lines() -> list[list[Any]]:
    """Key, default and meaning of every setting. Keys with the same name, default and meaning share a line."""
    schema = json_schema()
    definitions = schema["$defs"]

    def section(prefix: str, model: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
        for name, field in model["properties"].items():
            options = [field, *field.get("anyOf", []), *field.get("oneOf", [])]
            inner = [definitions[option["$ref"].rpartition("/")[2]] for option in options if "$ref" in option]
            for definition in inner:
                yield from section(f"{prefix}{name}.", definition)
            if not inner and prefix + name != "output.kind":
                default = f"`{field['default']}`" if field.get("default") is not None else "–"
                required = name in model.get("required", [])
                yield prefix + name, "required" if required else default, field.get("description", "")

    lines: dict[tuple[str, str, str], dict[str, None]] = {}
    for key, default, meaning in section("", schema):
        name = key.rpartition(".")[2] if meaning else key
        lines.setdefault((name, default, meaning), {})[f"`{key}`"] = None
    return [[", ".join(keys), default, meaning] for (_, default, meaning), keys in lines.items()]


def step_line(step: Step) -> list[Any]:
    return [
        f"`{step.name}`",
        ", ".join(f"`{n}`" for n in step.needs) or "–",
        ", ".join(f"`{n}`" for n in (*step.after, *step.follows)) or "–",
    ]


def on_failure(check: Check) -> str:
    """What happens when a check fails."""
    if callable(check.on_failure):
        return "by spec"
    return "alarm" if check.live else {"block": "blocks", "fail": "gate", "warn": "warns"}[check.on_failure]


def render() -> str:
    gates = [[f"`{g.name}`", g.needs, g.default, g.holds_back, g.what_to_do] for g in GATES.values()]
    metrics = [[f"`{m.name}`", ", ".join(m.kinds), m.described] for m in METRICS.values()]
    checks = [
        [f"`{step}`", f"`{c.name}`", on_failure(c), c.description]
        for step, c in CHECKS
        if step != "evaluation_report" or c.name not in GATES
    ]
    return "\n".join(
        [
            "# Reference",
            "",
            "Made from the code by `tools/make_reference.py`; do not edit by hand.",
            "",
            "## Keys of task.yaml",
            "",
            "`output.kind` is `labels` (the default), `text` or `json`.",
            "",
            *rows(["key", "default", "meaning"], spec_lines()),
            "",
            "## Raw formats",
            "",
            "Each is one file in `data/formats/`. They are tried in this order unless `data.format` names one.",
            "",
            *rows(["format", "keys"], [[f"`{name}`", raw_format.documented] for name, raw_format in FORMATS.items()]),
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
            "The version of a step's artifact depends on what the step *needs*. The steps it runs *after* must be done, "
            "but do not change its result.",
            "",
            *rows(["step", "needs", "after"], [step_line(s) for s in PIPELINE.steps.values()]),
            "",
            "## Checks",
            "",
            "A failed check `blocks` all later steps, `warns`, keeps `champion` where it is (`gate`), or raises an `alarm` "
            "about the model in production.",
            "",
            *rows(["asset", "check", "on failure", "what it checks"], checks),
            "",
            "## Metrics",
            "",
            "One file each in `evaluation/metrics/`; what `gates.metric` and `gates.more_metrics` may name.",
            "",
            *rows(["metric", "output", "measures"], metrics),
            "",
            "## Gates",
            "",
            "Checks of `evaluation_report`. [gates.md](gates.md) explains how they decide.",
            "",
            *rows(["gate", "needs", "default", "holds back", "what to do"], gates),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if the file differs")
    check, text = parser.parse_args().check, render()
    if check:
        same = TARGET.exists() and TARGET.read_text("utf-8") == text
        print(f"docs/reference.md is {'up to date' if same else 'old: run python tools/make_reference.py'}")
        return 0 if same else 1
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
