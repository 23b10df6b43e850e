"""Fuzz log intake, `POST /feedback` and the reading of raw files: no crash, and every line accounted for.

A hostile line is a valid row in which values are replaced (numbers that JSON does not have, integers of 400 and 5,000 digits,
times at the edges of the calendar, lone surrogates, deep nesting, text that looks like JSON, control tokens or personal data),
keys are dropped, doubled or added, and bytes damaged; or it is noise. Valid rows between them must all be kept.
"""

import json
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune_pipeline.data.json_lines import decode_line, is_blank
from finetune_pipeline.data.raw_files import container_of
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.validate.validation import in_blocks, validate_block
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.log_rows import parse_line
from finetune_pipeline.serving.requests import BadRequest, parse_feedback
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline_tests.unit.production.streams import make_task

VALID_EVERY = 100
"""Every 100th line of a file is valid, from the first on."""
_LOG = {"id": "r", "timestamp": "2026-05-01T10:00:00Z", "input": "where is it", "output": "a", "model_version": "1"}
_VALID: dict[str, list[dict[str, object]]] = {
    "logs": [
        {**_LOG, "user": "ann", "feedback": {"label": "b", "score": 0.5, "flag": "wrong"}},
        {**_LOG, "messages": [{"role": "user", "content": "where is it"}]},
        {"id": "r", "timestamp": "2026-05-01T10:00:00Z", "feedback": {"score": 1}},
    ],
    "feedback": [{"id": "r", "score": 0.5}, {"id": "r", "label": "b", "flag": True, "user": "ann"}],
    "raw": [
        {"text": "where is it", "label": "a", "time": "2026-05-01T10:00:00Z", "group": "g", "tags": ["t"], "id": "r"},
        {"messages": [{"role": "user", "content": "where"}, {"role": "assistant", "content": "a"}]},
        {"instruction": "where", "input": "is it", "output": "b", "origin": "human"},
        {"conversations": [{"from": "human", "value": "where"}, {"from": "gpt", "value": "a"}]},
    ],
}
_NUMBERS = ["NaN", "-Infinity", "1e999", "-1e999", "1e308", "-0", "1" * 400, "1" * 5000, "0x1f", "1.0e-999", "01"]
_TIMES = [
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-02-30T00:00:00Z", "2026-05-01T10:00:00"),
    *("2026-05-01T24:00:00Z", "2026-05-01T10:00:60Z", "2026-W01-1T10:00:00Z", "10000-01-01T00:00:00Z", "20260501"),
    *("0001-01-01", "2026-05-01T10:00:00+23:59", "2199-12-31T23:59:59-23:59", "1970-01-01T00:00:00+23:59"),
    "٢٠٢٦-٠٥-٠١",
]
_TEXTS = [
    *("", " ", "\0", "a", "b", "champion", '"facts": {', "{}", "[{", "<|im_end|>\n<|im_start|>system", "\u202e"),
    "\ufeff",
    *("a." * 300 + "@", "+49 " + "1 " * 300, "1" * 300, "DE" + "89" * 100, "eyJ" + "a" * 300, "password=" + "(" * 200),
    *("http://" + "a/" * 200, "::" * 100, "é" * 300, "👩‍👩‍👧" * 50, "e\u0301" * 200, "=1+1", "\r\n\u2028"),
]
_VALUES = [
    *_NUMBERS,
    *(json.dumps(text) for text in [*_TIMES, *_TEXTS]),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\x"', "null", "true", "[]", "{}", '{"a": {"a": NaN}}', "'a'", "undefined"),
    *("[" * 400 + "]" * 400, "[" * 3000 + "]" * 3000, '{"a":' * 300 + "1" + "}" * 300, '[{"role": "user"}]'),
]


@dataclass
class Tally:
    """Counts of the lines sent through one entry point. valid: lines that must be kept; lost: neither kept nor refused."""

    lines: int = 0
    kept: int = 0
    refused: int = 0
    valid: int = 0
    valid_kept: int = 0
    crashes: int = 0
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def lost(self) -> int:
        return self.lines - self.kept - self.refused

    @property
    def good(self) -> bool:
        return not self.lost and not self.crashes and self.valid == self.valid_kept


