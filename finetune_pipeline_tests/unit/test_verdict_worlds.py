"""The table of worlds: what counts as a right verdict."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from finetune_pipeline_tests.worlds.planted_world import CheckOutcome, Outcome
from finetune_pipeline_tests.worlds.verdict_list import WORLDS
from finetune_pipeline_tests.worlds.verdict_worlds import advice_problems, given_verdict, problems_of

STOP = CheckOutcome("advice", "learnable", False, "blocks", "m")
BASELINE = CheckOutcome("evaluation_report", "beats_baseline", False, "gate", "m")
SIMPLE = replace(BASELINE, name="beats_simple")
PROMOTED = Outcome(0, [], [], 1, True, "promote", "Passed")
REFUSED = Outcome(2, [BASELINE, SIMPLE], [], None, False, "refuse", "Refused")
SHIPPED = Outcome(0, [SIMPLE], [], 1, True, "ship_simple", "Ship TF-IDF")
STOPPED = Outcome(2, [STOP], [], None, False)


def test_a_verdict_is_right_in_its_world_and_wrong_in_the_others() -> None:
    right = {"shuffled": STOPPED, "careless": REFUSED, "noisy-word": SHIPPED, "clean-order-1": PROMOTED}
    for world, outcome in right.items():
        for other in right:
            assert (problems_of(WORLDS[other], outcome) == []) is (other == world), (other, outcome)


def test_a_crash_is_no_verdict() -> None:
    assert given_verdict(replace(REFUSED, code=1)).verdict == "failed"
    assert given_verdict(replace(REFUSED, failed_steps=[("adapter", "m")])).verdict == "failed"
    assert given_verdict(replace(SHIPPED, decision=None)).verdict == "failed"
    for shipped in (PROMOTED, SHIPPED):
        assert given_verdict(replace(shipped, promoted=False)).verdict == "failed", "exit code 0 without a new champion"


def test_advice_is_wrong_where_the_run_refutes_it() -> None:
    small = replace(BASELINE, name="format_compliance", message="41 of 41. Even without a single invalid answer …")
    too_few = replace(REFUSED, checks=[small])
    for outcome, advice, is_wrong in (
        (PROMOTED, "simple", True),
        (PROMOTED, "pilot", False),
        (PROMOTED, "fine_tune", False),
        (SHIPPED, "simple", False),
        (too_few, "fine_tune", True),
        (too_few, "collect", False),
        (REFUSED, "fine_tune", False),
        (STOPPED, None, False),
    ):
        assert bool(advice_problems(replace(outcome, advice=advice))) is is_wrong, (outcome, advice)
