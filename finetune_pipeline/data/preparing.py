"""One part of the valid rows made ready for comparison: personal data replaced, columns and sketches computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.columns import LOST, columns_of
from finetune_pipeline.data.contamination import MATCHES, Benchmarks
from finetune_pipeline.data.examples import Example, decode_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.parts import seal_part
from finetune_pipeline.data.scrubbing import scrub_example
from finetune_pipeline.data.sketches import loose_forms, sketch
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.findings import Finding, as_rows
from finetune_pipeline.spec import TaskSpec

RAW_SHOWN = 2000


@dataclass(frozen=True)
class Preparation:
    """What a part is prepared with: the spec, shared templates, benchmark items, and the key of the fingerprints."""

    spec: TaskSpec
    templates: Templates
    benchmarks: Benchmarks | None
    key: bytes


def quarantined(example: Example, finding: Finding) -> dict[str, Any]:
    """A row of ``quarantine.jsonl``; the text is shown scrubbed and cut."""
    messages = scrub_example(example)[0].messages
    return {
        "file": example.source.get("file"),
        "line": example.source.get("line"),
        "raw": msgspec.json.encode({"id": example.id, "messages": messages}).decode()[:RAW_SHOWN],
        "findings": as_rows([finding]),
    }


def prepare_part(source: Path, making: Path, final: Path, how: Preparation) -> None:
    """Make the part `final` from the valid rows of the part `source`.

    Files: ``examples.jsonl`` (all rows, scrubbed), ``rows.npy`` (see :mod:`finetune_pipeline.data.columns`),
    ``sketch.npy`` (MinHash band keys of the prompts), ``scrubbed.jsonl`` (id, source, kind, count, fingerprints),
    ``quarantine.jsonl``, ``findings.jsonl`` and ``facts.json``.
    """
    making.mkdir(parents=True, exist_ok=True)
    data = (source / "examples.jsonl").read_bytes()
    examples = decode_examples(data, str(source))
    lines = data.splitlines(keepends=True)
    del data
    scrubbed: list[dict[str, Any]] = []
    findings: list[Finding] = []
    lost: dict[int, Finding] = {}
    for i, example in enumerate(examples):
        changed, counts, fingerprints = scrub_example(example, how.spec.labels, how.key, how.spec.data.scrub_names)
        if not counts:
            continue
        scrubbed += [
            {"id": example.id, "source": example.source, "kind": kind, "count": n, "fingerprints": fingerprints[kind]}
            for kind, n in counts.items()
        ]
        if how.spec.data.scrub == "replace":
            examples[i] = changed
            lines[i] = msgspec.json.encode(changed.to_dict()) + b"\n"
            continue
        finding = _personal_data(example, counts, how.spec.data.scrub == "drop")
        findings.append(finding)
        if finding.severity == "error":
            lost[i] = finding
    rows = columns_of(examples, lines, how.spec.labels)
    rows["lost"][list(lost)] = LOST.index("personal_data")
    matches = how.benchmarks.matches(examples) if how.benchmarks is not None else {}
    for i, (_, finding) in matches.items():
        if i not in lost:
            findings.append(finding)
            lost[i] = finding
            rows["lost"][i] = LOST.index("benchmark")
    (making / "examples.jsonl").write_bytes(b"".join(lines))
    np.save(making / "rows.npy", rows)
    threshold = how.spec.data.near_duplicate_threshold
    np.save(making / "sketch.npy", sketch(loose_forms([e.user_text for e in examples], how.templates), threshold))
    write_rows(making / "scrubbed.jsonl", scrubbed)
    write_rows(making / "quarantine.jsonl", (quarantined(examples[i], finding) for i, finding in sorted(lost.items())))
    write_rows(making / "findings.jsonl", as_rows(findings))
    write_rows(making / MATCHES, (match.to_dict() for match, _ in matches.values()))
    hits: Counter[str] = Counter()
    for row in scrubbed:
        hits[row["kind"]] += row["count"]
    touched = len({(r["source"]["file"], r["source"]["line"]) for r in scrubbed})
    rules = Counter(f.rule for f in findings)
    write_json(
        making / "facts.json",
        {"rows": len(rows), "scrubbed": dict(hits), "touched": touched, "by_rule": rules},
        durable=False,
    )
    seal_part(making, final)


def _personal_data(example: Example, counts: Mapping[str, int], drop: bool) -> Finding:
    told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    return Finding(
        "data.personal_data",
        "error" if drop else "warning",
        example.place,
        f"personal data or secrets in the text: {told}",
        "remove them at the source, or set data.scrub: replace",
    )
