"""The promised error in production: surely broken ones are found, kept ones raise false alarms as seldom as stated, and only rows
that were drawn before anybody looked at them count."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import yaml

from finetune_pipeline.evaluation.calibration import AutomationPromise
from finetune_pipeline.evaluation.probabilities import drawn_field
from finetune_pipeline.production.choosing import PASSED_ON, SAMPLED, choose, in_watched_sample
from finetune_pipeline.production.promise_watch import evidence, promise_kept
from finetune_pipeline.spec.model import TaskSpec

PROMISE = AutomationPromise(threshold=0.9, max_error=0.05)


def spec(share: float = 1.0) -> TaskSpec:
    output = {"kind": "labels", "labels": ["bug", "howto"]}
    written = {"name": "t", "description": "d", "system_prompt": "s", "output": output, "logs": {"sample_share": share}}
    return TaskSpec.model_validate(yaml.safe_load(yaml.safe_dump(written)))


def row(i: int, wrong: bool = False, **more: Any) -> dict[str, Any]:
    """A row as merge_lines returns it: answered without a person, and decided by a reviewer."""
    made = {"id": str(i), "timestamp": "2026-05-01T10:00:00+00:00", "model_version": "t:2", "input": f"text {i}"}
    made |= {"output": "bug", "correction": "howto" if wrong else "bug", "passed_on": False, "reviewed": True}
    made |= {
        "decided": f"2026-05-{2 + i // 1000:02}T{i % 1000 // 60:02}:{i % 60:02}:00+00:00",
        "flag": None,
        "score": None,
    }
    return made | {"left_out": False, "user": None, "turns": None, "source": {"file": "a", "line": i}} | more


def test_kept_promises_raise_false_alarms_at_most_at_the_level_and_broken_ones_are_found() -> None:
    rng = np.random.default_rng(1)
    kept = [evidence(rng.random(1500) < 0.05, 0.05).max() >= 20 for _ in range(200)]
    assert sum(kept) <= 200 * 0.05
    broken = [evidence(np.r_[rng.random(300) < 0.02, rng.random(300) < 0.2], 0.05) for _ in range(50)]
    assert all(values[:300].max() < 20 < values.max() for values in broken)


def test_the_evidence_is_worth_nothing_on_average_while_the_error_is_the_promised_one() -> None:
    """All outcomes of six rows: the mean of an e-process that begins with 1 stays 1."""
    outcomes = [[bool(number >> i & 1) for i in range(6)] for number in range(64)]
    chances = [0.05 ** sum(wrong) * 0.95 ** (6 - sum(wrong)) for wrong in outcomes]
    mean = sum(chance * evidence(wrong, 0.05) for wrong, chance in zip(outcomes, chances, strict=True))
    assert mean == pytest.approx(np.ones(6))


def test_only_drawn_and_decided_answers_of_this_version_that_needed_no_person_count() -> None:
    others = [
        *(row(i, True, passed_on=True) for i in range(1000, 1100)),
        *(row(i, True, model_version="t:1") for i in range(1100, 1200)),
        *(row(i, True, reviewed=False) for i in range(1200, 1300)),  # what users report are mostly mistakes
        *(row(i, left_out=True, correction=None) for i in range(1300, 1400)),
        *({k: v for k, v in row(i, True).items() if k != "passed_on"} for i in range(1400, 1500)),
    ]
    rows = [*(row(i, i % 20 == 0) for i in range(200)), *others]
    kept = promise_kept(rows, 2, PROMISE, spec())
    assert kept and kept.passed and (kept.figures["decided"], kept.figures["wrong"]) == (200, 10)
    drawn = promise_kept(rows, 2, PROMISE, spec(0.5))
    assert drawn and drawn.figures["decided"] == sum(in_watched_sample(str(i), 0.5) for i in range(200))
    assert promise_kept(rows, 2, None, spec()) is None


def test_a_broken_promise_says_since_when_and_the_alarm_stays() -> None:
    rows = [row(i, i >= 1000 and i % 3 == 0) for i in range(1100)]
    broken = promise_kept(rows, 2, PROMISE, spec())
    assert broken and not broken.passed and "surely broken since 2026-05-03" in broken.message
    later = promise_kept([*rows, *(row(i) for i in range(2000, 4000))], 2, PROMISE, spec())
    assert later and not later.passed and later.figures["since"] == broken.figures["since"]


def json_spec() -> TaskSpec:
    output = {"kind": "json", "json_schema": {"type": "object"}}
    return TaskSpec.model_validate(spec().model_dump() | {"output": output})


def field_row(i: int, wrong: str = "", below: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A row whose fields are promised. wrong: the field that is; below: those passed on."""
    right = {"city": "Rome", "guests": 2}
    output = json.dumps(right | ({wrong: None} if wrong else {}))
    of_fields = {
        "fields_passed_on": [*below],
        "passed_on": bool(below),
        "output": output,
        "correction": json.dumps(right),
    }
    return row(i) | of_fields | more


