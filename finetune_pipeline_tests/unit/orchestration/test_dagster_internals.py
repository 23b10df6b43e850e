"""A run that waits for a slot of a pool looks now and then, and goes on when the slot is free."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext

from finetune_pipeline.orchestration.dagster_internals import LONGEST_SLEEP, sleep_while_waiting

HOLDS, WAITS = "10000000-0000-4000-8000-000000000000", "20000000-0000-4000-8000-000000000000"


def test_a_run_that_waits_for_a_slot_may_sleep_until_it_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, of = "interval_to_next_pending_claim_check", InstanceConcurrencyContext
    monkeypatch.setattr(of, name, getattr(of, name))  # put back afterwards
    sleep_while_waiting()
    concurrency = {"pools": {"default_limit": 1, "granularity": "op"}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"concurrency": concurrency}) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert storage.claim_concurrency_slot("gpu", HOLDS, "adapter").is_claimed
        run: Any = dg.DagsterRun(job_name="colours__all", run_id=WAITS)
        with InstanceConcurrencyContext(instance, run) as context:
            assert context.interval_to_next_pending_claim_check() == 0, "nothing is waited for yet"
            assert not context.claim("gpu", "adapter")
            assert 0 < context.interval_to_next_pending_claim_check() <= LONGEST_SLEEP
            storage.free_concurrency_slots_for_run(HOLDS)
            looks = 0
            while not context.claim("gpu", "adapter"):
                looks += 1
                assert looks < 200, "the slot is free, and was not given"
                time.sleep(context.interval_to_next_pending_claim_check())
