"""Checks of what serves, asked again and again while it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finetune_pipeline.engine.checks import Answer, Check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.production.champion_alarm import Alarm
from finetune_pipeline.spec.model import TaskSpec


def champion_serves(artifact: Artifact, spec: TaskSpec) -> Answer:
    return _answer(artifact.facts)


def of_alarm(alarm: Alarm) -> Answer:
    """The answer to `champion_serves_well` that an alarm gives."""
    return _answer(asdict(alarm))


def _answer(told: Mapping[str, Any]) -> Answer:
    return Answer(told["raised"] is False, told["sentence"], told["figures"])


CHAMPION_SERVES = Check(
    "champion_serves_well",
    "model_version",
    "In production the champion's answers fail no more often than those of the champion before.",
    champion_serves,
    blocking=False,
    live=True,
)
CHECKS = [CHAMPION_SERVES]
