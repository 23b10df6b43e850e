"""A set that grows ends in the same files as the same set from the start: the clean stage and the splits, by their parts."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_pipeline.data.band_search import bounds_of, sharing, taken
from finetune_pipeline.data.growth import grown, isin

from finetune_pipeline.data import band_search, bucket_kernels, deciding, splitting
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.ledger import record_assignments
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.rows import LABELS, make_spec, write_raw

WORDS = "export import sync login invoice report calendar crew tablet route photo signature map offline update".split()
SPEC = make_spec(min_chars=1)


def lines(seed: int, count: int, topics: int) -> list[dict[str, Any]]:
    """Rows about so many topics: repeats, near-repeats, contradictions, and rows of one group."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        topic = rng.randrange(topics)
        words = random.Random(topic).choices(WORDS, k=16)
        if rng.random() < 0.5:
            words[rng.randrange(16)] = rng.choice(WORDS)
        row: dict[str, Any] = {"text": " ".join(words), "label": LABELS[topic % 3 if rng.random() < 0.9 else 0]}
        if rng.random() < 0.2:
            row["group"] = f"g{rng.randrange(topics // 4)}"
        if rng.random() < 0.1:
            row["origin"] = rng.choice(["production", "synthetic"])
        made.append(row)
    return made


def stage(folder: Path, name: str, files: dict[str, list[Any]], ledger: Path, earlier: str = "") -> dict[str, bytes]:
    """All files that clean, reviewed and splits come to; with what the stage `earlier` made to build upon."""
    at = folder / name
    for file, rows in files.items():
        write_raw(at / "raw", rows, f"raw/{file}.jsonl")

    def before(step: str) -> list[Path]:
        return [folder / earlier / step] if earlier else []

    validate(at / "raw", SPEC, at / "validated", before("validated"))
    facts = [clean(at / "validated", SPEC, at / "clean", key=b"k", earlier=before("clean"))]
    apply_reviews(at / "clean", folder / "reviews", SPEC, at / "reviewed", before("reviewed"))
    facts.append(
        split(
            at / "reviewed",
            at / "clean",
            SPEC,
            ledger,
            at / "splits",
            before("splits"),
            record=lambda rows, made: record_assignments(rows, ledger, made),
        )
    )
    certificate = json.loads((at / "splits/leakage.json").read_text())
    facts.append({"anew": certificate.pop("compared_anew")})
    (at / "splits/leakage.json").write_text(json.dumps(certificate))
    steps = ("clean", "reviewed", "splits")
    found = {str(p.relative_to(at)): p.read_bytes() for s in steps for p in sorted((at / s).rglob("*")) if p.is_file()}
    facts[0].pop("taken_over")
    return found | {"facts": json.dumps(facts[:2]).encode(), "anew": str(facts[2]["anew"]).encode()}


@pytest.mark.parametrize("blocks", [False, True], ids=["files", "blocks"])
@pytest.mark.parametrize("seed", range(4))
def test_a_grown_set_is_as_if_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, blocks: bool
) -> None:
    monkeypatch.setattr(deciding, "_FEW", 2)
    if blocks:
        monkeypatch.setattr(splitting, "SMALL", 10)
    calls: list[int] = []
    real = deciding._decide_new
    monkeypatch.setattr(deciding, "_decide_new", lambda *a: (calls.append(1), real(*a))[1])
    old = {"b": lines(seed, 90, 60), "d": lines(seed + 100, 40, 90)}
    new = {"a": lines(seed + 200, 12, 90), "c": lines(seed + 300, 12, 400)}
    ledger = tmp_path / "ledger"
    stage(tmp_path, "first", old, ledger)
    shutil.copytree(ledger, tmp_path / "ledger2")
    grown_set = stage(tmp_path, "grown", old | new, ledger, "first")
    assert calls, "nothing was carried over"
    whole = stage(tmp_path, "whole", old | new, tmp_path / "ledger2")
    assert int(grown_set.pop("anew")) < int(whole.pop("anew"))
    assert grown_set.keys() == whole.keys()
    assert [name for name in whole if grown_set[name] != whole[name]] == []
    assert (ledger / "000002.npy").read_bytes() == (tmp_path / "ledger2/000002.npy").read_bytes()


def test_growth_is_told_by_the_parts() -> None:
    found = grown([("x", 2), ("y", 1)], [("new", 1), ("x", 2), ("x", 2), ("y", 1)])
    assert found is not None
    assert found.old.tolist() == [-1, 0, 1, -1, -1, 2]
    assert found.carried(np.array([7, 8, 9]), -1).tolist() == [-1, 7, 8, -1, -1, 9]
    assert found.places(np.array([2, 0])).tolist() == [5, 1]
    assert grown([("x", 2), ("y", 1)], [("y", 1), ("x", 2)]) is None
    assert grown([("x", 2)], [("z", 2)]) is None
    assert grown([], [("z", 2)]) is not None


def test_isin_is_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3000, 5000).astype(np.uint64) << np.uint64(40)
    for few in (values[:0], values[:1], values[:700], np.array([5], np.uint64)):
        assert np.array_equal(isin(values, few), np.isin(values, few))


def test_the_kernel_finds_what_the_definition_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    parts = [rng.integers(0, 1 << 32, (n, 48)).astype(np.uint32) for n in (300, 0, 500)]
    wanted = rng.integers(0, 1 << 32, (40, 48)).astype(np.uint32)
    for i in range(0, 40, 2):  # one key each, in its own band; the same key in another band is none
        parts[2][i * 7, i] = wanted[i, i]
        parts[0][i, (i + 1) % 40] = wanted[i, i]
    files = []
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
        files.append(tmp_path / f"{number}.npy")
    by_hand = sharing(files, wanted)
    assert by_hand.tolist() == [300 + i * 7 for i in range(0, 40, 2)]
    monkeypatch.setattr(band_search, "_SMALL", 0)
    assert bucket_kernels and np.array_equal(sharing(files, wanted), by_hand)
    chosen = np.array([0, 299, 300, 799])
    bounds = bounds_of(np.repeat([0, 2], [300, 500]), 3)
    assert np.array_equal(taken(files, bounds, chosen), np.concatenate(parts)[chosen])
