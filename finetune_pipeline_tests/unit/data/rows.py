"""Rows and specs the tests of this folder share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.examples import Example, example_id, write_examples
from finetune_pipeline.data.shingles import prompt_key
from finetune_pipeline.spec import TaskSpec

PROMPT = "Classify the ticket: bug_report, feature_request or P0_incident."
LABELS = ["bug_report", "feature_request", "P0_incident"]


def make_spec(output: dict[str, Any] | None = None, split: dict[str, Any] | None = None, **data: Any) -> TaskSpec:
    """A small label task; keyword arguments go into its `data` section."""
    return TaskSpec.model_validate(
        {
            "name": "tickets",
            "description": "test",
            "system_prompt": PROMPT + "\n",
            "data": data,
            "split": split or {},
            "output": output or {"kind": "labels", "labels": LABELS},
        }
    )


TEXT_OUTPUT = {"kind": "text"}


def chat(
    user: str = "The export button does nothing", answer: str = "bug_report", system: str | None = PROMPT, **more: Any
) -> dict[str, Any]:
    """A raw row in the `messages` format."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def example(user: str, answer: str = "bug_report", line: int = 1, **more: Any) -> Example:
    """A canonical example of the label task."""
    messages = [
        {"role": "system", "content": PROMPT + "\n"},
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer},
    ]
    fields = {"label": answer if answer in LABELS else None, "source": {"file": "raw/a.jsonl", "line": line}, **more}
    return Example(id=example_id(messages), messages=messages, **fields)


def write_raw(folder: Path, lines: list[Any], file: str = "raw/a.jsonl") -> Path:
    """A raw_examples artifact of one file; bytes are written as they are, anything else as JSON."""
    path = folder / "files" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return folder


def write_reviewed(folder: Path, examples: list[Example], clusters: dict[str, str] | None = None) -> Path:
    """A reviewed_examples artifact; every row is its own cluster unless told otherwise."""
    clusters = clusters or {e.id: e.id for e in examples}
    members: dict[str, list[dict[str, str]]] = {}
    for e in examples:
        members.setdefault(clusters[e.id], []).append({"id": e.id, "key": prompt_key(e)})
    write_examples(folder / "examples.jsonl", examples)
    write_json(folder / "clusters.json", clusters)
    write_json(folder / "members.json", members)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, by another reader than the code under test."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
