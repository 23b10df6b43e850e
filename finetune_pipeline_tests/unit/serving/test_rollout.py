"""A server follows a rollout: the candidate behind the champion, then beside it, then as the champion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production.rollout import Rollout
from finetune_pipeline.production.share_rows import in_share
from finetune_pipeline.serving.loading import AnyServed
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.rollout import FollowedRollout
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.serving.running import Running
from finetune_pipeline_tests.unit.serving.test_shadow import logged, simple

CANDIDATE = "tickets:2"


class Following(Running):
    """A server that follows `stage`."""

    def __init__(self, task: Task, champion: AnyServed, candidate: AnyServed) -> None:
        self.champion, self.candidate = champion, candidate
        self.stage: Rollout | None = None
        self.missing = False
        self.messages: list[str] = []
        writer = LogWriter(task.folder / "logs")
        followed = FollowedRollout(lambda: self.stage, self._serve, writer.write, self.messages.append)
        self.service = Service(task, lambda: self.champion, writer, self.messages.append, rollout=followed)
        self.server = LocalServer(chat_app(self.service))

    def _serve(self, version: int) -> AnyServed:
        assert version == 2
        if self.missing:
            raise OutsideError("the model of tickets version 2 is missing")
        return self.candidate

    def move(self, percent: int | None) -> dict[str, Any]:
        """Begin a stage, and return what /health says of it."""
        self.stage = None if percent is None else Rollout(1, 2, percent, f"2026-05-01T00:00:{percent:02}Z")
        self.service.renew()
        health: dict[str, Any] = self.ask("/health")[1]
        return health


@pytest.fixture
def following(task: Task, tmp_path: Path) -> Iterator[Following]:
    running = Following(task, simple(tmp_path, 1), simple(tmp_path, 2))
    with running.server:
        yield running
    running.service.close()


def test_the_candidate_answers_as_each_stage_asks(task: Task, following: Following) -> None:
    ten = next(f"u{i}" for i in range(999) if in_share(f"user:u{i}", CANDIDATE, 10))
    fifty = next(f"u{i}" for i in range(999) if _between(f"user:u{i}"))

    def who(user: str) -> str:
        return str(following.chat(user=user)[1]["model"])

    assert "shadow" not in following.move(None) and who(ten) == "tickets:1"
    assert following.move(0)["shadow"]["model"] == CANDIDATE
    assert who(ten) == "tickets:1"
    wait_until(lambda: any("shadow" in row for row in logged(task)))
    health = following.move(10)
    assert "shadow" not in health and health["share"]["percent"] == 10
    assert (who(ten), who(fifty)) == (CANDIDATE, "tickets:1")
    first = following.service._share
    assert following.move(50)["share"]["percent"] == 50
    assert (who(ten), who(fifty)) == (CANDIDATE, CANDIDATE)
    second = following.service._share
    assert first and second and first.loaded is second.loaded, "it is loaded once"
    following.champion = following.candidate
    assert "share" not in following.move(None) and who("u1") == CANDIDATE
    assert following.service.loaded is second.loaded
    assert following.messages[-1] == "rollout: that of version 2 is over"


def _between(unit: str) -> bool:
    return in_share(unit, CANDIDATE, 50) and not in_share(unit, CANDIDATE, 10)


def test_a_candidate_that_is_missing_stops_no_answer_and_is_tried_again(following: Following) -> None:
    following.missing = True
    health = following.move(0)
    assert health["status"] == "degraded" and "is missing" in health["problems"]["rollout"]
    assert following.chat()[1]["model"] == "tickets:1"
    following.service.renew()
    assert sum("cannot be followed" in message for message in following.messages) == 1, "said once"
    following.missing = False
    health = following.move(0)
    assert health["status"] == "ok" and health["shadow"]["model"] == CANDIDATE
