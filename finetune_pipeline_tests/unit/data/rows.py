"""Specs, rows and artifacts for tests of the data stage."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import find_boilerplate
from finetune_pipeline.data.dedup.cleaning import BOILERPLATE
from finetune_pipeline.data.dedup.row_table import (
    ALL_ROWS,
    KEPT,
    NEAR,
    describe_rows,
    prompt_hash,
    save_rows,
    write_kept,
)
from finetune_pipeline.data.examples import EXAMPLES, Example, example_id, examples_of, read_examples, write_examples
from finetune_pipeline.data.scrub.rows import scrub_rows
from finetune_pipeline.data.split.ledger import ENTRY, SPLITS, record_assignments
from finetune_pipeline.data.split.splitting import SplitFacts, split
from finetune_pipeline.spec import TaskSpec

PROMPT = "Classify the ticket: bug_report, feature_request or P0_incident."
LABELS = ["bug_report", "feature_request", "P0_incident"]


def make_spec(output: dict[str, Any] | None = None, split: dict[str, Any] | None = None, **data: Any) -> TaskSpec:
    """The spec of a label task. data: Keys of its `data` section."""
    output = output or {"kind": "labels", "labels": LABELS}
    required = {"name": "tickets", "description": "test", "system_prompt": PROMPT + "\n"}
    return TaskSpec.model_validate({**required, "output": output, "data": data, "split": split or {}})


TEXT_OUTPUT = {"kind": "text"}


def random_text(number: int, words: int = 12) -> str:
    """Random words that share nothing with the text of another number."""
    rng = random.Random(number)
    return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(words))


def record_split(ledger: Path, examples: Iterable[Example], split: str) -> None:
    """Record these examples in the ledger as members of a split."""
    entries = [(int(e.id, 16), prompt_hash(e.user_text), int(e.id, 16), SPLITS.index(split)) for e in examples]
    record_assignments(np.array(entries, ENTRY), ledger)


def chat(
    user: str = "The export button does nothing", answer: str = "bug_report", system: str | None = PROMPT, **more: Any
) -> dict[str, Any]:
    """A raw row in the `messages` format."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def example(user: str, answer: str = "bug_report", line: int = 1, **more: Any) -> Example:
    """An example of the label task."""
    messages = chat(user, answer, PROMPT + "\n")["messages"]
    fields = {"label": answer if answer in LABELS else None, "source": {"file": "raw/a.jsonl", "line": line}, **more}
    return Example(id=example_id(messages), messages=messages, **fields)


def as_line(row: Any) -> bytes:
    """A row as JSON; bytes are returned unchanged."""
    return row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()


def as_lines(rows: list[Any]) -> bytes:
    return b"".join(as_line(row) + b"\n" for row in rows)


def write_raw(folder: Path, lines: list[Any], file: str = "raw/a.jsonl") -> Path:
    """Write a raw_examples artifact with one file. Returns `folder`."""
    path = folder / "files" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_lines(lines))
    return folder


def write_validated(folder: Path, examples: list[Example]) -> Path:
    """Write a validated_examples artifact with these examples. Returns `folder`."""
    write_examples(folder / EXAMPLES, examples)
    return folder


def write_clean(
    folder: Path,
    examples: list[Example],
    spec: TaskSpec,
    clusters: dict[str, str] | None = None,
    removed: Iterable[str] = (),
) -> Path:
    """Write a clean_examples artifact. clusters: By example id; default: each example is its own. removed: Ids of
    near-duplicates."""
    validated = write_validated(folder.parent / f"{folder.name}-validated", examples)
    folder.mkdir(parents=True, exist_ok=True)
    boilerplate = find_boilerplate(e.user_text for e in examples).with_known()
    scrub_rows(validated / EXAMPLES, spec, b"key", folder / ALL_ROWS)
    table, _ = describe_rows(folder / ALL_ROWS, boilerplate, spec, len(examples))
    rows = table.rows
    rows["cluster"] = [int((clusters or {}).get(e.id, e.id), 16) for e in examples]
    rows["state"] = [NEAR if e.id in set(removed) else KEPT for e in examples]
    save_rows(folder, rows, table.prompts)
    boilerplate.save(folder / BOILERPLATE)
    write_kept(table, folder / EXAMPLES)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, parsed without the code under test."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def split_rows(
    folder: Path, examples: list[Example], spec: TaskSpec | None = None, name: str = "out", **clean: Any
) -> tuple[SplitFacts, dict[str, str]]:
    """Split examples with the ledger in `folder`. Returns (facts, split by example id). clean: Arguments of `write_clean`."""
    spec = spec or make_spec()
    cleaned = write_clean(folder / f"clean-{name}", examples, spec, **clean)
    facts = split(cleaned, cleaned, spec, folder / "ledger", folder / name)
    return facts, {e.id: s for s in SPLITS for e in read_examples(examples_of(folder / name, s))}
