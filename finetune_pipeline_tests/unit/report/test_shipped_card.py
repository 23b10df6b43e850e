"""The card of a simple model or a prompt names its own score and gates, not those of the fine-tuned model."""

import pytest

from finetune_pipeline.evaluation.gates import decide, decide_finalists
from finetune_pipeline.report.shipped_card import shipped_card
from finetune_pipeline.report.stored import Report
from finetune_pipeline_tests.unit.evaluation.rows import spec
from finetune_pipeline_tests.unit.evaluation.test_winner import evaluated


@pytest.mark.parametrize(("linear", "prompt", "kind"), [(150, 90, "simple"), (90, 150, "prompt")])
def test_the_card_has_the_score_gates_and_digests_of_what_is_shipped(linear: int, prompt: int, kind: str) -> None:
    judged = decide_finalists(spec(), evaluated(spec(), tuned=100, linear=linear, prompt=prompt))
    gates = decide(spec(), judged)
    report = Report.of(judged, gates)
    base = "org/base" if kind == "prompt" else None
    card = shipped_card(report, report.winner, {"file.bin": "abc"}, base)
    assert report.winner.kind == kind
    assert card.startswith(f"# {report.task.name}: {report.winner.title}\n")
    assert "| the sealed test | 200 |" in card and "75.0% (" in card and "| file.bin | abc |" in card
    assert ("Base model: org" in card) is (kind == "prompt") and "| beats_commonest | passed |" in card
    assert any(not gate.passed for gate in gates) and "| failed |" not in card
