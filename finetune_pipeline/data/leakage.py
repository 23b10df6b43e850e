"""Do the files of a split leak? The certificate must be of these very files; small sets are compared again, all with all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.artifacts import read_json
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.shingles import incidence, loose_form, prompt_key, shingle_sets
from finetune_pipeline.data.split_files import FILES, digest_examples, examples_of
from finetune_pipeline.data.templates import Templates, strip
from finetune_pipeline.spec import TaskSpec

SMALL = 20_000
"""Rows up to which all pairs are compared; above, MinHash proposes the pairs (see data/certificate.py)."""
_SHOWN = 20
_ROWS_AT_ONCE = 512


def fingerprints(examples: Sequence[Example], templates: Templates) -> list[dict[str, Any]]:
    """id, exact (hash of the user text's exact form) and shingles (sorted 32-bit hashes of its 5-grams, templates left
    out) of every row. Enough to find leaks, without the texts."""
    sets = shingle_sets([loose_form(strip(e.user_text, templates)) for e in examples])
    return [{"id": e.id, "exact": prompt_key(e), "shingles": s.tolist()} for e, s in zip(examples, sets, strict=True)]


def write_fingerprints(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write fingerprints as one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(rows) + b"\n")


def read_fingerprints(path: Path) -> list[dict[str, Any]]:
    """Fingerprints of a file."""
    rows: list[dict[str, Any]] = msgspec.json.decode(path.read_bytes())
    return rows


def find_leaks(
    examples: Sequence[Example], prints: Sequence[dict[str, Any]], threshold: float, templates: Templates
) -> list[dict[str, Any]]:
    """Every pair (row, fingerprint) with the same user text or Jaccard similarity ≥ threshold.

    Returns {id, other_id, kind: exact|near, similarity}, in the order of `examples`. All pairs are compared (sparse
    matrix product), so nothing depends on chance.
    """
    if not examples or not prints:
        return []
    others = [np.array(p["shingles"], np.uint32) for p in prints]
    columns = np.unique(np.concatenate(others))
    other_sizes = np.array([len(s) for s in others])
    against = incidence(others, columns).T.tocsr()
    exact: dict[str, list[int]] = {}
    for j, p in enumerate(prints):
        exact.setdefault(p["exact"], []).append(j)
    leaks = []
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        part = examples[start : start + _ROWS_AT_ONCE]
        sets = shingle_sets([loose_form(strip(e.user_text, templates)) for e in part])
        sizes = np.array([len(s) for s in sets])
        both = (incidence(sets, columns) @ against).tocoo()
        likeness = both.data / (sizes[both.row] + other_sizes[both.col] - both.data)
        alike = likeness >= threshold - 1e-9
        pairs = {
            (int(i), int(j)): float(s)
            for i, j, s in zip(both.row[alike], both.col[alike], likeness[alike], strict=True)
        }
        same = {(i, j) for i, e in enumerate(part) for j in exact.get(prompt_key(e), [])}
        for i, j in sorted(same | set(pairs)):
            leaks.append(
                {
                    "id": part[i].id,
                    "other_id": prints[j]["id"],
                    "kind": "exact" if (i, j) in same else "near",
                    "similarity": 1.0 if (i, j) in same else round(pairs[i, j], 4),
                }
            )
    return leaks


def leakage_report(split_folder: Path, spec: TaskSpec) -> dict[str, Any]:
    """The certificate in ``leakage.json``, held against the files it speaks of, which are read for it.

    Adds ``changed`` (splits whose rows are not those certified) and, where the set is small enough to have
    fingerprints, ``all_pairs``: {"train-test": {exact, near}, …} from comparing all rows again, the test seen through
    its fingerprints only. Raises FileNotFoundError without a certificate.
    """
    report: dict[str, Any] = read_json(split_folder / "leakage.json")
    report["changed"] = [
        name for name in FILES if digest_examples(examples_of(split_folder, name)) != report["files"].get(name)
    ]
    prints = split_folder / "test" / "fingerprints.json"
    if not prints.is_file():
        return report
    templates = Templates.from_dict(read_rows(split_folder / "templates.json")[0])
    train = read_examples(examples_of(split_folder, "train"))
    validation = read_examples(examples_of(split_folder, "validation"))
    test = read_fingerprints(prints)
    found: dict[str, dict[str, int]] = {}
    for name, rows, others in (
        ("train-test", train, test),
        ("validation-test", validation, test),
        ("train-validation", train, fingerprints(validation, templates)),
    ):
        leaks = find_leaks(rows, others, spec.data.near_duplicate_threshold, templates)
        found[name] = {kind: sum(leak["kind"] == kind for leak in leaks) for kind in ("exact", "near")}
        report["pairs"] = [*report["pairs"], *({"splits": name, **leak} for leak in leaks)][:_SHOWN]
    return {**report, "all_pairs": found}
