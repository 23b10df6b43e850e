"""Rules about a judge: each fires on its fault, and none stops a sound one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.spec.evaluation_rules import check_judge
from finetune_pipeline.spec.model import TaskSpec

SOUND = {"url": "https://judge.example/v1", "model": "m"}


def spec(judge: dict[str, Any] | None, **more: Any) -> TaskSpec:
    told = {"name": "t", "description": "d", "system_prompt": "s", "output": {"kind": "text"}}
    return TaskSpec.model_validate({**told, "evaluation": {"judge": judge}, **more})


def found(judge: dict[str, Any] | None, **more: Any) -> list[tuple[str, str]]:
    return [(f.severity, f.message) for f in check_judge(spec(judge, **more), Path())]


def test_a_sound_judge_is_told_where_texts_go_and_no_judge_says_nothing() -> None:
    assert found(SOUND) == [("note", "the rows of the test are sent to judge.example")]
    assert found({**SOUND, "url": "http://127.0.0.1:8000/v1"}) == []
    assert found(None) == []


@pytest.mark.parametrize(
    ("judge", "more", "message"),
    [
        ({**SOUND, "url": "http://judge.example/v1"}, {}, "neither https nor on this machine"),
        ({**SOUND, "url": "https://me:key@judge.example/v1"}, {}, "holds a login"),
        ({**SOUND, "min_kappa": 0.5, "min_kappa_bound": 0.6}, {}, "min_kappa_bound 0.6 is above min_kappa 0.5"),
        (SOUND, {"advise": {"private": True}}, "are sent to judge.example"),
        (None, {"gates": {"min_preferred": 0.5}}, "no judge is asked"),
    ],
)
def test_each_fault_is_an_error(judge: dict[str, Any] | None, more: dict[str, Any], message: str) -> None:
    errors = [told for severity, told in found(judge, **more) if severity == "error"]
    assert len(errors) == 1 and message in errors[0]


def test_only_what_changes_the_answer_makes_the_step_anew() -> None:
    before = spec(SOUND).evaluation.judge
    assert before is not None
    for key, value in {"timeout": 5.0, "concurrency": 2, "max_tokens": 9, "key_variable": "K"}.items():
        same = spec({**SOUND, key: value}).evaluation.judge
        assert same is not None and same.settings() == before.settings()
    for key, value in {"model": "n", "rows": 9, "min_kappa": 0.7, "body": {"seed": 1}}.items():
        other = spec({**SOUND, key: value}).evaluation.judge
        assert other is not None and other.settings() != before.settings()
