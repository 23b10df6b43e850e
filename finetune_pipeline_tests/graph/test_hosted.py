"""Training at a service within the graph: a cancelled run cancels the job, the next one buys one more, the key is nowhere."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.openai_jobs_server import STATES, OpenAiJobsServer
from finetune_pipeline_tests.service_server import KEY, serving
from finetune_pipeline_tests.unit.trainers.orders import QUICK, RANK, files_below, tiny_adapter


def test_a_service_trains_within_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEBIUS_API_KEY", KEY)
    server = OpenAiJobsServer(nebius=True)
    server.adapter, server.states = tiny_adapter(0.01), ("running",)
    section = {**QUICK, "profile": "nebius", "model": "org/tiny", "base_url": server.url}
    training = {"method": "lora", "trainer": "openai", "lora": {"r": RANK}, "openai": section}
    project = Project(tmp_path, training=training)
    with serving(server):
        for stage in ("data", "baseline"):
            code, _ = project.run("--stage", stage)
            assert code == 0
        command = project.command("run", "colours", "--stage", "training")
        run = subprocess.Popen(
            command, env=project.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        while not server.asked("GET", "ftjob-1") and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=120)
        assert server.jobs["ftjob-1"]["status"] == "cancelled", output
        assert run.returncode != 0 and "120 tokens were billed so far" in output

        server.states = STATES
        code, answer = project.run("--stage", "training")
        assert code == 0, answer
    assert [job["status"] for job in server.jobs.values()] == ["cancelled", "succeeded"]
    assert project.facts("adapter")["job"] == "ftjob-2" and project.facts("merged_model")["parity"]["passed"]
    written = files_below(tmp_path)
    assert any("mlflow.db" in name for name in written) and any("ftjob-2" in str(data) for data in written.values())
    assert not [name for name, data in written.items() if KEY.encode() in data]
    assert KEY not in output + str(answer)
