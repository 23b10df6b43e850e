"""Reads the items of a benchmark file: what a model would be asked, whatever the file's fields are called."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_pipeline.findings import Finding, FindingsError

_JOINED = (
    ("instruction", "input"), ("context", "question"), ("passage", "question"), ("premise", "hypothesis"),
    ("sentence1", "sentence2"), ("context", "query"),
)  # fmt: skip
_SINGLE = ("question", "query", "prompt", "instruction", "problem", "goal", "premise", "context", "passage", "sentence",
           "input", "text", "content", "utterance")  # fmt: skip
_CHATS = ("messages", "conversations", "conversation")
_USERS = ("user", "human")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
SUFFIXES = (".jsonl", ".json", ".txt", ".md")


@dataclass(frozen=True)
class Item:
    """One thing a benchmark asks. line: of a JSON Lines or text file; of a JSON document the item's number."""

    file: str
    line: int
    text: str


def read_benchmark(path: Path, name: str | None = None) -> list[Item]:
    """The items of a file: JSON Lines, a JSON document, or text by paragraphs; any of them gzipped.

    Of an object the item is what is asked: instruction and input, context and question, the user's turns, or the first of
    the usual fields; where no name is usual, its longest text. Raises FindingsError naming file and line of what cannot
    be read.
    """
    name = name or path.name
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise _unreadable(name, f"files that end in {suffix or 'nothing'} are not read", f"write {', '.join(SUFFIXES)}")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(name, str(error), "make the file readable") from error
    except UnicodeDecodeError as error:
        raise _unreadable(name, f"byte {error.start:,} is not UTF-8", "save the file as UTF-8") from error
    if suffix in (".txt", ".md"):
        found = list(_paragraphs(text))
    elif suffix == ".jsonl":
        found = [(line, _item_texts(value)) for line, value in _lines(text, name)]
    else:
        try:
            found = [(number, _item_texts(row)) for number, row in enumerate(_rows(json.loads(text)), 1)]
        except (ValueError, RecursionError) as error:
            raise _unreadable(name, f"not JSON: {error}", "write it with a JSON library") from error
    items = [Item(name, line, asked) for line, texts in found for asked in texts if asked.strip()]
    if not items:
        raise _unreadable(name, "no text was found in it", "give a file whose rows hold what is asked")
    return items


def _unreadable(name: str, message: str, fix: str) -> FindingsError:
    return FindingsError([Finding("data.benchmark_unreadable", "error", name, message, fix)])


def _lines(text: str, name: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _unreadable(f"{name}:{number}", f"not JSON: {error}", "write it with a JSON library") from error


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    line, at = 1, 0
    for gap in [*(m.span() for m in _PARAGRAPHS.finditer(text)), (len(text), len(text))]:
        body = text[at : gap[0]]
        if body.strip():
            yield line + body[: len(body) - len(body.lstrip())].count("\n"), [body.strip()]
        line += text.count("\n", at, gap[1])
        at = gap[1]


def _rows(document: Any) -> Iterator[Any]:
    """The items of a JSON document: of its list, or of the lists in its object."""
    if isinstance(document, list):
        yield from document
    elif isinstance(document, Mapping) and any(isinstance(v, list) for v in document.values()):
        for value in document.values():
            if isinstance(value, list):
                yield from value
    else:
        yield document


def _item_texts(row: Any) -> list[str]:
    """What a row asks; more than one text when it nests instances of one instruction."""
    if isinstance(row, Mapping):
        for name in _CHATS:
            if isinstance(row.get(name), list) and (asked := _user_turns(row[name])):
                return [asked]
        nested = row.get("instances")
        if isinstance(nested, list) and nested and all(isinstance(n, Mapping) for n in nested):
            outer = {k: v for k, v in row.items() if k != "instances"}
            return list(dict.fromkeys(text for n in nested for text in _item_texts({**outer, **n})))
        for pair in _JOINED:
            if all(isinstance(row.get(name), str) for name in pair):
                return ["\n\n".join(row[name] for name in pair if row[name].strip())]
        for name in _SINGLE:
            if isinstance(row.get(name), str) and row[name].strip():
                return [row[name]]
    texts = list(_strings(row))
    return [max(texts, key=len)] if texts else []


def _user_turns(turns: Sequence[Any]) -> str:
    said = []
    for turn in turns:
        if isinstance(turn, Mapping) and (turn.get("role") or turn.get("from")) in _USERS:
            content = turn.get("content", turn.get("value"))
            said += [content] if isinstance(content, str) else list(_strings(_without_types(content)))
    return "\n".join(said)


def _without_types(content: Any) -> Any:
    """Typed parts of a turn without the word that names their type."""
    parts = content if isinstance(content, list) else []
    return [{k: v for k, v in part.items() if k != "type"} if isinstance(part, Mapping) else part for part in parts]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
