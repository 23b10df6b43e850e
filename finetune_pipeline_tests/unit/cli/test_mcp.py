"""The MCP server, asked by the SDK's own client over standard input and output."""

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters

SPEC = {
    "name": "colours",
    "description": "Which colour is named.",
    "base_model": "bundled/smollm2-135m-instruct",
    "system_prompt": "Answer red or blue.",
    "output": {"kind": "labels", "labels": ["red", "blue"]},
    "data": {"min_examples": 60, "min_per_label": 20},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "colours"
    (folder / "raw").mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC))
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(60)]
    rows = [
        {"text": " ".join([*rng.sample(words, 6), ("fire", "water")[i % 2]]), "label": ("red", "blue")[i % 2]}
        for i in range(100)
    ]
    (folder / "raw" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def talk(project: Path, conversation: Callable[[Client], Awaitable[Any]], *options: str) -> Any:
    """Start the server in the project's folder and hold a conversation with it."""
    places = {"FINETUNE_DATA": str(project / "data"), "FINETUNE_HOME": str(project / "home")}
    removed = ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINETUNE_PROGRESS")
    environment = {name: value for name, value in os.environ.items() if name not in removed} | places
    arguments = ["-m", "finetune_pipeline.cli.main", "mcp", *options]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment, cwd=project)

    async def session() -> Any:
        async with Client(server) as client:
            return await conversation(client)

    return asyncio.run(session())


def test_an_agent_checks_a_task_and_reads_what_is_missing(project: Path) -> None:
    async def conversation(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"try", "list", "check", "report"}, "nothing that asks or trains a model"
        checked = await client.call_tool("check", {"task": "colours"})
        assert checked.structured_content is not None
        facts = checked.structured_content
        assert (checked.is_error, facts["exit_code"], facts["validated"]["kept"]) == (False, 0, 100)
        tried = await client.call_tool("try", {"files": ["data/colours/raw/a.jsonl"]})
        assert tried.structured_content is not None
        assert tried.structured_content["exit_code"] == 2, "too few rows for a draft with the default settings"
        assert any("enough_examples" in stop for stop in tried.structured_content["stops"])
        listed = await client.call_tool("list", {})
        assert listed.structured_content is not None
        assert listed.structured_content["tasks"]["colours"]["state"] == "new"
        report = await client.call_tool("report", {"task": "colours"})
        assert report.is_error and "run `finetune run colours`" in report.content[0].text

    talk(project, conversation)


def test_other_files_tasks_by_path_and_options_are_refused(project: Path, tmp_path: Path) -> None:
    async def conversation(client: Client) -> None:
        for tool, arguments, words in (
            ("try", {"files": ["/etc/hostname"]}, "outside the working folder"),
            ("try", {"files": ["../a.jsonl"]}, "outside the working folder"),
            ("check", {"task": str(tmp_path / "data" / "colours")}, "is no name of a task"),
            ("check", {"task": "--help"}, "there is no task '--help'"),
            ("run", {"task": "colours"}, "run"),
        ):
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error and words in answer.content[0].text, (tool, arguments, answer)

    talk(project, conversation)


def test_runs_are_offered_when_they_are_allowed(project: Path) -> None:
    """A check that stops the data stage is an answer of the tool `run`, with exit code 2."""
    spec = {**SPEC, "data": {"min_examples": 500, "min_per_label": 20}}
    (project / "data" / "colours" / "task.yaml").write_text(yaml.safe_dump(spec))

    async def conversation(client: Client) -> None:
        assert {"advise", "run"} <= {tool.name for tool in (await client.list_tools()).tools}
        advice = await client.call_tool("advise", {"task": "colours"})
        assert advice.structured_content is not None
        facts = advice.structured_content
        assert (facts["exit_code"], facts["decision"], facts["fine_tune"]) == (2, "collect", False)
        assert any("500" in reason for reason in facts["reasons"])

    talk(project, conversation, "--allow-runs")
