"""What keeps a run from going on in Dagster: slots of a pool that other runs hold."""

from __future__ import annotations

import time

import dagster as dg

from finetune_pipeline.reminders import spell


def pool_wait(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """A sentence about the pool that `run_id` waits for, and about each run that holds a slot of it; None: it does not."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return None
    for key in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(key)
        holders = [slot for slot in info.claimed_slots if slot.run_id != run_id]
        if run_id not in info.pending_run_ids or not holders:
            continue
        since = {(s.run_id, s.step_key): s.assigned_timestamp for s in info.pending_steps if s.assigned_timestamp}
        told = []
        for slot in holders:
            run = instance.get_run_by_id(slot.run_id)
            task = run.tags.get("finetune/task") if run else None
            pid = run.tags.get("finetune/pid") if run else None
            began = since.get((slot.run_id, slot.step_key))
            told.append(
                f"{slot.step_key.rpartition('__')[2]}{f' of {task}' if task else ''} (run {slot.run_id[:8]}"
                f"{f', process {pid}' if pid else ''})"
                f"{f', for {spell(time.time() - began.timestamp())}' if began else ''}"
            )
        return f"waiting for pool {key} ({'; '.join(told)})"
    return None
