"""Train, validation and sealed test: whole units, by label, and never a row that changes sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.artifacts import digest_json, write_json
from finetune_pipeline.data.band_search import bounds_of
from finetune_pipeline.data.carried import LEAKAGE, PLACED_FILE, Carried, carried, name_of, touched, write_basis
from finetune_pipeline.data.certificate import certify
from finetune_pipeline.data.clustering import basis
from finetune_pipeline.data.columns import fetch
from finetune_pipeline.data.cycles import cycles_left_alone
from finetune_pipeline.data.deciding import TABLE
from finetune_pipeline.data.duplicates import PREPARED, TEMPLATES
from finetune_pipeline.data.examples import ORIGINS, PARTS, Example, read_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.leakage import SMALL, fingerprints, write_fingerprints
from finetune_pipeline.data.ledger import SPLITS, Ledger, read_ledger
from finetune_pipeline.data.parts import link, read_index
from finetune_pipeline.data.placement import BRIDGE, NOT_HUMAN, OUT, assignments_of, place, shares_of
from finetune_pipeline.data.preparing import quarantined
from finetune_pipeline.data.settling import KEPT
from finetune_pipeline.data.split_files import SplitWriter, digest_examples, examples_of
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.findings import Finding, count_by_rule
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

_FIX = "nothing to do; the row is left out"
Record = Callable[[np.ndarray, str], object]


@cycles_left_alone()
def split(
    reviewed: Path,
    clean: Path,
    spec: TaskSpec,
    ledger: Path,
    out: Path,
    earlier: Sequence[Path] = (),
    seal: Callable[[bytes], bytes] | None = None,
    record: Record | None = None,
) -> dict[str, Any]:
    """Give every row a split (see :func:`finetune_pipeline.data.placement.place`) and prove that nothing leaks.

    Writes the rows of the three splits (see :mod:`finetune_pipeline.data.split_files`), ``quarantine.jsonl``,
    ``rows.npy`` (that of the reviewed rows), ``placed.npy`` (placement.PLACED, for every one of them), ``leakage.json``
    (see :func:`finetune_pipeline.data.certificate.certify`) with the digests of the three splits, ``templates.json``,
    ``basis.json``, and for small sets ``test/fingerprints.json``.

    `seal` makes the rows of the test unreadable (see :mod:`finetune_pipeline.data.sealing`).
    `earlier`: folders of earlier splits; only what is new since the last of them is placed and compared. The ledger is
    only read; `record` gets what it has to learn (ENTRY) and the name of this split, at the end: see
    :func:`finetune_pipeline.data.ledger.record_assignments`. Facts: rows_in, kept, quarantined, restored, counts, labels
    (per split and label), origins (per split), shares, wanted_shares, clusters, by_rule, seed, leaks. Once recorded, the
    same rows give the same files again.
    """
    rows = np.load(reviewed / TABLE, mmap_mode="r")
    keys = [part["prepared"] for part in read_index(clean)]
    prepared = [clean / PREPARED / key for key in keys]
    sizes = np.diff(bounds_of(rows["part"], len(keys))).tolist()
    parts = list(zip(keys, sizes, strict=True))
    templates = Templates.from_dict(read_rows(clean / TEMPLATES)[0])
    how = digest_json([basis(spec.data.near_duplicate_threshold, templates), spec.split.model_dump(), spec.labels])
    told = read_ledger(ledger)
    before = None if spec.data.semantic else carried(earlier, how, parts, told, ledger)
    which = None if before is None else touched(rows, before)
    placed, units = _place(rows, told, spec, before, which)
    tell("splits", f"{units} clusters placed; writing them and looking for leaks", rows=len(rows))
    there = placed["split"] >= 0
    writer = SplitWriter(out, int(there.sum()) > SMALL, earlier, seal)
    certified = None if before is None else before.placed["split"] == placed["split"]
    with ThreadPoolExecutor(1) as aside:  # the certificate needs nothing of what is written, and seldom the interpreter
        certifying = aside.submit(certify, rows, placed["split"], prepared, templates, spec, certified)
        findings = _write(rows, placed, parts, reviewed, prepared, writer)
        write_rows(out / "quarantine.jsonl", (quarantined(e, f) for e, f in findings))
        np.save(out / PLACED_FILE, placed)
        link(reviewed / TABLE, out / TABLE)
        write_basis(out, how, parts, units)
        write_rows(out / TEMPLATES, [templates.to_dict()])
        facts = _facts(rows, placed, units, [f for _, f in findings], spec)
        certificate = certifying.result()
    if there.sum() <= SMALL:
        prints = fingerprints(read_examples(examples_of(out, "test")), templates)
        write_fingerprints(out / "test" / "fingerprints.json", prints)
    writer.seal()
    certificate["files"] = {name: digest_examples(examples_of(out, name), trust=True) for name in SPLITS}
    write_json(out / LEAKAGE, certificate, durable=False)
    if record is not None:
        chosen = slice(None) if which is None else which
        record(assignments_of(rows[chosen], placed[chosen]), name_of(out))
    return {**facts, "leaks": {name: certificate[name] for name in ("exact", "near", "group")}}


def assignments_in(splits: Path) -> np.ndarray:
    """All a splits folder has to tell a ledger (ENTRY)."""
    return assignments_of(np.load(splits / TABLE, mmap_mode="r"), np.load(splits / PLACED_FILE))


def placed_rows(splits: Path) -> tuple[np.ndarray, np.ndarray]:
    """(ids, uint64; places in SPLITS, int8) of all rows that have a split."""
    split = np.load(splits / PLACED_FILE)["split"]
    ids: np.ndarray = np.load(splits / TABLE, mmap_mode="r")["id"][split >= 0]
    return ids, split[split >= 0]


def _place(
    rows: np.ndarray, ledger: Ledger, spec: TaskSpec, before: Carried | None, which: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """(PLACED, number of units) of all rows; of those that nothing touches as before."""
    if before is None or which is None:
        rows = np.asarray(rows)
        return place(rows, ledger.split_of(rows["id"], rows["prompt"]), spec)
    placed, chosen = before.placed.copy(), rows[which]
    former = np.unique(placed["unit"][which])
    placed["split"][which] = -1
    elsewhere = _counts(rows["label"], placed["split"], len(spec.labels))
    ids, prompts = chosen["id"], chosen["prompt"]
    placed[which], units = place(chosen, ledger.about(ids, prompts).split_of(ids, prompts), spec, elsewhere)
    return placed, before.units - int((former != OUT).sum()) + units


def _counts(values: np.ndarray, split: np.ndarray, last: int) -> np.ndarray:
    """How many rows of each value (-1 … last - 1) are in each split (int64, [last + 1, splits])."""
    there = split >= 0
    both = (values[there].astype(np.int64) + 1) * len(SPLITS) + split[there]
    return np.bincount(both, minlength=(last + 1) * len(SPLITS)).reshape(-1, len(SPLITS))


def _write(
    rows: np.ndarray,
    placed: np.ndarray,
    parts: Sequence[tuple[str, int]],
    reviewed: Path,
    prepared: Sequence[Path],
    writer: SplitWriter,
) -> list[tuple[Example, Finding]]:
    """Write the splits' rows. Returns the kept rows that have no split, and why."""
    split = placed["split"]
    refused: list[tuple[Example, Finding]] = []
    kept = rows["state"] == KEPT
    at = 0
    for (_, size), part in zip(parts, read_index(reviewed), strict=True):
        mine = at + np.flatnonzero(kept[at : at + size])
        at += size
        path = reviewed / PARTS / part["key"] / "examples.jsonl"
        codes = split[mine]
        writer.part(part["key"], path, codes)
        if (codes < 0).any():
            examples = read_examples(path)
            refused += [
                (examples[i], _refusal(examples[i], placed[mine[i]])) for i in np.flatnonzero(codes < 0).tolist()
            ]
    restored = np.flatnonzero((split >= 0) & ~kept)
    chosen = rows[restored]
    examples = fetch(prepared, chosen["part"].astype(np.int64), chosen["start"], chosen["end"])
    for code in range(len(SPLITS)):
        writer.rows(code, [e for e, c in zip(examples, split[restored], strict=True) if c == code])
    writer.finish()
    return refused