def hostile(rng: random.Random, way: str) -> bytes:
    """Make a fuzzed line, without its line break."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randint(1, 60)).replace(b"\n", b"")
    row = {key: json.dumps(value, ensure_ascii=False) for key, value in rng.choice(_VALID[way]).items()}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change, key = rng.random(), rng.choice(list(row) or ["id"])
        if change < 0.7:
            row[key] = rng.choice(_VALUES)
        elif change < 0.8:
            row.pop(key, None)
        elif change < 0.9:
            value = rng.choice(_VALUES)
            row[rng.choice((*"áx", "score", "label", "time", "user", "tools", "metadata", "generator"))] = value
        elif "{" in row.get(key, ""):
            row[key] = row[key].replace('"', "", 1).replace(": ", f": {rng.choice(_VALUES)}, ", 1)
    pairs = [f'"{key}": {value}' for key, value in row.items()]
    if rng.random() < 0.05:
        pairs.append(rng.choice(pairs or ["1"]))
    line = f"{{{', '.join(pairs)}}}".encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        start = rng.randrange(len(line) + 1)
        line = line[:start] + rng.randbytes(rng.randint(0, 3)).replace(b"\n", b"") + line[start + rng.randint(0, 4) :]
    return line[: rng.randrange(len(line) + 1)] if rng.random() < 0.03 else line


def lines_of(rng: random.Random, way: str, count: int) -> Iterator[bytes]:
    """Make the lines of a file. Ids of valid ones begin with `sound-`. None is blank."""
    for number in range(count):
        line = b"" if number % VALID_EVERY else json.dumps({**_VALID[way][0], "id": f"sound-{number}"}).encode()
        while is_blank(line.lstrip(b"\0")):
            line = hostile(rng, way)
        yield line


def through_logs(task: Task, home: Path, lines: list[bytes], tally: Tally) -> None:
    """Ingest all lines as one log file."""
    (task.folder / "logs" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    logs = read_logs(task, ArtifactStore(home))
    assert logs.lines == len(logs.rows) + logs.duplicates + logs.feedback + logs.shadows + len(logs.quarantine)
    tally.kept += logs.lines - len(logs.quarantine)
    tally.refused += len(logs.quarantine)
    tally.valid_kept += sum(row["id"].startswith("sound-") for row in logs.rows)
    tally.rules.update(logs.by_rule)


def through_feedback(task: Task, lines: list[bytes], tally: Tally) -> None:
    """Send each line as the body of a request. What is accepted is logged as by `finetune serve`, and ingested."""
    for number, line in enumerate(lines, 1):
        try:
            body, findings, _ = decode_line(line, "body")
            if findings:
                raise BadRequest(findings[0].rule)
            name, feedback, _ = parse_feedback(body, task.spec)
        except BadRequest as error:
            tally.refused += 1
            tally.rules[str(error)[:40]] += 1
            continue
        logged = json.dumps({"id": name, "timestamp": _LOG["timestamp"], "feedback": feedback}, ensure_ascii=False)
        row = parse_line(logged.encode(), False, {"file": "a", "line": number}, task.spec, b"k")
        assert row["kind"] == "feedback", f"accepted, and quarantined afterwards: {row}"
        tally.kept += 1
        tally.valid_kept += name.startswith("sound-")


def through_raw(task: Task, folder: Path, lines: list[bytes], tally: Tally) -> None:
    """Read and validate all lines as one raw file."""
    path = folder / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    container_of(path, path.name, task.spec)
    for block in in_blocks(read_records(path, path.name, task.spec), path.name):
        result = validate_block(block, task.spec)
        tally.kept += result.kept
        tally.refused += len(result.quarantine)
        tally.valid_kept += result.examples.count(b'"id":"sound-')
        tally.rules.update(result.by_rule)


def fuzz(lines: int, seed: int, file_lines: int) -> dict[str, Tally]:
    """Send `lines` lines through each entry point. After a crash, which is printed, the lines of its file count as lost."""
    tallies = {way: Tally() for way in _VALID}
    for way, tally in tallies.items():
        rng = random.Random(f"{seed} {way}")
        while tally.lines < lines:
            with tempfile.TemporaryDirectory(prefix="finetune-fuzz-") as root:
                task = load_task(make_task(Path(root)))
                file = list(lines_of(rng, way, min(file_lines, lines - tally.lines)))
                tally.lines += len(file)
                tally.valid += len(range(0, len(file), VALID_EVERY))
                try:
                    if way == "logs":
                        through_logs(task, Path(root) / "home", file, tally)
                    elif way == "feedback":
                        through_feedback(task, file, tally)
                    else:
                        through_raw(task, Path(root), file, tally)
                except Exception:  # noqa: BLE001 - this is what is counted
                    traceback.print_exc()
                    tally.crashes += 1
    return tallies
