"""What to write into task.yaml for rows in no known format, by what their values look like, then by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_pipeline.data.examples import ROLES
from finetune_pipeline.data.names import LABELS, SPEAKERS, TEXTS, WRITTEN, by_name, key_path
from finetune_pipeline.spec import TaskSpec

_NUMBERED = re.compile(r"c\d+")


def add_fields(row: Mapping[str, Any], spec: TaskSpec) -> str:
    """The line to add to task.yaml so that such rows are read; empty where nothing in the row looks like it."""
    if line := _dialogue(row):
        return line
    texts = {k: v for k, v in row.items() if isinstance(v, str) and v.strip() and k not in ("id", "group", "time")}
    labelled = [k for k, v in texts.items() if v.strip() in spec.labels]
    answer = labelled[0] if labelled else by_name(texts, LABELS) or by_name(texts, WRITTEN)
    rest = {k: v for k, v in texts.items() if k != answer}
    text = by_name(rest, TEXTS) or max(rest, key=lambda k: len(rest[k]), default=None)
    if answer is None and len(rest) == 2 and not all(_NUMBERED.fullmatch(k) for k in rest):
        answer = next(k for k in rest if k != text)
    if text is None or answer is None or text == answer:
        return ""
    names = ("text", "label") if spec.labels else ("prompt", "completion")
    if spec.labels or text not in ("prompt", "question", "query", "input"):
        wanted = dict(zip(names, (text, answer), strict=True))
    else:
        wanted = {"completion": answer}
    return declare({name: key for name, key in wanted.items() if name != key})


def _dialogue(row: Mapping[str, Any]) -> str:
    """The line for a row with a list of turns, empty for any other."""
    for key, value in row.items():
        if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
            continue
        texts = {k: v for k, v in value[0].items() if isinstance(v, str)}
        if len(texts) < 2:
            continue
        speaker = by_name(texts, SPEAKERS) or min(texts, key=lambda k: len(texts[k]))
        said = max((k for k in texts if k != speaker), key=lambda k: len(texts[k]))
        plain = (speaker, said) == ("role", "content")
        fields = {
            "messages": key if plain else f"{key_path(key)}[].{{role: {key_path(speaker)}, content: {key_path(said)}}}"
        }
        owner = next((k for k, v in row.items() if k != "id" and k.endswith("id") and isinstance(v, str | int)), None)
        if owner is not None:
            fields["group"] = owner
        others = [s for s in dict.fromkeys(str(t.get(speaker)) for t in value) if s not in ROLES][:2]
        roles = {name: role for name, role in zip(others, ("user", "assistant"), strict=False)}
        return declare(fields, roles, expressions=() if plain else ("messages",))
    return ""


def declare(fields: Mapping[str, str], roles: Mapping[str, str] | None = None, expressions: Iterable[str] = ()) -> str:
    """The line of task.yaml that declares these fields. `expressions`: those that are no plain keys."""

    def quoted(text: str) -> str:
        return text if re.fullmatch(r"[A-Za-z_][\w()]*", text) else "'" + text.replace("'", "''") + "'"

    pairs = (f"{n}: {quoted(v if n in expressions else key_path(v))}" for n, v in fields.items())
    named = ", ".join(f"{quoted(name)}: {role}" for name, role in (roles or {}).items())
    return f"`data: {{fields: {{{', '.join(pairs)}}}{f', roles: {{{named}}}' if named else ''}}}`"
