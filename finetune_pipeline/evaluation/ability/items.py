"""Items of general ability: the bundled suite, and benchmark files in JSON Lines.

An item is a question with choices, one of them right, or a text to predict. Models do not generate: the likelihoods of the
choices are compared. So small models show a signal, and form does not count.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.data.json_lines import json_rows
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.findings import Finding, FindingsError

SUITE = Path(__file__).with_name("suite.jsonl")
SUITE_NAME = "suite"
ROWS = "ability.jsonl"
"""File with a model's scores on the items."""


@dataclass(frozen=True, slots=True)
class Item:
    """choices[right] is right; for a text, `text` is set and choices are empty. chat: whether the chat template wraps the
    question as a user's turn; else the choices continue its bare text. source: the suite, or the file's name."""

    id: str
    source: str
    category: str
    prompt: str
    choices: tuple[str, ...] = ()
    right: int = 0
    text: str | None = None
    chat: bool = True


def suite() -> list[Item]:
    return read_items(SUITE, SUITE_NAME)


def digest_items(items: Sequence[Item]) -> str:
    """Return 16 hex digits of everything that models are asked."""
    return digest_json([asdict(item) for item in items])[:16]


def read_items(path: Path, source: str | None = None, limit: int | None = None) -> list[Item]:
    """Items of a JSON Lines file, in order. A row is one of

    - ``{prompt, answer, others: [...], category?, id?}``: the suite's own form, asked as a chat
    - ``{query, choices: [...], gold: index, category?}``: the choices continue the query
    - ``{context, continuation}``: a text whose end is predicted (only its likelihood counts)
    - ``{text}``: a text to predict

    limit: maximum number of rows, chosen by a hash. Raises FindingsError naming every line that has none of these forms.
    """
    name = source or path.name
    findings: list[Finding] = []
    items: list[Item] = []
    try:
        for number, row, problem in json_rows(path):
            try:
                if problem:
                    raise ValueError(problem)
                items.append(_item(row, name, number))
            except ValueError as error:
                findings.append(_fault(path, number, str(error)))
    except OSError as error:
        findings.append(_fault(path, None, f"cannot be read: {error}"))
    if not items and not findings:
        findings.append(_fault(path, None, "it holds no item"))
    if findings:
        raise FindingsError(findings)
    if limit is not None:
        hashes = [hashlib.sha256(f"{item.id}{name}".encode()).digest() for item in items]
        chosen = sorted(range(len(items)), key=hashes.__getitem__)[:limit]
        items = [items[i] for i in sorted(chosen)]
    return items


def load_items(files: Sequence[Path], limit: int, with_suite: bool = True) -> list[Item]:
    """The suite and the items of `files`, at most `limit` of each file. Raises FindingsError with all problems."""
    items = suite() if with_suite else []
    findings: list[Finding] = []
    for path in files:
        try:
            items += read_items(path, limit=limit)
        except FindingsError as error:
            findings += error.findings
    if findings:
        raise FindingsError(findings)
    return items


def _item(row: Any, source: str, number: int) -> Item:
    if not isinstance(row, dict):
        raise ValueError("the line is no JSON object")
    named = {k: row[k] for k in ("id", "category") if isinstance(row.get(k), str)}
    name, category = named.get("id", f"{source}:{number}"), named.get("category", source.removesuffix(".jsonl"))
    if isinstance(row.get("answer"), str) and isinstance(row.get("others"), list):
        choices = (row["answer"], *_texts(row["others"]))
        return Item(name, source, category, _text(row, "prompt"), _choices(choices), 0)
    if isinstance(row.get("choices"), list):
        choices, right_index = tuple(_texts(row["choices"])), row.get("gold")
        if not isinstance(right_index, int) or isinstance(right_index, bool) or not 0 <= right_index < len(choices):
            raise ValueError(f"gold is {right_index!r}, not the number of one of {len(choices)} choices")
        return Item(name, source, category, _text(row, "query"), _choices(choices), right_index, chat=False)
    if "continuation" in row:
        return Item(name, source, category, _text(row, "context"), text=_text(row, "continuation"), chat=False)
    if "text" in row:
        return Item(name, source, category, "", text=_text(row, "text"), chat=False)
    raise ValueError(f"it has the keys {', '.join(sorted(map(str, row)))}, which is none of the forms")


def _choices(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(choices) < 2 or len(set(choices)) != len(choices):
        raise ValueError("choices must be two or more, and all different")
    return choices


def _texts(values: Sequence[Any]) -> list[str]:
    if not all(isinstance(v, str) and v for v in values):
        raise ValueError("every choice must be a text that is not empty")
    return list(values)


def _text(row: Mapping[str, object], key: str) -> str:
    if not isinstance(row.get(key), str) or not row[key]:
        raise ValueError(f"{key} must be a text that is not empty")
    return str(row[key])


def _fault(path: Path, line: int | None, message: str) -> Finding:
    return Finding(
        "ability.items",
        "error",
        f"{path.name}{f', line {line}' if line else ''}",
        message,
        "write {prompt, answer, others}, {query, choices, gold}, {context, continuation} or {text} on each line",
    )
