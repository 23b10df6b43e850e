"""Raw files to canonical examples, block by block: every row is kept, or quarantined with all its reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.artifacts import MANIFEST, digest_file, digest_json, read_json, write_json
from finetune_pipeline.data.cycles import cycles_left_alone
from finetune_pipeline.data.examples import PARTS
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.judging import judge_block
from finetune_pipeline.data.parts import Workers, joined, part_key, read_index, seal_part, take_over, write_index
from finetune_pipeline.data.raw_files import FILES
from finetune_pipeline.data.readers.blocks import Block, read_blocks
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

CODE = "4"
"""Raise when the judgement of equal rows changes: parts of earlier artifacts are then not taken over."""
LARGE = 32 << 20
SOURCES = "sources.json"
SAMPLED = "sampled.npy"
SAMPLE_ROW = np.dtype([("zeros", "<u1"), ("start", "<u8"), ("end", "<u8")])
"""A row whose id (a hash) begins with so many zeros, and where its line is: a sample of the rows that is none by place."""
_SAMPLED = re.compile(rb'\{"id":"(0+)[^\n]*\n')
_COUNTERS = ("by_rule", "labels", "ignored", "shapes")


def judged_by(spec: TaskSpec) -> dict[str, Any]:
    """The part of the spec that decides what a row is judged to be."""
    data = spec.data
    return {
        "output": spec.output.model_dump(),
        "system_prompt": spec.system_prompt,
        **{
            name: value.model_dump() if hasattr(value := getattr(data, name), "model_dump") else value
            for name in ("format", "fields", "roles", "csv", "inject", "max_chars", "min_chars")
        },
    }


@cycles_left_alone()
def validate(
    raw: Path, spec: TaskSpec, out: Path, earlier: Sequence[Path] = (), processes: int | None = None
) -> dict[str, Any]:
    """Judge every row of the files in ``raw/files``; unchanged files are taken over from `earlier` artifacts' folders as
    they are, and unchanged blocks of files that have grown.

    Writes parts with ``examples.jsonl`` and ``sampled.npy`` (see :mod:`finetune_pipeline.data.parts` and SAMPLE_ROW),
    ``sources.json`` (the files' digests), and ``quarantine.jsonl`` (file, line, raw, findings) and ``findings.jsonl``
    of all parts. Facts: rows_in, kept, quarantined, quarantined_share,
    blank_lines, by_rule (findings per rule), shapes (rows per format), labels (kept rows per label), files (rows per
    file), ignored_keys (rows per key that nobody reads), parts and taken_over. Always rows_in == kept + quarantined.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = raw / FILES
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    size = sum(p.stat().st_size for p in paths)
    settings = judged_by(spec)
    basis = digest_json([CODE, settings])
    digests = _file_digests(raw, paths)
    known = _known_files(basis, digests, earlier)
    parts: list[dict[str, Any]] = []
    taken = 0

    def blocks() -> Iterator[tuple[str, Block]]:
        """(key, block) of the blocks that no earlier artifact has judged."""
        nonlocal taken
        for path in paths:
            name = path.relative_to(folder).as_posix()
            if name in known and all([take_over(PARTS, part["key"], out, earlier) for part in known[name]]):
                parts.extend({k: part[k] for k in ("key", "file", "first")} for part in known[name])
                taken += len(known[name])
                continue
            for block in read_blocks(path, name, spec):
                key = part_key(CODE, settings, block.digest)
                parts.append({"key": key, "file": name, "first": block.first})
                if take_over(PARTS, key, out, earlier):
                    taken += 1
                else:
                    yield key, block

    with Workers(size > LARGE, processes) as workers:
        done = 0
        for rows in workers.run(partial(_make_part, spec=spec, out=out), blocks()):
            done += rows
            tell("validated_examples", f"{done} rows judged", rows=done)
    folders = [out / PARTS / part["key"] for part in parts]
    told = [read_json(part / "facts.json") for part in folders]
    for part, facts in zip(parts, told, strict=True):
        part.update({k: facts[k] for k in ("rows_in", "kept")})
    write_index(out, parts)
    write_json(out / SOURCES, {"basis": basis, "files": digests}, durable=False)
    for name in ("quarantine.jsonl", "findings.jsonl"):
        joined(out, name, folders)
    return {**_totals(parts, told, spec, paths, folder), "parts": len(parts), "taken_over": taken}


def _file_digests(raw: Path, paths: Sequence[Path]) -> dict[str, str]:
    """The digest of every file by its name; what the raw artifact's manifest knows is not read."""
    manifest = raw / MANIFEST
    told = read_json(manifest)["files"] if manifest.is_file() else {}
    found = {}
    for path in paths:
        known = told.get(path.relative_to(raw).as_posix())
        found[path.relative_to(raw / FILES).as_posix()] = known["sha256"] if known else digest_file(path)
    return found


def _known_files(basis: str, digests: dict[str, str], earlier: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The parts of every file that an earlier artifact has judged in the same way."""
    known: dict[str, list[dict[str, Any]]] = {}
    for folder in earlier:
        if not (folder / SOURCES).is_file() or (told := read_json(folder / SOURCES))["basis"] != basis:
            continue
        same = {name for name, digest in digests.items() if told["files"].get(name) == digest} - known.keys()
        known.update({name: [] for name in same})
        for part in read_index(folder):
            if part["file"] in same:
                known[part["file"]].append(part)
    return known


def _make_part(item: tuple[str, Block], spec: TaskSpec, out: Path) -> int:
    """Judge one block and write its part. Returns the number of rows."""
    key, block = item
    judged = judge_block(block, spec)
    making = out / PARTS / f".making-{key}"
    making.mkdir(parents=True, exist_ok=True)
    (making / "examples.jsonl").write_bytes(judged.examples)
    found = [(len(m[1]), *m.span()) for m in _SAMPLED.finditer(judged.examples) if _begins(judged.examples, m.start())]
    np.save(making / SAMPLED, np.array(found, SAMPLE_ROW))
    write_rows(making / "quarantine.jsonl", judged.quarantine)
    write_rows(making / "findings.jsonl", judged.findings)
    counts = {name: dict(sorted(getattr(judged, name).items())) for name in _COUNTERS}
    facts = {"rows_in": judged.rows_in, "kept": judged.kept, "blank": judged.blank, **counts}
    write_json(making / "facts.json", facts, durable=False)
    seal_part(making, out / PARTS / key)
    return judged.rows_in


def _begins(data: bytes, at: int) -> bool:
    return at == 0 or data[at - 1 : at] == b"\n"


def _totals(
    parts: Sequence[dict[str, Any]], told: Sequence[dict[str, Any]], spec: TaskSpec, paths: Sequence[Path], folder: Path
) -> dict[str, Any]:
    sums = {name: Counter[str]() for name in _COUNTERS}
    sums["labels"].update(dict.fromkeys(spec.labels, 0))
    files = {p.relative_to(folder).as_posix(): {"rows_in": 0, "kept": 0, "quarantined": 0} for p in paths}
    for part, facts in zip(parts, told, strict=True):
        for name in _COUNTERS:
            sums[name].update(facts[name])
        counts = files[part["file"]]
        counts["rows_in"] += facts["rows_in"]
        counts["kept"] += facts["kept"]
        counts["quarantined"] += facts["rows_in"] - facts["kept"]
    totals = {key: sum(f[key] for f in files.values()) for key in ("rows_in", "kept", "quarantined")}
    return {
        **totals,
        "quarantined_share": round(totals["quarantined"] / max(1, totals["rows_in"]), 6),
        "blank_lines": sum(facts["blank"] for facts in told),
        "by_rule": dict(sorted(sums["by_rule"].items(), key=lambda kv: (-kv[1], kv[0]))),
        "shapes": dict(sorted(sums["shapes"].items(), key=lambda kv: (-kv[1], kv[0]))),
        "labels": dict(sums["labels"]),
        "files": [{"file": name, **counts} for name, counts in files.items()],
        "ignored_keys": dict(sorted(sums["ignored"].items())),
    }
