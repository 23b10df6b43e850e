"""A run that an agent cancels keeps its checkpoint, and the next run continues from it."""

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from finetune_pipeline.training.checkpoints import MARK
from finetune_pipeline_tests.graph.project import Finished, Project

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters

SECONDS = 300.0
"""After which a test that waits for nothing ends."""


async def cancelled_run(project: Project) -> None:
    """Call the tool `run` by the SDK's client, and cancel the call once a checkpoint is saved."""
    work = project.home / "artifacts" / "colours" / ".work" / "adapter"
    arguments = ["-m", "finetune_pipeline.cli.main", "mcp", "--allow-runs"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=project.environment(), cwd=project.root)
    async with Client(server) as client:
        call = asyncio.create_task(client.call_tool("run", {"task": "colours"}))
        end = time.monotonic() + SECONDS
        while not any(work.glob(f"*/checkpoints/checkpoint-*/{MARK}")):
            assert not call.done(), f"the run ended before it could be cancelled: {await call}"
            assert time.monotonic() < end, "no checkpoint was saved"
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        end = time.monotonic() + SECONDS
        while [*(project.home / "progress").iterdir()]:  # the command removes its file when it ends
            assert time.monotonic() < end, "the cancelled run goes on"
            await asyncio.sleep(0.2)


def test_a_run_that_an_agent_cancels_is_continued_from_its_checkpoint(finished: Finished, tmp_path: Path) -> None:
    project = Project.continued(finished.project, tmp_path, "training_plan", cold=True)
    asyncio.run(cancelled_run(project))
    assert not [*project.home.glob("artifacts/colours/adapter/*/artifact.json")], "a partial artifact was published"
    project.cold = False
    code, result = project.run("--stage", "training")
    assert code == 0, result
    measured = json.loads((project.artifact("adapter") / "measured.json").read_text())
    assert measured["resumed_from"].startswith("checkpoint-")
