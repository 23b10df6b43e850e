"""Who a run waits for is told on the terminal: by the watcher, from Dagster's pool and from the device lease."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import psutil
import pytest

from finetune_pipeline.cli.run import close_abandoned_runs, pool_wait
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.progress import VARIABLE, tell
from finetune_pipeline.worker.device_lease import lease
from finetune_pipeline.worker.supervised import Stopped


def test_the_pool_names_the_run_that_holds_it(tmp_path: Path) -> None:
    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = {"finetune/task": "tickets", "finetune/pid": "77"}
        holder, waiter = (instance.create_run_for_job(nothing, tags=tags).run_id for _ in range(2))
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", holder, "tickets__adapter").is_claimed
        assert pool_wait(instance, waiter) is None, "it has not asked for the pool yet"
        assert not storage.claim_concurrency_slot("gpu", waiter, "tickets__few_shot_baseline").is_claimed
        words = pool_wait(instance, waiter)
        assert words is not None
        assert words.startswith(f"waiting for pool gpu (adapter of tickets (run {holder[:8]}, process 77), for ")
        assert pool_wait(instance, holder) is None
        storage.free_concurrency_slots_for_run(holder)
        assert pool_wait(instance, waiter) is None


def test_a_run_whose_process_is_gone_is_closed_even_where_another_has_its_number(tmp_path: Path) -> None:
    @dg.job
    def nothing() -> None: ...

    now = psutil.Process().create_time()
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def begun(started: float) -> str:
            tags = {
                **{"finetune/task": "tickets", "finetune/pid": str(os.getpid())},
                "finetune/process_started": f"{started:.2f}",
            }
            run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
            return run.run_id

        gone, running = begun(now - 3600), begun(now)
        storage, ended = instance.event_log_storage, []
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", gone, "tickets__adapter").is_claimed
        closed = close_abandoned_runs(instance, "tickets", lambda run, status: ended.append((run, status)) or 1)
        assert closed == [gone] and ended == [(gone, "FAILURE")]
        assert storage.claim_concurrency_slot("gpu", running, "tickets__adapter").is_claimed, "its slot is free again"


def test_a_killed_run_of_another_task_holds_nobody_up(tmp_path: Path) -> None:
    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        tags = {"finetune/task": "orders", "finetune/pid": str(os.getpid()), "finetune/process_started": "1.00"}
        gone = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED).run_id
        mine = instance.create_run_for_job(nothing, tags={"finetune/task": "tickets"}).run_id
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", gone, "orders__adapter").is_claimed
        assert close_abandoned_runs(instance, "tickets", lambda *_: pytest.fail("it is not this task's")) == []
        assert storage.claim_concurrency_slot("gpu", mine, "tickets__adapter").is_claimed
        assert close_abandoned_runs(instance, "orders", lambda *_: 1) == [gone], "its own task closes it"


def test_a_held_device_is_told_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "progress.jsonl", []
    monkeypatch.setenv(VARIABLE, str(path))
    compute = Compute(devices=["cpu"], lock_folder=str(tmp_path / "locks"))
    monkeypatch.setattr("finetune_pipeline.orchestration.resources._watch", lambda op, every: lambda: "enough waited")
    with (
        lease(["cpu"], lambda _: tmp_path / "locks", holder="adapter of tickets (run 12345678)"),
        Watcher(path, 1, said.append),
    ):
        tell("adapter", "begins")
        with pytest.raises((Stopped, RuntimeError), match="enough waited"):
            compute.launch(None, {"stage": "adapter", "out": str(tmp_path / "out"), "action": "train"})
    assert said == [
        "[ 1/1] adapter",
        "        waiting for a free device (cpu: adapter of tickets (run 12345678), started by process "
        f"{os.getpid()}, for 0 s)",
    ]
