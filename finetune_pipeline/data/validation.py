"""Raw files to canonical examples, line by line: every line is kept, or quarantined with all its reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from finetune_pipeline.data.decoding import decode_line
from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.data.formats import quoted, read_turns
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, is_blank, read_lines
from finetune_pipeline.data.raw_files import FILES, PRODUCTION_FILE
from finetune_pipeline.data.row_rules import check_row, final_messages
from finetune_pipeline.data.scrubbing import scrub_text
from finetune_pipeline.findings import Finding, as_rows, errors
from finetune_pipeline.spec import TaskSpec

RAW_SHOWN = 2000
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Checked:
    """The judgement of one line: an example if it may be kept; all findings (warnings too); keys nobody reads."""

    example: Example | None
    findings: list[Finding]
    ignored: list[str]


def check_line(data: bytes, file: str, number: int, spec: TaskSpec) -> Checked:
    """Judge one non-blank line of a raw file."""
    place = f"{file}:{number}"
    value, found, readable = decode_line(data, place)
    if not readable:
        return Checked(None, found, [])
    if not isinstance(value, dict):
        found.append(
            Finding(
                "data.not_an_object",
                "error",
                place,
                f"the line is {quoted(value)}, not an object",
                'write one object a line: {"text": "…", "label": "…"}',
            )
        )
        return Checked(None, found, [])
    turns = read_turns(value, spec, place)
    found += turns.findings
    lossy = any(f.rule == "data.invalid_utf8" for f in found)  # then it was decoding here that put U+FFFD in
    row_findings = check_row(value, turns, spec, place)
    found += [f for f in row_findings if not (lossy and f.rule == "data.replacement_character")]
    if errors(found):
        return Checked(None, found, turns.ignored)
    messages = final_messages(turns, spec)
    source: dict[str, Any] = {"file": file, "line": number}
    name = example_id(messages)
    if isinstance(value.get("id"), str) and value["id"] != name:
        source["id"] = value["id"]
    origin = value.get("origin") or ("production" if file == PRODUCTION_FILE else "human")
    example = Example(
        name,
        messages,
        messages[-1]["content"] if spec.labels else None,
        value.get("group"),
        origin,
        source,
        value.get("tags") or [],
    )
    return Checked(example, found, turns.ignored)


def raw_shown(data: bytes) -> str:
    """The line as quarantine shows it: decoded with replacements, scrubbed, cut. File and line lead to the original."""
    return scrub_text(data[: 4 * RAW_SHOWN].decode("utf-8", "replace"))[:RAW_SHOWN]


def _line_too_long(place: str) -> Finding:
    return Finding(
        "data.line_too_long",
        "error",
        place,
        f"the line is longer than {MAX_LINE_BYTES} bytes",
        "one row a line; is the file JSON Lines at all?",
    )


def validate(raw: Path, spec: TaskSpec, out: Path) -> dict[str, Any]:
    """Judge every line of the files in ``raw/files``.

    Writes ``examples.jsonl``, ``quarantine.jsonl`` (file, line, raw, findings) and ``findings.jsonl``. Facts: rows_in,
    kept, quarantined, quarantined_share, blank_lines, by_rule (findings per rule), labels (kept rows per label), files
    (rows per file), ignored_keys (rows per key that nobody reads). Always rows_in == kept + quarantined.
    """
    out.mkdir(parents=True, exist_ok=True)
    by_rule: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    labels: Counter[str] = Counter(dict.fromkeys(spec.labels, 0))
    files: list[dict[str, Any]] = []
    blank = 0
    folder = raw / FILES
    with (
        (out / "examples.jsonl").open("wb") as examples,
        (out / "quarantine.jsonl").open("wb") as quarantine,
        (out / "findings.jsonl").open("wb") as told,
    ):
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file = path.relative_to(folder).as_posix()
            counts: dict[str, Any] = {"file": file, "rows_in": 0, "kept": 0, "quarantined": 0}
            for number, line, cut in read_lines(path):
                place = f"{file}:{number}"
                notes, body = [], line
                if number == 1 and line.startswith(_BOM):
                    body = line[len(_BOM) :]
                    notes = [
                        Finding(
                            "data.byte_order_mark",
                            "note",
                            place,
                            "the file starts with a byte order mark",
                            "nothing to do; it was left out",
                        )
                    ]
                if is_blank(body):
                    blank += 1
                    continue
                checked = Checked(None, [_line_too_long(place)], []) if cut else check_line(body, file, number, spec)
                found = notes + checked.findings
                counts["rows_in"] += 1
                counts["kept" if checked.example else "quarantined"] += 1
                ignored.update(checked.ignored)
                by_rule.update(f.rule for f in found)
                for row in as_rows(found):
                    _write(told, row)
                if checked.example:
                    _write(examples, checked.example.to_dict())
                    labels.update([checked.example.label] if checked.example.label is not None else [])
                else:
                    _write(
                        quarantine, {"file": file, "line": number, "raw": raw_shown(body), "findings": as_rows(found)}
                    )
            files.append(counts)
    totals = {key: sum(f[key] for f in files) for key in ("rows_in", "kept", "quarantined")}
    return {
        **totals,
        "quarantined_share": round(totals["quarantined"] / max(1, totals["rows_in"]), 6),
        "blank_lines": blank,
        "by_rule": dict(sorted(by_rule.items(), key=lambda kv: (-kv[1], kv[0]))),
        "labels": dict(labels),
        "files": files,
        "ignored_keys": dict(sorted(ignored.items())),
    }


def _write(out: BinaryIO, row: dict[str, Any]) -> None:
    out.write(msgspec.json.encode(row) + b"\n")
