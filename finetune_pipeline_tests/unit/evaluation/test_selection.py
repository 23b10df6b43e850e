"""The simulation of selection decides as the pipeline does, and wrong shipping is as rare as stated."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.selection_simulation import WORLDS, drawn, shipped, simulate, surely_better
from finetune_pipeline.evaluation.gates import decide, decide_finalists
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.statistics.proportions import tango_interval
from finetune_pipeline.evaluation.winner import winner_of
from finetune_pipeline_tests.unit.evaluation.fake_run import OPENINGS, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import answers, rows, spec

N = 120
RIGHT = rows([("bug", "bug")] * 10)


def as_the_pipeline_ships(right: dict[str, np.ndarray], look: int) -> str | None:
    base = [row | {"label_scores": []} for row in answers(right["8_shot"].tolist())]
    predictions = [*base, *answers(right["candidate"].tolist(), model="candidate")]
    simple = {
        name: {row["example_id"]: row["text"] for row in answers(right[name].tolist())}
        for name in ("commonest", "nearest", "linear")
    }
    baseline = score_baselines(
        spec(), {"8_shot": [r | {"label_scores": []} for r in RIGHT], "simple_linear": RIGHT}
    ).to_json()
    looks = [OPENINGS[0] | {"candidate": f"c{look - i}"} for i in range(look)]
    result = evaluation(predictions=predictions, simple=simple, baseline=baseline, openings=looks)
    gates = [gate for gate in decide(spec(), result) if gate.name.startswith("beats_")]
    return winner_of(decide_finalists(spec(), result), gates).name


def test_the_simulation_ships_what_the_pipeline_ships():
    random = np.random.default_rng(1)
    made = []
    for i in range(24):
        accuracies = {name: random.choice([0.5, 0.7, 0.9]) for name in ("nearest", "linear", "8_shot", "candidate")}
        right = drawn(accuracies | {"commonest": 0.5}, N, random, random.random(N))
        look = 1 + i % 3
        made.append((shipped(right, "linear", "8_shot", look), as_the_pipeline_ships(right, look)))
    assert [simulated for simulated, _ in made] == [given for _, given in made]
    assert {given for _, given in made} == {"linear", "8_shot", "candidate", None}, "all outcomes occur"


def test_the_simulation_compares_as_the_interval_of_the_gates_does():
    for lost, won in ((0, 3), (0, 4), (2, 12), (10, 26), (10, 23), (30, 50), (30, 49)):
        for level in (0.05, 0.025, 0.001):
            assert surely_better(lost, won, N, level) is (tango_interval(lost, won, N, 1 - level)[0] > 0)


def test_what_is_useless_is_seldom_shipped_and_what_is_best_mostly_is():
    by_contents = {world.contents: world for world in WORLDS}
    useless = simulate(by_contents["all equal and useless"], 60, seed=3)
    assert sum(any(looks) for looks in useless) <= 6, "stated: at most 4.5% + 4.5% over ten looks"
    for contents, best in (
        ("a prompt is better", {"zero_shot", "8_shot"}),
        ("the fine-tuned model is better", {"candidate"}),
    ):
        first = [looks[0] for looks in simulate(by_contents[contents], 30, seed=4)]
        assert sum(name in best for name in first) >= 24, contents
