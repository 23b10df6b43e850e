"""A run that waits for a slot of a pool looks now and then, and goes on when the slot is free."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

from finetune_pipeline.cli.waiting import pool_wait
from finetune_pipeline.resources import pool_waiting
from finetune_pipeline.resources.pool_waiting import LONGEST, sleep_while_waiting


@dg.op(pool="gpu")
def heavy() -> int:
    return 7


@dg.job
def training() -> None:
    heavy()


def test_a_waiting_run_sleeps_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        InstanceConcurrencyContext,
        "interval_to_next_pending_claim_check",
        InstanceConcurrencyContext.interval_to_next_pending_claim_check,  # put back afterwards
    )
    sleep_while_waiting()
    looks = 0
    look = ActiveExecution.get_next_step

    def counted(self: ActiveExecution) -> object:
        nonlocal looks
        looks += 1
        return look(self)

    monkeypatch.setattr(ActiveExecution, "get_next_step", counted)
    concurrency = {"pools": {"default_limit": 1, "granularity": "op"}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"concurrency": concurrency}) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        other, mine = str(uuid.uuid4()), str(uuid.uuid4())
        assert storage.claim_concurrency_slot("gpu", other, "adapter").is_claimed
        ended: list[bool] = []
        run = threading.Thread(
            target=lambda: ended.append(training.execute_in_process(instance=instance, run_id=mine).success)
        )
        run.start()
        try:
            end = time.monotonic() + 60
            while pool_wait(instance, mine) is None and time.monotonic() < end:
                time.sleep(0.05)
            told = pool_wait(instance, mine)
            assert told is not None and "waiting for pool gpu" in told
            before = looks
            time.sleep(4 * LONGEST)
            assert looks - before <= 40, "it looks without a pause"
            assert not ended
        finally:
            storage.free_concurrency_slots_for_run(other)
            run.join(60)
        assert ended == [True]


def test_nothing_is_waited_for() -> None:
    class Context:
        def __init__(self, *left: float) -> None:
            self._pending_timeouts = {str(i): time.time() + seconds for i, seconds in enumerate(left)}

        def has_pending_claims(self) -> bool:
            return bool(self._pending_timeouts)

    assert pool_waiting._interval(Context()) == 0
    assert pool_waiting._interval(Context(30, 40)) == LONGEST
    assert 0 < pool_waiting._interval(Context(30, LONGEST / 2)) < LONGEST
    assert pool_waiting._interval(Context(30, -5)) == 0, "its time has come"
