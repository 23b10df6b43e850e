"""Names of metrics, held against MLflow's own rules."""

from __future__ import annotations

from mlflow.utils.validation import _validate_metric_name

from finetune_pipeline.orchestration.materialize import numbers


def test_names_of_users_are_names_mlflow_takes() -> None:
    labels = ["what's wrong?", "a//b", "../up", "x (y)", "50%", "größe", "<b>", "n" * 300, "tab\t"]
    told = numbers({"labels": {label: i for i, label in enumerate(labels)}})
    assert sorted(told.values()) == [float(i) for i in range(len(labels))]
    for name in told:
        _validate_metric_name(name)


def test_names_that_become_alike_lose_no_number() -> None:
    told = numbers({"a?": 1, "a!": 2, "a_": 3, **{"n" * 300 + str(i): i for i in range(3)}})
    assert sorted(told.values()) == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]
    assert {"a_", "a__2", "a__3"} <= set(told)
