"""Do rows of one split say what rows of another say? Compared all with all, exactly; and the check tests itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.examples import Example, Message, read_examples
from finetune_pipeline.data.shingles import incidence, loose_form, prompt_key, shingle_sets, similarity
from finetune_pipeline.spec import TaskSpec

PAIRS_SHOWN = 20
_ROWS_AT_ONCE = 512


def fingerprints(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """id, exact (hash of the user text's exact form) and shingles (sorted 32-bit hashes of its 5-grams) of every row.

    Enough to find leaks, without the texts.
    """
    sets = shingle_sets([loose_form(e.user_text) for e in examples])
    return [{"id": e.id, "exact": prompt_key(e), "shingles": s.tolist()} for e, s in zip(examples, sets, strict=True)]


def write_fingerprints(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write fingerprints as one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(rows) + b"\n")


def read_fingerprints(path: Path) -> list[dict[str, Any]]:
    """Fingerprints of a file."""
    rows: list[dict[str, Any]] = msgspec.json.decode(path.read_bytes())
    return rows


def find_leaks(examples: Sequence[Example], prints: Sequence[dict[str, Any]], threshold: float) -> list[dict[str, Any]]:
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
        sets = shingle_sets([loose_form(e.user_text) for e in part])
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
    """Leaks between each two splits, the test seen through its fingerprints only.

    Facts: exact, near, by_pair ({"train-test": {exact, near}, …}), pairs (up to 20), threshold, compared (pairs of
    rows), canaries ({planted, found}). Raises RuntimeError when planted leaks are not all found, ValueError without
    validation rows.
    """
    threshold = spec.data.near_duplicate_threshold
    train = read_examples(split_folder / "train" / "examples.jsonl")
    validation = read_examples(split_folder / "validation" / "examples.jsonl")
    test = read_fingerprints(split_folder / "test" / "fingerprints.json")
    seen = fingerprints(validation)
    canaries = prove(train, validation, threshold)
    by_pair: dict[str, dict[str, int]] = {}
    shown: list[dict[str, Any]] = []
    for name, rows, prints in (
        ("train-test", train, test),
        ("validation-test", validation, test),
        ("train-validation", train, seen),
    ):
        leaks = find_leaks(rows, prints, threshold)
        by_pair[name] = {kind: sum(leak["kind"] == kind for leak in leaks) for kind in ("exact", "near")}
        shown += [{"splits": name, **leak} for leak in leaks]
    compared = (len(train) + len(validation)) * len(test) + len(train) * len(validation)
    return {
        "exact": sum(p["exact"] for p in by_pair.values()),
        "near": sum(p["near"] for p in by_pair.values()),
        "by_pair": by_pair,
        "pairs": shown[:PAIRS_SHOWN],
        "threshold": threshold,
        "compared": compared,
        "canaries": canaries,
    }


def make_canaries(validation: Sequence[Example], threshold: float) -> list[tuple[Example, str]]:
    """(leaking row, id of the validation row it was made from): a copy, one with case, blanks and punctuation changed,
    one with a small edit; the edit only where it leaves the similarity at the threshold or above.

    Raises ValueError without validation rows.
    """
    if not validation:
        raise ValueError("there are no validation rows, so the leakage check cannot be tested; add examples")
    longest = max(validation, key=lambda e: (len(e.user_text), e.id))
    ordered = sorted(validation, key=lambda e: e.id)
    made = [(_with_text(ordered[0], lambda t: t), ordered[0].id)]
    lettered = next((e for e in ordered if any(c.isalpha() for c in e.user_text)), ordered[0])
    made.append((_with_text(lettered, lambda t: "  " + t.swapcase().replace(" ", "   ") + " !!"), lettered.id))
    edited = _with_text(longest, lambda t: t + "s")
    if similarity(edited.user_text, longest.user_text) >= threshold:
        made.append((edited, longest.id))
    return [(replace(e, id=f"canary-{i}"), source) for i, (e, source) in enumerate(made)]


def prove(train: Sequence[Example], validation: Sequence[Example], threshold: float) -> dict[str, int]:
    """Plant canaries in a copy of train and look for them. Returns {planted, found}; RuntimeError if one is missed."""
    canaries = make_canaries(validation, threshold)
    leaks = find_leaks([*train, *(c for c, _ in canaries)], fingerprints(validation), threshold)
    caught = {(leak["id"], leak["other_id"]) for leak in leaks}
    missed = [c.id for c, source in canaries if (c.id, source) not in caught]
    if missed:
        raise RuntimeError(f"the leakage check missed its own canaries: {', '.join(missed)}")
    return {"planted": len(canaries), "found": len(canaries)}


def _with_text(example: Example, change: Any) -> Example:
    """The example with its last user turn changed."""
    last = max(i for i, m in enumerate(example.messages) if m["role"] == "user")
    messages: list[Message] = [
        {**m, "content": change(m["content"])} if i == last else m for i, m in enumerate(example.messages)
    ]
    return replace(example, messages=messages)
