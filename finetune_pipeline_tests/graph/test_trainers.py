"""Non-local training in the real graph: with a trainer from another installed package, and at a hosted service."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from finetune_pipeline_tests.graph.disturbed import last_output, start
from finetune_pipeline_tests.graph.project import LORA, Finished, Project, install_trainer
from finetune_pipeline_tests.openai_jobs_server import STATES, OpenAiJobsServer
from finetune_pipeline_tests.service_server import KEY
from finetune_pipeline_tests.unit.trainers.orders import QUICK, RANK, files_below, tiny_adapter

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training.md"


def test_the_documented_trainer_trains_and_its_options_are_checked(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installs the trainer's code from docs/training.md."""
    source, entry_point = (
        re.search(rf"```{language}\n# {name}\n(.*?)```", DOCS.read_text(), re.DOTALL)
        for language, name in (("python", "queue_trainer.py"), ("toml", "pyproject.toml"))
    )
    assert source and entry_point
    assert entry_point[1] == '[project.entry-points."finetune_pipeline.trainers"]\nqueue = "queue_trainer"\n'
    install_trainer(tmp_path / "site", "queue_trainer", source[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    project = Project.continued(finished.project, tmp_path / "project", "training_plan")
    project.write_spec(training={**LORA, "trainer": "queue", "trainer_options": {"partition": 7, "extra": 1}})
    refused = project.finetune("run", "colours", "--stage", "training")
    assert refused.returncode == 1
    assert "training.trainer_options.partition" in refused.stderr and "takes partition" in refused.stderr
    project.write_spec(training={**LORA, "trainer": "queue", "trainer_options": {"partition": "gpu"}})
    code, output = project.run("--stage", "training")
    assert code == 0, output
    assert project.facts("adapter")["own"] == {"partition": "gpu"} and project.facts("adapter")["steps"] > 0


def test_a_service_trains_within_the_graph(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling the run cancels its job, the next run buys one job, and the API key is not stored."""
    monkeypatch.setenv("NEBIUS_API_KEY", KEY)
    server = OpenAiJobsServer(nebius=True)
    server.adapter, server.states = tiny_adapter(0.01), ("running",)
    section = {**QUICK, "profile": "nebius", "model": "org/tiny", "base_url": server.url}
    training = {"method": "lora", "trainer": "openai", "lora": {"r": RANK}, "openai": section}
    project = Project.continued(finished.project, tmp_path, "training_plan", training=training)
    with server:
        run = start(project, "--stage", "training")
        while not server.asked("GET", "ftjob-1") and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        code, log = run.wait(120), last_output(project)
        assert server.jobs["ftjob-1"]["status"] == "cancelled", log
        assert code != 0 and "120 tokens were billed so far" in log

        server.states = STATES
        code, output = project.run("--stage", "training")
        assert code == 0, output
    assert [job["status"] for job in server.jobs.values()] == ["cancelled", "succeeded"]
    assert project.facts("adapter")["job"] == "ftjob-2" and project.facts("merged_model")["parity"]["passed"]
    written = files_below(tmp_path)
    assert any("mlflow.db" in name for name in written) and any("ftjob-2" in str(data) for data in written.values())
    assert not [name for name, data in written.items() if KEY.encode() in data]
    assert KEY not in log + str(output)
