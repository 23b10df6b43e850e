"""With `data.semantic` the certificate looks for rewordings, and shows at every run that it can see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.dedup import semantic
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.rows import make_spec
from finetune_pipeline_tests.unit.data.test_leakage import some
from finetune_pipeline_tests.unit.data.test_together import made

SPEC = make_spec(semantic={"threshold": 0.8})


def canaries(folder: Path, spec: TaskSpec = SPEC) -> dict[str, Any]:
    made(folder, some(0, 90), spec)
    planted: dict[str, Any] = leakage_report(folder / "out")["canaries"]
    return planted


def test_rewordings_are_planted_and_found(tmp_path: Path) -> None:
    planted = canaries(tmp_path)
    assert planted["by_kind"]["semantic"] == [3, 3]
    assert planted["planted"] == planted["found"] == 15 and planted["missed"] == []


@pytest.mark.parametrize("blind", ["search", "embedding"])
def test_a_blind_semantic_search_betrays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str) -> None:
    if blind == "search":
        monkeypatch.setattr(semantic, "suspects", lambda *_: [])
    else:
        monkeypatch.setattr(semantic, "embed", lambda texts, model: np.zeros((len(texts), 4), np.float32))
    planted = canaries(tmp_path)
    assert planted["by_kind"]["semantic"] == [3, 0]
    assert planted["missed"] == [f"canary-semantic-{i}" for i in range(3)]


def test_without_the_option_nothing_of_it_is_planted(tmp_path: Path) -> None:
    assert "semantic" not in canaries(tmp_path, make_spec())["by_kind"]
