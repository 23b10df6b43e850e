"""Runs that wait for a slot of a pool sleep between their looks at it.

Dagster's executors ask `interval_to_next_pending_claim_check` how long they may sleep. It takes the least of the times that
are left *and of zero* (dagster 1.13), so that every run that waits keeps one core busy all the while: on a small machine
that slows down the very training it waits for, for hours.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

LONGEST = 0.5
"""Seconds; a run that is cancelled, or whose other steps end, must notice soon."""


def sleep_while_waiting() -> None:
    """Correct the time for this process. May be called again; where Dagster is built otherwise, nothing is changed."""
    try:
        module: Any = importlib.import_module("dagster._core.execution.plan.instance_concurrency_context")
        context = module.InstanceConcurrencyContext
        _ = context.interval_to_next_pending_claim_check
    except (ImportError, AttributeError):
        return
    context.interval_to_next_pending_claim_check = _interval


def _interval(self: Any) -> float:
    """Seconds to the next look at a slot; 0 when none is waited for."""
    if not self.has_pending_claims():
        return 0.0
    now = time.time()
    left = [max(0.0, at - now) for at in getattr(self, "_pending_timeouts", {}).values()]
    return min([LONGEST, *left])
