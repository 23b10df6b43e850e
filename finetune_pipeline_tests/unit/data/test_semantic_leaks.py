"""With `data.semantic` the certificate looks for rewordings, and shows at every run that it can see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_pipeline.data.dedup import semantic
from finetune_pipeline.data.dedup.text_similarity import similarity
from finetune_pipeline.data.split.canaries import prove_semantic, rewordings
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.spec.data import SemanticSpec
from finetune_pipeline.steps.data_checks import no_leakage
from finetune_pipeline_tests.unit.data.rows import example, make_spec, write_clean
from finetune_pipeline_tests.unit.data.test_leakage import some

SPEC = make_spec(semantic={"threshold": 0.8})


def certified(folder: Path, spec: Any = SPEC) -> Path:
    cleaned = write_clean(folder / "clean", some(0, 90), spec)
    split(cleaned, cleaned, spec, folder / "ledger", folder / "out")
    return folder / "out"


def verdict(out: Path, spec: Any = SPEC) -> tuple[bool, str]:
    answer = no_leakage(Artifact("tickets", "splits", "0", out, {}, {}), spec)
    return answer.passed, answer.message


def test_rewordings_are_planted_and_found(tmp_path: Path) -> None:
    out = certified(tmp_path)
    canaries = leakage_report(out, SPEC)["canaries"]
    assert canaries["by_kind"]["semantic"] == [3, 3]
    assert canaries["planted"] == canaries["found"] == 18 and canaries["missed"] == []
    assert verdict(out) == (True, "0 exact, 0 near and 0 group leaks between splits; 18 of 18 planted leaks found")


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
    passed, message = verdict(out)
    assert not passed and "15 of 18 planted leaks found" in message


def test_without_the_option_nothing_of_it_is_planted(tmp_path: Path) -> None:
    spec = make_spec()
    assert "semantic" not in leakage_report(certified(tmp_path, spec), spec)["canaries"]["by_kind"]


def test_the_farthest_rewording_within_reach_is_planted() -> None:
    sources = some(0, 6)
    text = sources[0].user_text
    far = rewordings(text)[0]
    assert sorted(far.split()) == sorted(text.split()) and similarity(far, text) < 0.8
    within = {
        threshold: [c.example.user_text for c, _ in prove_semantic(sources, [], SemanticSpec(threshold=threshold))]
        for threshold in (0.5, 0.999)
    }
    place = {
        threshold: [next(rewordings(e.user_text).index(t) for e in sources if t in rewordings(e.user_text)) for t in ts]
        for threshold, ts in within.items()
    }
    assert place == {0.5: [0, 0, 0], 0.999: [3, 3, 3]}
    for threshold in within:
        assert all(found for _, found in prove_semantic(sources, [], SemanticSpec(threshold=threshold)))


def test_rewordings_that_are_like_each_other_are_found_too() -> None:
    alike = [example(f"please tell the crew of tablet {i} that the route over the hill is closed") for i in range(5)]
    assert [found for _, found in prove_semantic(alike, [], SemanticSpec(threshold=0.7))] == [True] * 3