def test_of_a_row_whose_fields_are_promised_one_counts_if_it_was_not_passed_on() -> None:
    promise = AutomationPromise(threshold=0.9, max_error=0.05, unit="field", fields=["city", "guests"])
    cities = sum(drawn_field(str(i), promise.fields) == "city" for i in range(400))

    def kept(**row_facts: Any) -> tuple[bool, int, int]:
        result = promise_kept([field_row(i, **row_facts) for i in range(400)], 2, promise, json_spec())
        assert result
        return result.passed, result.figures["decided"], result.figures["wrong"]

    assert 150 < cities < 250
    assert kept() == (True, 400, 0)
    assert kept(wrong="city") == (False, 400, cities)
    assert kept(wrong="city", below=["city"]) == (True, 400 - cities, 0), "the wrong field went to a person"
    assert kept(wrong="city", below=["guests"]) == (False, cities, cities)
    assert kept(answered_by="large at api") == (True, 0, 0), "the client got another model's fields"


def test_drawn_rows_with_promised_fields_are_decided_whether_passed_on_or_not() -> None:
    """Else the decided ones would be the unsure ones, or those that no user corrected."""
    ids = [str(i) for i in range(40)]
    drawn = {name for name in ids if in_watched_sample(name, 0.5)}
    below = {i: ["city"] if i % 2 else [] for i in range(40)}
    rows = [field_row(i, below=below[i], reviewed=False, correction=None if i % 3 else "{}") for i in range(40)]
    task = json_spec().model_copy(update={"logs": json_spec().logs.model_copy(update={"sample_share": 0.5})})
    queue = [entry["id"] for entry, _ in choose(task, rows).queue]
    assert set(queue[: len(drawn)]) == drawn
    assert set(queue[len(drawn) :]) == {name for name in ids if name not in drawn and int(name) % 2 and int(name) % 3}


def test_rows_passed_on_stand_first_and_drawn_ones_wait_for_a_reviewer_whatever_users_said() -> None:
    open_row = {"reviewed": False, "correction": None}
    rows = [
        row(1, **open_row),
        row(2, **open_row, flag="bad"),
        row(3, **open_row, passed_on=True, answered_by="large at api"),
        row(4, **open_row, passed_on=True),
        row(5, **open_row, passed_on=True, answered_by="refusal"),
        row(6, True, reviewed=False),
        row(7),
        row(8, True, passed_on=True, reviewed=False),
    ]
    queue = choose(spec(), rows).queue
    assert [(entry["id"], why) for entry, why in queue] == [
        ("4", PASSED_ON),
        ("5", PASSED_ON),
        ("3", f"{PASSED_ON}: answered by large at api"),
        ("1", SAMPLED),
        ("2", "flagged: bad"),
        ("6", SAMPLED),
    ]
    assert choose(spec(), rows).queued() == {PASSED_ON: 3, "flagged": 1, SAMPLED: 2}


def test_the_drawn_share_does_not_depend_on_confidence() -> None:
    ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(5000)]
    drawn = [name for name in ids if in_watched_sample(name, 0.02)]
    assert 60 <= len(drawn) <= 140
    rows = [row(i, id=name, reviewed=False, correction=None, probability=i / 5000) for i, name in enumerate(ids)]
    assert [entry["id"] for entry, _ in choose(spec(0.02), rows).queue] == drawn
