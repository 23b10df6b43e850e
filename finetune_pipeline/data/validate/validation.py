"""The validation step: raw files in, canonical examples and a quarantine out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.raw_files import FILES
from finetune_pipeline.data.readers.blocks import Block, read_blocks
from finetune_pipeline.data.validate.row_validation import validate_block
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec


def validation_settings(spec: TaskSpec) -> dict[str, Any]:
    """The part of the spec that validation depends on."""
    data = spec.data.model_dump(include={"format", "fields", "roles", "csv", "inject", "max_chars", "min_chars"})
    return {"output": spec.output.model_dump(), "system_prompt": spec.system_prompt, **data}


def validate(raw: Path, spec: TaskSpec, out: Path) -> dict[str, Any]:
    """Validate every row of the files in ``raw/files``.

    Writes ``examples.jsonl``, ``quarantine.jsonl`` (file, line, raw, findings) and ``findings.jsonl``.

    Returns:
        Facts: rows_in, kept, quarantined, quarantined_share, blank_lines, by_rule (findings per rule), shapes (rows per
        format), labels (rows kept per label), files (rows per file), ignored_keys (rows per key that nothing reads).
        Always rows_in == kept + quarantined.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = raw / FILES
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    size = sum(p.stat().st_size for p in paths.values())
    files = {name: Counter(rows_in=0, kept=0, quarantined=0) for name in paths}
    totals = {name: Counter[str]() for name in ("by_rule", "labels", "ignored", "shapes")}
    totals["labels"].update(dict.fromkeys(spec.labels, 0))
    blank = 0
    names: list[str] = []

    def blocks() -> Iterator[Block]:
        for name, path in paths.items():
            for block in read_blocks(path, name, spec):
                names.append(name)
                yield block

    with (
        (out / "examples.jsonl").open("wb") as examples,
        (out / "quarantine.jsonl").open("wb") as quarantine,
        (out / "findings.jsonl").open("wb") as findings,
    ):
        for number, result in enumerate(in_order(partial(validate_block, spec=spec), blocks(), size)):
            examples.write(result.examples)
            quarantine.write(msgspec.json.Encoder().encode_lines(result.quarantine))
            findings.write(msgspec.json.Encoder().encode_lines(result.findings))
            counts = {"rows_in": result.rows_in, "kept": result.kept, "quarantined": len(result.quarantine)}
            files[names[number]].update(counts)
            for name, counter in totals.items():
                counter.update(getattr(result, name))
            blank += result.blank
            done = sum(f["rows_in"] for f in files.values())
            tell("validated_examples", f"{done} rows validated", rows=done)
    rows = {name: sum(f[name] for f in files.values()) for name in ("rows_in", "kept", "quarantined")}
    return {
        **rows,
        "quarantined_share": round(rows["quarantined"] / max(1, rows["rows_in"]), 6),
        "blank_lines": blank,
        "by_rule": _most_first(totals["by_rule"]),
        "shapes": _most_first(totals["shapes"]),
        "labels": dict(totals["labels"]),
        "files": [{"file": name, **counts} for name, counts in files.items()],
        "ignored_keys": dict(sorted(totals["ignored"].items())),
    }


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))
