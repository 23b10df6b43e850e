"""Rows and specs the tests of this folder share."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from finetune_pipeline.data.clean_rows import CLEAN_ROW
from finetune_pipeline.data.parts import part_key, read_index, seal_part, write_index
from finetune_pipeline.data.preparing import Preparation, prepare_part
from finetune_pipeline.data.prompt_skeletons import with_known
from finetune_pipeline.data.settling import KEPT, NEAR

from finetune_pipeline.data.dedup.boilerplate import Templates
from finetune_pipeline.data.dedup.cleaning import PREPARED, TEMPLATES, keep_rows
from finetune_pipeline.data.dedup.row_table import TABLE, Table
from finetune_pipeline.data.examples import Example, example_id, write_examples
from finetune_pipeline.data.json_lines import write_rows
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


def write_validated(folder: Path, examples: list[Example], parts: int = 1, size: int = 0) -> Path:
    """A validated_examples artifact of these rows, in so many parts, or in parts of `size` rows."""
    index = []
    size = size or max(1, -(-len(examples) // parts))
    for start in range(0, max(1, len(examples)), size):
        chosen = examples[start : start + size]
        key = part_key(start, [e.to_dict() for e in chosen])
        making = folder / "parts" / f".making-{key}"
        making.mkdir(parents=True)
        write_examples(making / "examples.jsonl", chosen)
        seal_part(making, folder / "parts" / key)
        index.append({"key": key, "file": "raw/a.jsonl", "first": start + 1, "kept": len(chosen)})
    write_index(folder, index)
    return folder


def write_clean(
    folder: Path,
    examples: list[Example],
    spec: TaskSpec,
    clusters: dict[str, str] | None = None,
    removed: Iterable[str] = (),
    parts: int = 2,
    size: int = 0,
) -> Path:
    """A clean_examples artifact in which every row is its own cluster unless told otherwise; `removed`: ids of rows that
    are near-duplicates of others."""
    validated = write_validated(folder.parent / f"{folder.name}-validated", examples, parts, size)
    how = Preparation(spec, with_known(Templates()), None, b"key")
    index, prepared = read_index(validated), []
    for part in index:
        final = folder / PREPARED / part["key"]
        prepare_part(validated / "parts" / part["key"], final.with_name(f".{final.name}"), final, how)
        prepared.append(final)
    table = Table.load(prepared, [part["file"] for part in index])
    rows = np.zeros(len(examples), CLEAN_ROW)
    for name in ("id", "prompt", "group", "time", "label", "origin", "start", "end"):
        rows[name] = table.rows[name]
    rows["part"] = table.part
    rows["cluster"] = [int((clusters or {}).get(e.id, e.id), 16) for e in examples]
    rows["state"] = [NEAR if e.id in set(removed) else KEPT for e in examples]
    np.save(folder / TABLE, rows)
    write_rows(folder / TEMPLATES, [with_known(Templates()).to_dict()])
    told = []
    for number, (part, source) in enumerate(zip(index, prepared, strict=True)):
        mask = rows["state"][rows["part"] == number] == KEPT
        keep_rows((source, mask, folder / "parts" / ".making", folder / "parts" / part["key"]))
        told.append({**part, "prepared": part["key"], "kept": int(mask.sum())})
    write_index(folder, told)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, by another reader than the code under test."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
