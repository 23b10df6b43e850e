"""When a gain is shown: levels over looks, all rivals and metrics, and rows that share a source."""

import pytest

from finetune_pipeline.evaluation.compare import shared_sources
from finetune_pipeline.evaluation.deciding import decide_gain, level_of
from finetune_pipeline.evaluation.metrics import METRICS, Gain
from finetune_pipeline.evaluation.result_parts import Sources
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact
from finetune_pipeline_tests.unit.evaluation.fake_run import arguments, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import rows, spec

OUTPUT = spec().output


def test_the_level_of_a_look():
    third = level_of(3, 0.9)
    assert (third.look, third.alpha, third.level, third.spent) == pytest.approx((3, 0.1, 0.1 / 6, 0.075))
    assert third.confidence == pytest.approx(1 - 0.1 / 6)


def test_every_pair_of_a_rival_and_a_metric_must_be_shown_at_the_whole_level(monkeypatch):
    """Intervals invented so that each metric is shown at exactly one level or weaker."""
    shown_at = {"a": 0.01, "b": 0.05, "c": 0.06}

    class Invented:
        def __init__(self, name):
            self.name = name

        def gain(self, base, candidate, output, confidence, clusters):
            return Gain(0.1, (0.1 if 1 - confidence >= shown_at[self.name] - 1e-9 else -0.1, 0.3))

    for name in shown_at:
        monkeypatch.setitem(METRICS, name, Invented(name))
    rivals = {"free": [], "restricted": []}
    decision = decide_gain(rivals, [], OUTPUT, ["c", "a", "b"], level=0.05, margin=0.0)
    assert [gain.shown for gain in decision.gains] == 2 * [False, True, True] and decision.shown is False
    assert [(gain.rival, gain.metric) for gain in decision.gains] == [(r, m) for r in rivals for m in "cab"]
    shown_at.update(c=0.05)
    decision = decide_gain(rivals, [], OUTPUT, ["c", "a", "b"], level=0.05, margin=0.0)
    assert decision.shown is True and {gain.confidence for gain in decision.gains} == {0.95}
    assert decide_gain({}, [], OUTPUT, ["c"], level=0.05, margin=0.0).shown is False, "no rival, nothing shown"


def test_an_evaluation_knows_of_shared_sources():
    args = arguments()
    sources = {r["example_id"]: f"d{int(r['example_id'][1:]) // 4}" for r in args["predictions"]}
    decision, unclustered = evaluation(sources=sources), evaluation()
    assert decision.sources == Sources(rows=200, sources=50, largest=4, shared=True)
    assert unclustered.sources == Sources(rows=200, sources=200, largest=1, shared=False)
    assert decision.scores["candidate"].valid.design_effect is not None and decision.comparison.design_effect > 2

    def lows(e):
        of = (e.scores["candidate"], e.scores["candidate"].primary, e.decisions.baseline.gains[0], e.comparison)
        return [measured.interval[0] for measured in (*of, e.models["candidate"])]

    assert all(low < alone - 0.01 for low, alone in zip(lows(decision), lows(unclustered), strict=True))
    with pytest.raises(ValueError, match="no source is known for 1 test examples"):
        shared_sources(rows([("bug", "bug")] * 2), {"e0000": "a"})
    assert unclustered.comparison.mcnemar_p == pytest.approx(mcnemar_exact(5, 60))
    assert decision.comparison.smallest_detectable_gain > unclustered.comparison.smallest_detectable_gain
