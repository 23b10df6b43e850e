import hashlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from finetune_pipeline.settings import read_settings
from finetune_pipeline.tracking.mlflow_store import TrackingError, mlflow_errors
from finetune_pipeline.tracking.step_run import StepRun
from finetune_pipeline.tracking.tracking import VIEW, Tracking


def run_asset(
    tracking: Tracking, body: Callable[[StepRun, int], None], reused: bool = False, retries: int = 0, **tags: str
) -> Any:
    """Materialize an asset whose step runs `body(step, attempt)`."""

    @dg.asset(key_prefix="tickets", retry_policy=dg.RetryPolicy(max_retries=retries) if retries else None)
    def adapter(context: dg.AssetExecutionContext, tracking: Tracking) -> None:
        with tracking.step(context, "tickets", "adapter", "v1", reused) as step:
            body(step, context.retry_number)

    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [adapter], instance=instance, resources={"tracking": tracking}, raise_on_error=False, tags=tags
        )


def runs_of(tracking: Tracking, result: Any) -> dict[str, Any]:
    """MLflow runs of a Dagster run by kind and name."""
    client = tracking.client()
    experiment = client.get_experiment_by_name("finetune").experiment_id
    runs = client.search_runs([experiment], f"tags.`dagster.run_id` = '{result.run_id}'")
    named = {"parent" if r.data.tags["dagster.kind"] == "run" else r.info.run_name: r for r in runs}
    assert len(named) == len(runs), "two runs of the same name"
    return named


def test_parent_and_nested_run(tracking: Tracking) -> None:
    urls: list[str] = []

    def body(step: StepRun, attempt: int) -> None:
        urls.append(step.url)
        step.log_params({"lora": {"r": 16, "dropout": 0.05}, "method": "qlora"})
        step.log_metrics({"accuracy": {"base": 0.5, "candidate": 0.75}, "missing": None, "good": True})
        step.set_tags({"mlflow.note.content": "better by 0.25"})
        step.parent.log_params({"training.method": "qlora"})
        step.parent.log_metrics({"gain": 0.25})
        step.parent.set_tags({"mlflow.note.content": "better by 0.25"})

    result = run_asset(tracking, body, reused=True, **{"finetune/retrain": "tickets", "secret/thing": "x"})
    assert result.success
    runs = runs_of(tracking, result)
    assert set(runs) == {"parent", "tickets/adapter"}
    nested, parent = runs["tickets/adapter"], runs["parent"]
    assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert nested.data.params == {"lora.r": "16", "lora.dropout": "0.05", "method": "qlora"}
    assert nested.data.metrics == {"accuracy.base": 0.5, "accuracy.candidate": 0.75, "good": 1.0}
    assert nested.data.tags["finetune.version"] == "v1" and nested.data.tags["finetune.reused"] == "true"
    assert nested.data.tags["mlflow.note.content"] == "better by 0.25"
    assert (nested.info.status, parent.info.status) == ("FINISHED", "RUNNING")
    assert parent.data.tags["dagster.tag.finetune/retrain"] == "tickets"
    assert parent.data.params == {"training.method": "qlora"} and parent.data.metrics == {"gain": 0.25}
    assert parent.data.tags["mlflow.note.content"] == "better by 0.25"
    commit = subprocess.run(
        ["git", "-C", str(read_settings().project), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    assert parent.data.tags.get("mlflow.source.git.commit", "") == commit.stdout.strip()
    assert "x" not in parent.data.tags.values()
    kind = tracking.client().get_experiment(nested.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development", "else MLflow's page of the experiment shows no models"
    assert urls == [f"http://127.0.0.1:5000/#/experiments/{nested.info.experiment_id}/runs/{nested.info.run_id}?{VIEW}"]


@pytest.mark.parametrize("by_server", [False, True])
def test_finish_closes_what_a_killed_process_left_open(
    tracking: Tracking, by_server: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_server:  # a server's database cannot be queried
        monkeypatch.setattr(Tracking, "look_up", lambda *_: None)
    result = run_asset(tracking, lambda step, attempt: None, **{"finetune/task": "tickets"})
    open_again = runs_of(tracking, result)
    for status, parent, nested in [
        ("FAILURE", "FAILED", "FAILED"), ("CANCELED", "KILLED", "KILLED"), ("SUCCESS", "FINISHED", "FAILED"),
    ]:  # fmt: skip
        for run in open_again.values():
            tracking.client().update_run(run.info.run_id, status="RUNNING")
        assert tracking.open_runs("tickets") == [result.run_id] and tracking.open_runs("orders") == []
        assert tracking.finish(result.run_id, status) == 2
        assert tracking.open_runs("tickets") == []
        runs = runs_of(tracking, result)
        assert (runs["parent"].info.status, runs["tickets/adapter"].info.status) == (parent, nested), status


def test_a_retry_continues_its_run_and_parameters_cannot_change(tracking: Tracking) -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]

    def body(step: StepRun, attempt: int) -> None:
        step.log_params({"r": 16})
        step.log_metrics({"rows": 740})
        step.log_dataset("train", hashlib.sha256(b"a").hexdigest(), "/a", "training", {"num_rows": 740})
        step.log_history(rows[:1])
        step.log_history(rows[: 1 + attempt])
        with pytest.raises(MlflowException, match="'r', 'old_value': '16', 'new_value': '32'}, {'key': 's'"):
            step.log_params({"s": 1})
            step.log_params({"r": 32, "s": 2})
        if attempt == 0:
            raise OSError("the disk is full")

    result = run_asset(tracking, body, retries=1)
    assert result.success
    run = runs_of(tracking, result)["tickets/adapter"]
    assert run.info.status == "FINISHED" and run.data.tags["dagster.attempt"] == "1"
    assert "finetune.error" not in run.data.tags, "that of the attempt before"
    assert len(run.inputs.dataset_inputs) == 1
    history = tracking.client().get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.5)]
    assert len(tracking.client().get_metric_history(run.info.run_id, "rows")) == 1


def test_a_parameter_is_whole_up_to_its_length_and_then_says_how_long_it_was(tracking: Tracking) -> None:
    whole, longer = "a" * 6000, "a" * 6001

    def body(step: StepRun, attempt: int) -> None:
        step.log_params({"whole": whole, "longer": longer})
        step.log_metrics({"rows": 740})
        step.set_tags({"longer": longer})

    run = runs_of(tracking, run_asset(tracking, body))["tickets/adapter"]
    assert run.data.params["whole"] == whole and run.data.tags["longer"] == longer
    cut = run.data.params["longer"]
    mark = f" … [6001 characters, sha256 {hashlib.sha256(longer.encode()).hexdigest()[:16]}]"
    assert len(cut) == 6000 and cut.endswith(f"a{mark}") and cut.startswith("aaa")
    assert [m.step for m in tracking.client().get_metric_history(run.info.run_id, "rows")] == [0]
    assert run.data.tags["dagster.attempt"] == "0"


def test_keys_of_users_that_mlflow_refuses_are_logged_under_other_names(tracking: Tracking) -> None:
    schema = {"$defs": {"price ($)": 1, "price (€)": 2, "größe": 3}, "a//b": 4, "x" * 300: 5}

    def body(step: StepRun, attempt: int) -> None:
        step.log_params({"schema": schema})
        step.log_params({"schema": schema})
        step.log_metrics({"schema": schema})

    result = run_asset(tracking, body)
    assert result.success
    data = runs_of(tracking, result)["tickets/adapter"].data
    assert sorted(data.params.values()) == [*"12345"] and sorted(data.metrics.values()) == [1, 2, 3, 4, 5]
    begins = ("schema._defs.größe-", "schema._defs.price-", "schema.a_b-", "schema.xxx")
    assert all(name.startswith(begins) for name in data.params)


def test_a_failed_step_is_failed_and_says_why(tracking: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "verysecretvalue")

    def body(step: StepRun, attempt: int) -> None:
        raise dg.Failure("no more memory for caf\udce9.csv, token verysecretvalue", allow_retries=False)

    run = runs_of(tracking, run_asset(tracking, body))["tickets/adapter"]
    assert run.info.status == "FAILED"
    message = "Failure: no more memory for caf\\udce9.csv, token [SERVICE_TOKEN redacted]"
    assert run.data.tags["finetune.error"] == message


def test_an_interrupt_while_mlflow_writes_leaves_its_database_unlocked(tracking: Tracking) -> None:
    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO metrics"):
            signal.raise_signal(signal.SIGINT)

    def body(step: StepRun, attempt: int) -> None:
        sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", interrupt)
        try:
            step.log_metrics({"rows": 1.0})
        except dg.DagsterExecutionInterruptedError as interrupted:
            raise dg.Failure("stopped") from interrupted
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "after_cursor_execute", interrupt)

    run = runs_of(tracking, run_asset(tracking, body))["tickets/adapter"]
    assert (run.info.status, run.data.metrics) == ("KILLED", {"rows": 1.0})