def _refusal(example: Example, placed: np.void) -> Finding:
    if placed["split"] == NOT_HUMAN:
        message = (
            f"a row of origin {example.origin!r} says nearly the same as a row of the test set: in train it "
            "would leak, in test it would be no judge"
        )
        return Finding("data.not_human_in_test_cluster", "error", example.place, message, _FIX)
    if placed["split"] != BRIDGE:
        raise RuntimeError(f"row {example.id} has no split, and no reason for it")
    mask = int(placed["bridged"])
    names = " and ".join(name for code, name in enumerate(SPLITS) if mask >> code & 1)
    message = f"this new row is close to rows in {names}: wherever it went, it would leak"
    return Finding("data.bridges_splits", "error", example.place, message, _FIX)


def _facts(
    rows: np.ndarray,
    placed: np.ndarray,
    units: int,
    findings: Sequence[Finding],
    spec: TaskSpec,
) -> dict[str, Any]:
    split, kept = placed["split"], rows["state"] == KEPT
    of_label = _counts(rows["label"], split, len(spec.labels))
    of_origin = _counts(rows["origin"].astype(np.int16) - 1, split, len(ORIGINS) - 1)
    counts = {name: int(of_label[:, code].sum()) for code, name in enumerate(SPLITS)}
    total = max(1, sum(counts.values()))
    restored = int(((split >= 0) & ~kept).sum())
    return {
        "rows_in": int(kept.sum()),
        "kept": sum(counts.values()) - restored,
        "restored": restored,
        "quarantined": len(findings),
        "counts": counts,
        "labels": {
            name: {label: int(of_label[i + 1, code]) for i, label in enumerate(spec.labels)}
            for code, name in enumerate(SPLITS)
        },
        "origins": {
            name: {origin: int(n) for origin, n in sorted(zip(ORIGINS, of_origin[:, code], strict=True)) if n}
            for code, name in enumerate(SPLITS)
        },
        "shares": {name: round(n / total, 6) for name, n in counts.items()},
        "wanted_shares": {name: round(share, 6) for name, share in shares_of(spec).items()},
        "clusters": units,
        "by_rule": count_by_rule(findings),
        "seed": spec.split.seed,
    }
