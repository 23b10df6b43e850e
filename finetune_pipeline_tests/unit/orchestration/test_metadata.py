"""Names of metrics, held against MLflow's own rules."""

from __future__ import annotations

from mlflow.utils.validation import _validate_metric_name

from finetune_pipeline.orchestration.materialize import counts_as_markdown, numbers


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


def test_markdown_shows_counts_and_shares_and_no_label_breaks_out() -> None:
    shown = counts_as_markdown(4, {"bug_report": 3, "a`b|c": 1}, {"human": 4})
    assert "**4 rows**" in shown and "| `bug_report` | 3 | 75.0% |" in shown
    assert "| `a'b/c` | 1 | 25.0% |" in shown and "| `human` | 4 | 100.0% |" in shown
