"""With `data.semantic` the certificate looks for rewordings, and shows at every run that it can see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.dedup import semantic
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline_tests.unit.data.rows import make_spec, write_clean
from finetune_pipeline_tests.unit.data.test_leakage import some

SPEC = make_spec(semantic={"threshold": 0.8})


def certified(folder: Path, spec: Any = SPEC) -> Path:
    cleaned = write_clean(folder / "clean", some(0, 90), spec)
    split(cleaned, cleaned, spec, folder / "ledger", folder / "out")
    return folder / "out"


def test_rewordings_are_planted_and_found(tmp_path: Path) -> None:
    out = certified(tmp_path)
    canaries = leakage_report(out, SPEC)["canaries"]
    assert canaries["by_kind"]["semantic"] == [3, 3]
    assert canaries["planted"] == canaries["found"] == 15 and canaries["missed"] == []


@pytest.mark.parametrize("blind", ["search", "embedding"])
def test_a_blind_semantic_search_betrays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str) -> None:
    if blind == "search":
        monkeypatch.setattr(semantic, "suspects", lambda *_: [])
    else:
        monkeypatch.setattr(semantic, "embed", lambda texts, model: np.zeros((len(texts), 4), np.float32))
    out = certified(tmp_path)
    canaries = leakage_report(out, SPEC)["canaries"]
    assert canaries["by_kind"]["semantic"] == [3, 0]
    assert canaries["missed"] == [f"canary-semantic-{i}" for i in range(3)]


def test_without_the_option_nothing_of_it_is_planted(tmp_path: Path) -> None:
    spec = make_spec()
    assert "semantic" not in leakage_report(certified(tmp_path, spec), spec)["canaries"]["by_kind"]
