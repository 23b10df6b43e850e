"""The play of a month says of each claim that it did not happen, and its exit code is 1 then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from month_claims import claims
from month_picture import draw
from month_story import Look, Release, Run, Story
from month_timeline import events, lines, verdict
from month_world import A_DAY, DAYS

from finetune_pipeline.production.drift import moment

START = moment({"timestamp": "2026-05-01T00:00:00+00:00"})


def at(day: float) -> float:
    """A moment of a day of the month; its rows are logged in its first hour."""
    return START + 86_400 * (day - 1)


def compared(gain: float, interval: list[float]) -> dict[str, Any]:
    """A comparison on recent production rows, as the evaluation report tells it."""
    scores = {"champion": {"value": 0.7}, "candidate": {"value": 0.7 + gain}}
    return {"comparisons": {"champion": {"n": 64, "gain": gain, "interval": interval}}, "scores": scores}


def again(made: list[Release], **change: Any) -> list[Release]:
    """The releases, with the one made by itself changed."""
    return [made[0], replace(made[1], **change), *made[2:]]


def story() -> Story:
    """A month in which everything happened."""

    def row(day: int, n: int) -> dict[str, Any]:
        version = 1 if day < 16 else 3 if day == 24 else 2
        label = "red" if version == 3 else "blue"
        row = {"correction": "blue" if n < 2 else None, "output": label, "model_version": f"colours:{version}"}
        return {**row, "id": f"{day}-{n}", "timestamp": f"2026-05-{day:02}T00:{n:02}:00+00:00"}

    def look(day: float, rows: int, data: str, drifted: list[str], known: list[str]) -> Look:
        return Look(at(day), rows, 5, drifted, known, {"vocabulary": 0.01}, "A sentence.", "Train again.", data)

    gates = [("beats_baseline", True, "m"), ("beats_champion", True, "m")]
    return Story(
        days=[[row(day, n) for n in range(A_DAY)] for day in range(1, DAYS + 1)],
        feedback=2 * DAYS,
        quarantined=0,
        held=0,
        looks=[
            look(11.5, 11 * A_DAY, "one", [], []),
            look(14.5, 14 * A_DAY, "one", ["vocabulary"], []),
            look(20.5, 20 * A_DAY, "two", [], ["vocabulary"]),
        ],
        releases=[
            Release(1, at(0), gates, "one"),
            Release(2, at(15.9), gates, "two", compared(0.25, [0.1, 0.4])),
            Release(3, at(21.5), [("beats_baseline", False, "m"), *gates[1:]], "three"),
        ],
        runs=[Run(at(14.6), "colours__all", "drift", "A sentence. Train again.", "SUCCESS")],
        checks=[(at(2), True, "fine"), (at(24.6), False, "worse"), (at(24.7), True, "fine")],
        rolled_back=[(at(24.6), "version 3 → 2: champion alarm: worse")],
        planted={
            "asked": DAYS * A_DAY,
            "told": 2 * DAYS,
            "bad_candidate": {"day": 21, "time": at(21.2), "version": 3},
            "bad_champion": {"day": 23, "time": at(23.9), "version": 3, "good": 2},
        },
        aliases={"champion": 2, "previous_champion": 3},
    )


def change(name: str, value: Callable[[Any], Any]) -> Callable[[Story], None]:
    return lambda month: setattr(month, name, value(getattr(month, name)))


PLANTED: dict[str, Callable[[Story], None]] = {
    "every request is one row": change("days", lambda days: days[:-1]),
    "on every day": change("days", lambda days: [[{**r, "correction": None} for r in days[0]], *days[1:]]),
    "before the shift": change("looks", lambda looks: looks[1:]),
    "reported after the shift": change("looks", lambda looks: [looks[0], looks[2]]),
    "started a run by itself": change("runs", lambda runs: []),
    "promoted and served": change("releases", lambda made: again(made, gates=[("x", False, "m")])),
    "on recent production rows": change("releases", lambda made: made[:1]),
    "no second run": change("runs", lambda runs: [*runs, replace(runs[0], time=at(22))]),
    "bad candidate was refused": change("releases", lambda made: made[:2]),
    "bad champion was rolled back": change("rolled_back", lambda back: []),
    "check of the champion failed": change("checks", lambda checks: checks[:2]),
}


def test_a_month_in_which_all_happened_is_shown() -> None:
    answers = claims(story())
    assert verdict(answers) == 0, answers
    assert len(answers) == len(PLANTED), "each claim has a fault here"


@pytest.mark.parametrize("name", PLANTED)
def test_what_did_not_happen_is_told_and_the_exit_code_is_1(name: str) -> None:
    planted = story()
    PLANTED[name](planted)
    shown = claims(planted)
    (claim,) = [what for what in shown if name in what]
    assert not shown[claim]
    assert verdict(shown) == 1


def test_the_timeline_and_the_picture_tell_the_days_and_the_events() -> None:
    month = story()
    timeline = events(month)
    assert [who for _, who, _ in timeline if who.startswith("sensor")] == ["sensor drift", "sensor champion"]
    text = "\n".join(lines(month, timeline))
    assert "version 2 promoted: 2 gates passed; on 64 recent production rows the champion has 70.0% right" in text
    assert "the candidate 95.0% (+25.0 points, +10.0 to +40.0)" in text
    assert "version 3 refused by beats_baseline" in text and "14  sensor drift     starts a run: Train again." in text
    assert "A sentence. p over the watch: vocabulary 0.01." in text
    assert "FAILED  beats_baseline" in text and "champion_serves_well fails: worse" in text
    drawn = draw(month, [(month.day_of(t), who, what) for t, who, what in timeline])
    assert drawn.count("<use") == DAYS and "version 2" in drawn
    assert "day 24, sensor champion: rolled back" in drawn
