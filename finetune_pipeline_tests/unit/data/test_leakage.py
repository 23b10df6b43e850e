from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune_pipeline.data.dedup.text_similarity import similarity
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split import leakage
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline_tests.unit.data.rows import example, hold, split_rows, unlike


def some(start: int, count: int, words: int = 20) -> list[Example]:
    return [example(unlike(i, words), line=i) for i in range(start, start + count)]


def test_clean_splits_have_no_leaks(tmp_path: Path) -> None:
    split_rows(tmp_path, some(0, 90))
    report = leakage_report(tmp_path / "out")
    assert [report[k] for k in ("exact", "near", "group")] == [0, 0, 0]
    assert (report["pairs"], report["changed"], report["rows"]) == ([], [], 90)
    canaries = report["canaries"]
    assert canaries["planted"] == canaries["found"] == 12 and canaries["missed"] == []
    kinds = ("exact", "reformatted", "template_swapped", "same_group")
    assert canaries["by_kind"] == {kind: [3, 3] for kind in kinds}


def test_leaks_the_clustering_missed_are_certified_as_leaks(tmp_path: Path) -> None:
    """The clean artifact says that these rows are no clusters, and the ledger holds them apart; the certificate does not
    believe it. (Rows with the very same prompt are kept together by the split itself.)"""
    base = some(0, 60)
    copies = [example(e.user_text.upper() + " ", line=500 + i) for i, e in enumerate(base[:20])]
    edits = [example(e.user_text + " indeed", line=600 + i) for i, e in enumerate(base[20:40])]
    hold(tmp_path / "ledger", base, "test")
    hold(tmp_path / "ledger", edits, "train")
    _, placed = split_rows(tmp_path, [*base, *copies, *edits])
    report = leakage_report(tmp_path / "out")
    assert all(placed[a.id] == placed[b.id] for a, b in zip(base[:20], copies, strict=True))
    assert (report["exact"], report["near"], report["alike"]) == (0, 20, 20)
    shown = next(p for p in report["pairs"] if p["kind"] == "near")
    texts = {e.id: e.user_text for e in [*base, *copies, *edits]}
    assert shown["similarity"] == round(similarity(texts[shown["id"]], texts[shown["other_id"]]), 4)


@pytest.mark.parametrize("blind", ["near", "exact", "group"])
def test_a_blind_search_betrays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str) -> None:
    real = leakage._shared
    if blind == "near":
        monkeypatch.setattr(leakage, "similarities", lambda pairs, forms_of: np.zeros(len(pairs)))
    else:
        seen = {"exact": False, "group": True}[blind]
        monkeypatch.setattr(leakage, "_shared", lambda v, c, zero=True: real(v, c, zero) if zero is seen else [])
    split_rows(tmp_path, some(0, 60))
    report = leakage_report(tmp_path / "out")
    assert report["canaries"]["found"] < report["canaries"]["planted"]
    kinds = {"near": "reformatted", "exact": "exact", "group": "same_group"}
    assert any(name.startswith(f"canary-{kinds[blind]}") for name in report["canaries"]["missed"])
