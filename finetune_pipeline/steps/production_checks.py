"""Checks of what serves, asked again and again while it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finetune_pipeline.engine.checks import CheckResult, check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.production.champion_alarm import Alarm
from finetune_pipeline.spec.model import TaskSpec


@check(
    "In production the champion's answers fail no more often than those of the champion before.",
    blocking=False,
    live=True,
)
def champion_serves_well(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    return _answer(artifact.facts)


def of_alarm(alarm: Alarm) -> CheckResult:
    """The answer to `champion_serves_well` that an alarm gives."""
    return _answer(asdict(alarm))


def _answer(told: Mapping[str, Any]) -> CheckResult:
    return CheckResult(told["raised"] is False, told["sentence"], told["figures"])
