"""What the leakage certificate says of edited copies, held against the planted truth."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.data.split import canaries
from finetune_pipeline.data.split.alike import AlikeIndex
from finetune_pipeline.data.split.canaries import EDITS as CANARIES
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.steps.data_checks import no_leakage
from finetune_pipeline_tests.unit.data.rows import example, make_spec, split_rows, unlike
from finetune_pipeline_tests.unit.data.test_together import EDITS, request

LIKE = {
    "typos": "three typos",
    "greeting": "greeting and thanks",
    "swapped": "two words swapped",
    "dropped": "a word dropped",
    "replaced": "a quarter of the words replaced",
}


def test_the_stated_recall_is_that_of_planted_copies(tmp_path: Path) -> None:
    """Copies made here, by other code, are truly kept with their original as often as the certificate says."""
    dice = random.Random(2)
    originals = [example(request(dice), line=i) for i in range(800)]
    chosen = dice.sample(originals, 300)
    kinds = [list(EDITS)[i % len(EDITS)] for i in range(300)]
    edited = (EDITS[kind](e.user_text, dice) for kind, e in zip(kinds, chosen, strict=True))
    copies = [example(text, line=2000 + i) for i, text in enumerate(edited)]
    split_rows(tmp_path, [*originals, *copies])
    ids, placed = np.load(tmp_path / "out/rows.npy")["id"], np.load(tmp_path / "out/placed.npy")
    unit = dict(zip(ids.tolist(), placed["unit"].tolist(), strict=True))
    stated = leakage_report(tmp_path / "out")["edited"]
    assert set(stated) == set(CANARIES) and all(edit["tested"] >= 30 for edit in stated.values())
    for kind, name in LIKE.items():
        pairs = [(a, b) for k, a, b in zip(kinds, chosen, copies, strict=True) if k == kind]
        truth = np.mean([unit[int(a.id, 16)] == unit[int(b.id, 16)] for a, b in pairs])
        low, high = stated[name]["interval"]
        assert low - 0.1 <= truth <= high + 0.1, (kind, truth, stated[name])


def test_a_search_that_finds_no_edited_copy_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [example(unlike(i), line=i) for i in range(60)]
    split_rows(tmp_path / "seeing", rows)
    good = no_leakage.judge(Artifact("t", "splits", "v", tmp_path / "seeing/out", {}, {}), make_spec())
    assert good.passed and "one typo 100%" in good.message
    real = AlikeIndex.nearest

    def blind(self: AlikeIndex, forms: list[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return real(self) if forms is None else (np.full(len(forms), -1), np.zeros(len(forms)))

    monkeypatch.setattr(AlikeIndex, "nearest", blind)
    split_rows(tmp_path / "blind", rows)
    bad = no_leakage.judge(Artifact("t", "splits", "v", tmp_path / "blind/out", {}, {}), make_spec())
    assert not bad.passed and not bad.warns and "one typo 0%" in bad.message


def test_what_cannot_be_edited_is_not_tested(tmp_path: Path) -> None:
    split_rows(tmp_path, [example(str(10_000_019 * i), line=i) for i in range(1, 80)])
    edited = leakage_report(tmp_path / "out")["edited"]
    assert edited["one typo"] == edited["two words swapped"] == edited["a word dropped"] == {"tested": 0}
    assert edited["greeting and thanks"]["tested"] > 10


def test_canaries_are_drawn_over_all_labels_and_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []
    monkeypatch.setitem(canaries.EDITS, "one typo", lambda text, *_: seen.append(text) or text + "x")
    rows = [example(unlike(i, 3 + i % 40), ("bug_report", "P0_incident")[i % 2], line=i) for i in range(400)]
    split_rows(tmp_path, rows)
    lengths = [len(text.split()) for text in seen]
    labels = {e.user_text: e.answer for e in rows}
    assert min(lengths) < 8 and max(lengths) > 36
    assert 10 < sum(labels[text] == "P0_incident" for text in seen) < 30
