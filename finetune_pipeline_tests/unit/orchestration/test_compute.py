from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import Job
from finetune_pipeline.orchestration.resources import Compute, child_environment
from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM
from finetune_pipeline_tests.unit.orchestration.jobs import CHILD, FakeJob
from finetune_pipeline_tests.unit.processes import is_running, number_in


@pytest.fixture(autouse=True)
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_WORKER_MODULE", CHILD)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def compute(folder: Path, devices: tuple[str, ...] = ("cpu",)) -> Compute:
    waits = {"grace_s": 1.0, "terminate_s": 1.0, "watch_run_s": 0.2}
    return Compute(lock_folder=str(folder / "locks"), devices=list(devices), **waits)


def job(folder: Path, **behave: Any) -> FakeJob:
    return FakeJob(stage="adapter", out=folder / "out", behave=behave)


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text())


def materialize(instance: dg.DagsterInstance, folder: Path, compute_resource: Compute, work: Job) -> Any:
    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult(metadata={"facts": compute.launch(context, work)})

    return dg.materialize([adapter], instance=instance, resources={"compute": compute_resource}, raise_on_error=False)


def failure_of(result: Any) -> str:
    data = result.get_step_failure_events()[0].step_failure_data
    return str(data.user_failure_data.description)


def test_facts_and_log_lines_reach_dagster(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, show=["OMP_WAIT_POLICY"]))
    assert result.success
    metadata = result.asset_materializations_for_node("adapter")[0].metadata
    assert metadata["facts"].value["seen"] == {"OMP_WAIT_POLICY": "PASSIVE"}
    logged = " ".join(e.user_message for e in instance.all_logs(result.run_id))
    assert "told through Pipes" in logged and "adapter on cpu: started process" in logged


def test_without_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "left over")
    ticks: list[int] = []
    work = job(tmp_path, show=["DAGSTER_PIPES_CONTEXT", "CUDA_VISIBLE_DEVICES"])
    facts = compute(tmp_path).launch(None, work, on_tick=lambda: ticks.append(1))
    assert facts["seen"] == {"DAGSTER_PIPES_CONTEXT": None, "CUDA_VISIBLE_DEVICES": ""}
    assert ticks and not Path(facts["argv"]).exists()


def test_environment_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_PROGRESS", "/some/file")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    env = child_environment("cuda:1", {"EXTRA": "1"})
    extra = {"FINETUNE_PROGRESS": "/some/file", "TOKENIZERS_PARALLELISM": "false", "EXTRA": "1"}
    assert env.items() >= (extra | {"CUDA_VISIBLE_DEVICES": "1"}).items()
    package_parent, user_path = env["PYTHONPATH"].split(":")
    assert (Path(package_parent) / "finetune_pipeline" / "settings.py").is_file()
    assert user_path == "/mine"
    assert "TORCHDYNAMO_DISABLE" not in env and child_environment("cpu", {})["TORCHDYNAMO_DISABLE"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert child_environment("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "7"
    with pytest.raises(OutsideError, match="shows only 2"):
        child_environment("cuda:2", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ad1,MIG-77f0")
    assert child_environment("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "MIG-77f0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(OutsideError, match="CUDA_VISIBLE_DEVICES='-1' shows only 0"):
        child_environment("cuda:0", {})


REFUSED = "error: task.yaml: labels: 'x' is unknown\n    fix: labels: add it"


@pytest.mark.parametrize(
    ("behave", "tries", "message"),
    [
        ({"exit": EXIT_CONFIG, "error": REFUSED}, 1, REFUSED),
        ({"exit": EXIT_OOM, "error": "no room"}, 1, "gradient_checkpointing"),
        ({"exit": 3, "error": "the disk is full"}, 3, "the disk is full"),
        ({"killed": True, "grandchild": True}, 1, "memory"),  # another try would only be killed again
    ],
)
def test_only_failures_that_may_pass_are_tried_again(
    tmp_path: Path, instance: dg.DagsterInstance, behave: dict[str, Any], tries: int, message: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text('{"left": "by an earlier job"}')
    result = materialize(instance, tmp_path, compute(tmp_path), job(tmp_path, **behave))
    assert not result.success and attempts(tmp_path) == tries
    assert message in failure_of(result) and failure_of(result).startswith("adapter ")
    assert "grandchild" not in behave or not is_running(number_in(tmp_path / "grandchild"))


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

    resources = {"compute": compute(tmp_path)}
    result = dg.materialize([adapter], instance=instance, resources=resources, raise_on_error=False)
    assert "its Dagster run is already FAILURE" in failure_of(result)
    assert attempts(tmp_path) == 1
    assert not any(is_running(number_in(tmp_path / name)) for name in ("child", "grandchild"))
