# no `from __future__ import annotations` here: Dagster looks at the type of an asset's context itself
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finetune_pipeline.orchestration.resources import Compute, child_environment, places
from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM
from finetune_pipeline_tests.unit.orchestration.jobs import CHILD
from finetune_pipeline_tests.unit.processes import is_running, number_in


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def compute(folder: Path, **changes: Any) -> Compute:
    return Compute(
        **{
            "module": CHILD,
            "grace_s": 1.0,
            "terminate_s": 1.0,
            "watch_run_s": 0.2,
            "lock_folder": str(folder / "locks"),
            "devices": ["cpu"],
            **changes,
        }
    )


def job(folder: Path, **behave: Any) -> dict[str, Any]:
    return {"stage": "adapter", "out": str(folder / "out"), "behave": behave}


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text())


def materialize(instance: dg.DagsterInstance, folder: Path, made: Compute, work: dict[str, Any]) -> Any:
    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"facts": compute.launch(context, work)})

    return dg.materialize([adapter], instance=instance, resources={"compute": made}, raise_on_error=False)


def failure_of(result: Any) -> str:
    data = result.get_step_failure_events()[0].step_failure_data
    return str(data.user_failure_data.description)


def test_facts_and_log_lines_reach_dagster(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, show=["OMP_WAIT_POLICY"]))
    assert result.success
    metadata = result.asset_materializations_for_node("adapter")[0].metadata
    assert metadata["facts"].value["seen"] == {"OMP_WAIT_POLICY": "PASSIVE"}
    logged = [e.user_message for e in instance.all_logs(result.run_id)]
    assert "told through Pipes" in " ".join(logged)
    assert any("adapter on cpu: started process" in line for line in logged)


def test_without_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "left over")
    ticks: list[int] = []
    facts = compute(tmp_path).launch(
        None, job(tmp_path, show=["DAGSTER_PIPES_CONTEXT", "CUDA_VISIBLE_DEVICES"]), on_tick=lambda: ticks.append(1)
    )
    assert facts["seen"] == {"DAGSTER_PIPES_CONTEXT": None, "CUDA_VISIBLE_DEVICES": ""}
    assert ticks
    assert not Path(facts["argv"]).exists()


def test_environment_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_PROGRESS", "/some/file")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    env = child_environment("cuda:1", {"EXTRA": "1"})
    assert env["FINETUNE_PROGRESS"] == "/some/file"
    assert env["TOKENIZERS_PARALLELISM"] == "false"
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["EXTRA"] == "1"
    package_parent, mine = env["PYTHONPATH"].split(":")
    assert (Path(package_parent) / "finetune_pipeline" / "settings.py").is_file()
    assert mine == "/mine"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert child_environment("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "7"
    with pytest.raises(ValueError, match="shows only 2"):
        child_environment("cuda:2", {})


@pytest.mark.parametrize(("code", "fix"), [(EXIT_CONFIG, "labels: add"), (EXIT_OOM, "micro_batch_size")])
def test_a_refused_job_and_a_full_memory_are_not_tried_again(
    tmp_path: Path, instance: dg.DagsterInstance, code: int, fix: str
) -> None:
    expected = "error: task.yaml: labels: 'x' is unknown\n    fix: labels: add it"
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, exit=code, error=expected))
    assert not result.success
    assert attempts(tmp_path) == 1
    message = failure_of(result)
    assert message.startswith("adapter on cpu ")
    assert expected in message
    assert fix in message


def test_other_failures_are_tried_again(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, exit=3, error="the disk is full"))
    assert not result.success
    assert attempts(tmp_path) == 3


def test_a_good_end_without_result_is_an_error(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text('{"left": "by an earlier job"}')
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, result=False))
    assert "wrote no result.json" in failure_of(result)
    assert attempts(tmp_path) == 1


def test_a_run_marked_finished_elsewhere_frees_the_device(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult[Any]:
        def fail_the_run() -> None:
            if (tmp_path / "child").exists() and not context.run.is_finished:
                run = instance.get_run_by_id(context.run.run_id)
                assert run is not None
                if not run.is_finished:
                    instance.report_run_failed(run)

        compute.launch(context, job(tmp_path, sleep=600, grandchild=True), on_tick=fail_the_run)
        return dg.MaterializeResult()

    result = dg.materialize(
        [adapter], instance=instance, resources={"compute": compute(tmp_path)}, raise_on_error=False
    )
    assert "its Dagster run is already FAILURE" in failure_of(result)
    assert attempts(tmp_path) == 1
    assert not is_running(number_in(tmp_path / "child"))
    assert not is_running(number_in(tmp_path / "grandchild"))


def test_only_a_training_takes_several_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ["cuda:0+cuda:1", "cuda:2"]
    assert places(pairs, {"action": "train"}) == pairs
    assert places(pairs, {"action": "predict"}) == ["cuda:0", "cuda:1", "cuda:2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    env = child_environment("cuda:1+cuda:0", {})
    assert (env["CUDA_VISIBLE_DEVICES"], env["FINETUNE_PROCESSES"]) == ("7,4", "2")
    made = compute(tmp_path, devices=["cpu+cpu"])
    facts = made.launch(None, {**job(tmp_path, show=["FINETUNE_PROCESSES"]), "action": "train"})
    assert facts["seen"] == {"FINETUNE_PROCESSES": "2"}
    assert made.launch(None, job(tmp_path, show=["FINETUNE_PROCESSES"]))["seen"] == {"FINETUNE_PROCESSES": "1"}
