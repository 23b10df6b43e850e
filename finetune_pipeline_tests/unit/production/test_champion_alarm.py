"""The champion alarm: raised by a worse champion, silent for an equal one however often it is asked."""

import random

import pytest

from finetune_pipeline.production.drift import version_of
from finetune_pipeline.production.status import champion_alarm, failed
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput
from finetune_pipeline_tests.unit.production.streams import served

LABELS = LabelsOutput(labels=["bug", "howto"])
JSON = JsonOutput(json_schema={})


def history(seed: int, right: float, rows: int = 400) -> list[dict]:
    rng = random.Random(seed)
    before = served(rng, 300, right=0.9)
    now = served(rng, rows, 300, right=right)
    return [*before, *({**r, "model_version": "demo/2"} for r in now)]


def test_a_worse_champion_raises_the_alarm_and_the_sentence_says_by_how_much() -> None:
    alarm = champion_alarm(history(0, 0.6), 2, 1, LABELS)
    assert not alarm.passed and alarm.figures["failed"] > 2 * alarm.figures["failed_before"]
    assert "is worse than the previous champion" in alarm.message
    assert champion_alarm(history(0, 1.0), 2, 1, LABELS).passed


def test_answers_of_the_fallback_are_not_the_champions() -> None:
    rows = [
        {**row, "answered_by": "large at api"} if row["model_version"] == "demo/2" else row for row in history(0, 0.6)
    ]
    alarm = champion_alarm(rows, 2, 1, LABELS)
    assert alarm.passed and "version 2 answered 0 rows" in alarm.message


def test_equal_champions_raise_false_alarms_as_seldom_as_promised() -> None:
    raised = sum(not champion_alarm(history(seed, 0.9), 2, 1, LABELS).passed for seed in range(60))
    assert raised <= 60 * 0.05


def test_the_looks_are_at_doublings_whatever_is_asked_when() -> None:
    rows = history(3, 0.9, rows=130)
    alarm = champion_alarm(rows, 2, 1, LABELS)
    assert (alarm.figures["look"], alarm.figures["level"]) == (2, pytest.approx(0.05 / 6))
    assert champion_alarm(rows[:-20], 2, 1, LABELS).figures["p"] == alarm.figures["p"]
    looks = {n: champion_alarm(rows[: 300 + n], 2, 1, LABELS).figures.get("look") for n in (49, 50, 99, 100)}
    assert looks == {49: None, 50: 1, 99: 1, 100: 2}
    few_before = [champion_alarm(rows[first:], 2, 1, LABELS).figures.get("look") for first in (250, 251)]
    assert few_before == [2, None], "fifty rows of the previous one"


@pytest.mark.parametrize("previous", [None, 2])
def test_the_first_champion_is_compared_with_nobody(previous: int | None) -> None:
    alarm = champion_alarm(history(0, 0.6), 2, previous, LABELS)
    assert alarm.passed and alarm.figures == {} and "is the first champion" in alarm.message


def test_how_versions_and_failures_are_told() -> None:
    assert {version_of(x) for x in ("3", "v3", "demo/3", "demo:3", "models:/demo/3")} == {"3"}
    row = {"output": "bug", "flag": None, "correction": " bug"}
    assert not failed(row, LABELS)
    assert failed({**row, "flag": "wrong"}, LABELS) and failed({**row, "correction": "howto"}, LABELS)
    order = {**row, "output": '{"size": 1, "name": "Bo"}'}
    assert not failed({**order, "correction": '{"name": "Bo", "size": 1.0}'}, JSON), "the same value"
    assert failed({**order, "correction": '{"name": "Bo", "size": 2}'}, JSON)
