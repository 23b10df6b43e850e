"""Every threshold of a gate says when it is looser than its default, and the spec's loose thresholds are listed."""

from typing import Any, get_args

import pytest

from finetune_pipeline.spec.evaluation import GatesSpec, JudgeSpec, RobustnessSpec
from finetune_pipeline.spec.looseness import NEITHER, direction, loose_thresholds, with_defaults
from finetune_pipeline_tests.unit.evaluation.rows import spec

NO_THRESHOLDS = {"metric", "more_metrics", "min_score", "parts", "never_break", "wanted_gain", "power"}
"""Keys of gates that ask for more only where they are set, or that only plan."""


def _values(section: Any, key: str) -> tuple[list[Any], list[Any]]:
    """Stricter and looser values of a threshold, within its bounds, by its name and nothing of its annotation."""
    field = section.model_fields[key]
    if words := [word for part in (field.annotation, *get_args(field.annotation)) for word in get_args(part)]:
        words = [word for word in words if isinstance(word, str)]
    if words:
        assert words in (["block", "warn"], ["better", "not_worse"]), "which of these words asks for less?"
        return ([], [words[1]]) if field.default == words[0] else ([words[0]], [])
    default = field.default
    at_least = [m.ge for m in field.metadata if getattr(m, "ge", None) is not None]
    near = [type(default)(default + 1)] if isinstance(default, int) else [default + 0.01]
    smaller = [] if default in at_least else [default - 1 if isinstance(default, int) else default - 0.01]
    allows = key.startswith("max_") or key.endswith("_margin")
    return (smaller, near) if allows else (near, smaller)


@pytest.mark.parametrize("key", sorted(GatesSpec.model_fields))
def test_every_threshold_of_the_gates_is_named_where_it_is_looser(key: str) -> None:
    mark = direction(GatesSpec.model_fields[key])
    assert mark is not None, f"state in the annotation of gates.{key} in which direction it becomes looser"
    assert (mark == NEITHER) is (key in NO_THRESHOLDS)
    if key in NO_THRESHOLDS:
        return
    stricter, looser = _values(GatesSpec, key)
    default = GatesSpec.model_fields[key].default
    for value in [*stricter, default]:
        assert list(loose_thresholds(spec(gates={key: value}))) == []
    for value in looser:
        task = spec(gates={key: value})
        (loose,) = loose_thresholds(task)
        assert (loose.key, loose.value, loose.default) == (f"gates.{key}", value, default)
        assert str(loose).startswith(f"gates.{key} ") and f"(default {default}" in str(loose)
        assert with_defaults(task) == spec()


def test_those_of_other_sections_are_named_too() -> None:
    robustness = {"rows": 10, "max_drop": 0.5, "action": "warn"}
    judge = {"url": "http://127.0.0.1:1/v1", "model": "m", "min_rated": 12, "min_kappa": 0.2, "min_consistent": 0.9}
    task = spec(robustness=robustness, evaluation={"judge": judge}, gates={"confidence": 0.99})
    names = {loose.key for loose in loose_thresholds(task)}
    assert names == {
        *(f"robustness.{key}" for key in robustness),
        *(f"evaluation.judge.{k}" for k in ("min_rated", "min_kappa")),
    }
    strict = with_defaults(task)
    assert strict.robustness == RobustnessSpec() and strict.gates.confidence == 0.99
    assert strict.evaluation.judge == JudgeSpec(url=judge["url"], model="m", min_consistent=0.9)
