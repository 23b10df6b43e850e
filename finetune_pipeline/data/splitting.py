"""Train, validation and sealed test: whole units, by label, and never a row that changes sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from finetune_pipeline.artifacts import digest_file, write_json
from finetune_pipeline.data.certificate import certify
from finetune_pipeline.data.columns import fetch
from finetune_pipeline.data.duplicates import PREPARED, TABLE, TEMPLATES
from finetune_pipeline.data.examples import ORIGINS, PARTS, Example, decode_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.leakage import SMALL, fingerprints, write_fingerprints
from finetune_pipeline.data.ledger import SPLITS, read_ledger
from finetune_pipeline.data.parts import read_index
from finetune_pipeline.data.placement import BRIDGE, NOT_HUMAN, Placement, place, shares_of
from finetune_pipeline.data.preparing import quarantined
from finetune_pipeline.data.settling import KEPT
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.findings import Finding, count_by_rule
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

FILES = {"train": "train/examples.jsonl", "validation": "validation/examples.jsonl", "test": "test/sealed.jsonl"}
ASSIGNMENTS = "assignments.npy"
LEAKAGE = "leakage.json"
_FIX = "nothing to do; the row is left out"


def split(
    reviewed: Path,
    clean: Path,
    spec: TaskSpec,
    ledger: Path,
    out: Path,
    earlier: Sequence[Path] = (),
    seal: Callable[[bytes], bytes] | None = None,
) -> dict[str, Any]:
    """Give every row a split (see :func:`finetune_pipeline.data.placement.place`) and prove that nothing leaks.

    Writes ``train/examples.jsonl``, ``validation/examples.jsonl``, ``test/sealed.jsonl``, ``quarantine.jsonl``,
    ``assignments.npy`` (ledger.ENTRY; removed repeats are listed too), ``placed.npy`` (id and split of every row with
    one), ``leakage.json`` (see :func:`finetune_pipeline.data.certificate.certify`) with the digests of the three files,
    ``templates.json``, and for small sets ``test/fingerprints.json``. `seal` makes the rows of the test unreadable (see
    :mod:`finetune_pipeline.data.sealing`). The ledger is only read;
    :func:`finetune_pipeline.data.ledger.record_assignments` adds to it once this is published.
    Facts: rows_in, kept, quarantined, restored, counts, labels (per split and label), origins (per split), shares,
    wanted_shares, clusters, by_rule, seed, leaks. Once recorded, the same rows give the same files again.
    """
    rows = np.load(reviewed / TABLE)
    placement = place(rows, read_ledger(ledger), spec)
    tell("splits", f"{len(placement.names)} clusters placed", rows=len(rows))
    prepared = [clean / PREPARED / name for name in _prepared_keys(clean)]
    restored = fetch(
        prepared,
        rows["part"][placement.restored].astype(np.int64),
        rows["start"][placement.restored],
        rows["end"][placement.restored],
    )
    findings: list[tuple[Example, Finding]] = []
    for name in SPLITS:
        (out / FILES[name]).parent.mkdir(parents=True, exist_ok=True)
    with (
        (out / FILES["train"]).open("wb") as train,
        (out / FILES["validation"]).open("wb") as validation,
        (out / FILES["test"]).open("wb") as test,
    ):
        files: list[BinaryIO] = [train, validation, test]
        index = read_index(reviewed)
        bounds = np.searchsorted(rows["part"], np.arange(len(index) + 1))
        for number, part in enumerate(index):
            a, b = bounds[number], bounds[number + 1]
            mine = a + np.flatnonzero(rows["state"][a:b] == KEPT)
            path = reviewed / PARTS / part["key"] / "examples.jsonl"
            lines = path.read_bytes().splitlines(keepends=True)
            codes = placement.split[mine]
            for code, file in enumerate(files):
                file.write(b"".join(compress(lines, (codes == code).tolist())))
            refused = np.flatnonzero(codes < 0)
            for i in refused:
                example = decode_examples(lines[i], str(path))[0]
                findings.append((example, _refusal(example, placement, int(mine[i]))))
        for example, row in zip(restored, placement.restored.tolist(), strict=True):
            write_one(files[placement.split[row]], example)
    write_rows(out / "quarantine.jsonl", (quarantined(e, f) for e, f in findings))
    np.save(out / ASSIGNMENTS, placement.assignments)
    there = placement.split >= 0
    placed = np.zeros(int(there.sum()), [("id", "<u8"), ("split", "<u1")])
    placed["id"], placed["split"] = rows["id"][there], placement.split[there]
    np.save(out / "placed.npy", placed)
    templates = Templates.from_dict(read_rows(clean / TEMPLATES)[0])
    write_rows(out / TEMPLATES, [templates.to_dict()])
    if len(placed) <= SMALL:
        test_rows = decode_examples((out / FILES["test"]).read_bytes(), FILES["test"])
        write_fingerprints(out / "test" / "fingerprints.json", fingerprints(test_rows, templates))
    if seal:
        (out / FILES["test"]).write_bytes(seal((out / FILES["test"]).read_bytes()))
    tell("splits", "looking for leaks", rows=len(placed))
    certificate = certify(rows, placement.split, prepared, templates, spec, out, earlier)
    certificate["files"] = {name: digest_file(out / path) for name, path in FILES.items()}
    write_json(out / LEAKAGE, certificate)
    return _facts(rows, placement, [f for _, f in findings], certificate, spec)


def _prepared_keys(clean: Path) -> Iterator[str]:
    for part in read_index(clean):
        yield part["prepared"]


def write_one(file: BinaryIO, example: Example) -> None:
    """Append one example to an open file."""
    file.write(msgspec.json.encode(example.to_dict()) + b"\n")


def _refusal(example: Example, placement: Placement, row: int) -> Finding:
    if placement.split[row] == NOT_HUMAN:
        message = (
            f"a row of origin {example.origin!r} says nearly the same as a row of the test set: in train it "
            "would leak, in test it would be no judge"
        )
        return Finding("data.not_human_in_test_cluster", "error", example.place, message, _FIX)
    if placement.split[row] != BRIDGE:
        raise RuntimeError(f"row {example.id} has no split, and no reason for it")
    mask = int(placement.bridged[row])
    names = " and ".join(name for code, name in enumerate(SPLITS) if mask >> code & 1)
    message = f"this new row is close to rows in {names}: wherever it went, it would leak"
    return Finding("data.bridges_splits", "error", example.place, message, _FIX)


def _facts(
    rows: np.ndarray, placement: Placement, findings: Sequence[Finding], certificate: dict[str, Any], spec: TaskSpec
) -> dict[str, Any]:
    split = placement.split
    counts = {name: int((split == code).sum()) for code, name in enumerate(SPLITS)}
    total = max(1, sum(counts.values()))
    labels, origins = {}, {}
    for code, name in enumerate(SPLITS):
        here = rows[split == code]
        many = np.bincount(here["label"] + 1, minlength=len(spec.labels) + 1)
        labels[name] = {label: int(n) for label, n in zip(spec.labels, many[1:], strict=True)}
        some = np.bincount(here["origin"], minlength=len(ORIGINS))
        origins[name] = {origin: int(n) for origin, n in sorted(zip(ORIGINS, some, strict=True)) if n}
    return {
        "rows_in": int((rows["state"] == KEPT).sum()),
        "kept": sum(counts.values()) - len(placement.restored),
        "restored": len(placement.restored),
        "quarantined": len(findings),
        "counts": counts,
        "labels": labels,
        "origins": origins,
        "shares": {name: round(n / total, 6) for name, n in counts.items()},
        "wanted_shares": {name: round(share, 6) for name, share in shares_of(spec).items()},
        "clusters": len(placement.names),
        "by_rule": count_by_rule(findings),
        "seed": spec.split.seed,
        "leaks": {name: certificate[name] for name in ("exact", "near", "group")},
    }
