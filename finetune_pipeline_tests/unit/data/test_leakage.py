"""The leakage certificate: no leak in clean splits, every planted one found, and its recall that of planted copies."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.dedup.row_table import load_rows
from finetune_pipeline.data.dedup.text_similarity import similarity
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split import leakage, splitting
from finetune_pipeline.data.split.canaries import EDITS as CANARIES
from finetune_pipeline.data.split.canaries import EditRecall
from finetune_pipeline.data.split.leakage import LEAKAGE, Certificate
from finetune_pipeline_tests.unit.data.rows import example, random_text, record_split, split_rows
from finetune_pipeline_tests.unit.data.test_together import EDITS, request


def some(count: int) -> list[Example]:
    return [example(random_text(i, 20), line=i) for i in range(count)]


def test_clean_splits_have_no_leaks(tmp_path: Path) -> None:
    split_rows(tmp_path, some(90))
    report = Certificate.read(tmp_path / "out" / LEAKAGE)
    assert [report.exact, report.near, report.group] == [0, 0, 0]
    assert (report.pairs, report.changed(tmp_path / "out"), report.rows) == ([], [], 90)
    canaries = report.canaries
    assert canaries.planted == canaries.found == 12 and canaries.missed == []
    kinds = ("exact", "reformatted", "template_swapped", "same_group")
    assert canaries.by_kind == {kind: [3, 3] for kind in kinds}


def test_leaks_the_clustering_missed_are_certified_as_leaks(tmp_path: Path) -> None:
    """The clean artifact says that these rows are no clusters, and the ledger holds them apart; the certificate does not
    believe it. (Rows with the very same prompt are kept together by the split itself.)"""
    base = some(60)
    copies = [example(e.user_text.upper() + " ", line=500 + i) for i, e in enumerate(base[:20])]
    edits = [example(e.user_text + " indeed", line=600 + i) for i, e in enumerate(base[20:40])]
    record_split(tmp_path / "ledger", base, "test")
    record_split(tmp_path / "ledger", edits, "train")
    _, placed = split_rows(tmp_path, [*base, *copies, *edits])
    report = Certificate.read(tmp_path / "out" / LEAKAGE)
    assert all(placed[a.id] == placed[b.id] for a, b in zip(base[:20], copies, strict=True))
    assert (report.exact, report.near, report.alike) == (0, 20, 20)
    shown = next(p for p in report.pairs if p.kind == "near")
    texts = {e.id: e.user_text for e in [*base, *copies, *edits]}
    assert shown.similarity == round(similarity(texts[shown.id], texts[shown.other_id]), 4)


def test_a_placement_that_tears_groups_apart_is_certified_as_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows leave training only if the ledger holds their group apart; else who placed them is at fault, and it must be seen."""
    place = splitting.place

    def scatter(*arguments: Any) -> Any:
        placed, *others = place(*arguments)
        kept = np.flatnonzero(placed["split"] >= 0)
        placed["split"][kept] = np.arange(len(kept)) % 3
        return placed, *others

    rows = [example(random_text(i), line=i, group=f"customer {i // 10}") for i in range(60)]
    monkeypatch.setattr(splitting, "place", scatter)
    facts, placed = split_rows(tmp_path, rows)
    assert Certificate.read(tmp_path / "out" / LEAKAGE).group > 0
    assert len(placed) == 60 and not any(facts.left.values())


@pytest.mark.parametrize(("blind", "kind"), [("near", "reformatted"), ("exact", "exact"), ("group", "same_group")])
def test_a_blind_search_betrays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str, kind: str) -> None:
    real = leakage._pairs_across_splits
    if blind == "near":
        monkeypatch.setattr(leakage, "similarities", lambda pairs, forms_of: np.zeros(len(pairs)))
    else:
        seen = blind == "group"
        search = lambda v, c, zero_is_a_value=True: real(v, c, zero_is_a_value) if zero_is_a_value is seen else []  # noqa: E731
        monkeypatch.setattr(leakage, "_pairs_across_splits", search)
    split_rows(tmp_path, some(60))
    report = Certificate.read(tmp_path / "out" / LEAKAGE)
    assert report.canaries.found < report.canaries.planted
    assert any(name.startswith(f"canary-{kind}") for name in report.canaries.missed)


def test_the_stated_recall_is_that_of_planted_copies(tmp_path: Path) -> None:
    """Copies made here, by other code, are truly kept with their original as often as the certificate says."""
    dice = random.Random(2)
    originals = [example(request(dice), line=i) for i in range(600)]
    chosen = dice.sample(originals, 300)
    kinds = [list(EDITS)[i % len(EDITS)] for i in range(300)]
    edited = (EDITS[kind](e.user_text, dice) for kind, e in zip(kinds, chosen, strict=True))
    copies = [example(text, line=2000 + i) for i, text in enumerate(edited)]
    split_rows(tmp_path, [*originals, *copies])
    ids, placed = load_rows(tmp_path / "out")["id"], np.load(tmp_path / "out/placed.npy")
    unit = dict(zip(ids.tolist(), placed["unit"].tolist(), strict=True))
    stated = Certificate.read(tmp_path / "out" / LEAKAGE).edited
    assert set(stated) == set(CANARIES) and all(edit.tested >= 30 for edit in stated.values())
    names = ["three typos", "greeting and thanks", "two words swapped", "a word dropped"]
    names += [f"{share} of the words replaced" for share in ("a quarter", "half")] + ["the first half only"]
    for kind, name in zip(EDITS, names, strict=True):
        pairs = [(a, b) for k, a, b in zip(kinds, chosen, copies, strict=True) if k == kind]
        truth = np.mean([unit[int(a.id, 16)] == unit[int(b.id, 16)] for a, b in pairs])
        low, high = stated[name].interval
        # the words of the certificate's replacements are drawn from all texts, and half of them lead further away
        assert low - 0.1 <= truth <= (1 if name.startswith("half") else high + 0.1), (kind, truth, stated[name])


def test_what_cannot_be_edited_is_not_tested(tmp_path: Path) -> None:
    split_rows(tmp_path, [example(str(10_000_019 * i), line=i) for i in range(1, 80)])
    edited = Certificate.read(tmp_path / "out" / LEAKAGE).edited
    assert edited["one typo"] == edited["a word dropped"] == EditRecall(tested=0)
    assert edited["greeting and thanks"].tested > 10


def test_texts_without_blanks_are_edited_by_character(tmp_path: Path) -> None:
    """Else no word could be dropped, swapped or replaced, and nothing would be known about them."""
    dice = random.Random(3)
    texts = ["".join(map(chr, dice.choices(range(0x4E00, 0x5600), k=16))) for _ in range(80)]
    split_rows(tmp_path, [example(text, line=i) for i, text in enumerate(texts)])
    edited = Certificate.read(tmp_path / "out" / LEAKAGE).edited
    assert all(edit.tested >= 20 and edit.recall >= 0.9 for edit in edited.values()), edited