def test_a_full_disk_is_told_and_the_next_attempt_logs_what_is_missing(tracking: Tracking) -> None:
    rows = [{"step": i, "loss": 1.0} for i in range(3000)]
    said: list[str] = []

    def fill(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # not below the pages that the file has

    def body(step: StepRun, attempt: int) -> None:
        if attempt == 0:
            sqlalchemy.event.listen(sqlalchemy.Engine, "connect", fill)
        try:
            step.log_history(rows)
        except TrackingError as error:
            said.append(str(error))
            raise
        finally:
            if attempt == 0:
                sqlalchemy.event.remove(sqlalchemy.Engine, "connect", fill)

    result = run_asset(tracking, body, retries=1)
    assert result.success
    (message,) = said
    assert "database or disk is full\nfix: make space" in message
    assert tracking.look_up("SELECT count(*), count(DISTINCT step) FROM metrics") == [(3000, 3000)]


def test_a_database_that_is_deleted_in_use_is_told_and_made_anew(
    tracking: Tracking, capfd: pytest.CaptureFixture[str]
) -> None:
    client = tracking.client()
    (tracking.place() / "mlflow.db").write_bytes(b"")  # SQLite makes an empty file of the one it does not find
    with pytest.raises(TrackingError, match="fix: run it again"), mlflow_errors(tracking.uri()):
        client.get_experiment_by_name("finetune")
    assert "Traceback" not in capfd.readouterr().err, "a sentence is enough"
    assert tracking.finish("a run that nobody knows any more", "FAILURE") == 0


def test_keys_reach_no_field(tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "sk-planted-secret-123")

    def body(step: StepRun, attempt: int) -> None:
        step.log_params({"command": "curl -H sk-planted-secret-123", "api_key": "another-planted-one"})
        step.set_tags({"note": "sk-planted-secret-123"})
        key = "sk-planted-secret-123"
        step.log_dataset("d", "ab" * 32, f"https://u:{key}@host/x", "training", {"from": key})

    assert run_asset(tracking, body).success
    stored = (tmp_path / "mlflow" / "mlflow.db").read_bytes()
    assert b"PROVIDER_API_KEY redacted" in stored and b"sk-planted-secret-123" not in stored
    assert b"another-planted-one" not in stored
