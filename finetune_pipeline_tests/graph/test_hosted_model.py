"""A trained model that is only an endpoint, through the whole graph: evaluated there, then promoted or refused."""

import json
import os
import signal
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.disturbed import last_output, start, stop_run, wait_for
from finetune_pipeline_tests.graph.project import Finished, Project, install_trainer
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.openai_server import Server, openai_server
from finetune_pipeline_tests.service_server import KEY as SERVICE_KEY
from finetune_pipeline_tests.skilled_model import other_label, truth
from finetune_pipeline_tests.unit.trainers.orders import GPT, QUICK

KEY = "sk-planted-0123456789"
LARGE = "gpt-6.1-terra"
GOOD, BAD, DEAD = 0, 1, 2
"""Training seeds, after which the trainer names its models."""
TRAINER = '''
"""A trainer whose jobs end at once and return an endpoint."""
import json, os
from finetune_pipeline.trainers.base import Trainer, register
from finetune_pipeline.training.facts import HostedTraining


@register
class Toy(Trainer):
    name, where, returns = "toy", "a service of the test", "endpoint"
    poll_seconds = 0.0

    def submit(self, order):
        return f"toy-model-{order.spec.training.seed}"

    def poll(self, training):
        return "ended"

    def cancel(self, training):
        raise AssertionError("the test cancels no job")

    def collect(self, training, order):
        url = "http://127.0.0.1:9/v1" if training.endswith("-2") else os.environ["TOY_URL"]
        endpoint = {"base_url": url, "model": training, "api_key_env": "TOY_KEY", "trainer": "toy", "base_model": "toy-base"}
        history = [{"step": 1, "loss": 2.0, "eval_loss": 1.9}, {"step": 2, "loss": 1.0, "eval_loss": 0.9}]
        facts = HostedTraining.of({
            "service": "a service of the test", "returns": "endpoint", "method": "lora", "precision": None, "job": training,
            "model": training, "service_base_model": "toy-base", "hyperparameters": {}, "epochs": 2, "stopped_early": None,
            "rows": {"train": 90, "validation": 12}, "steps": 2, "best_step": 2, "first_eval_loss": None,
            "best_eval_loss": 0.9, "last_train_loss": 1.0, "history": history, "adapter_tensors": [],
        })
        measured = {"seconds": 1.5, "billed_tokens": 5000, "dollars": 0.02}
        for name, content in (("endpoint", endpoint), ("measured", measured), ("result", facts.to_json())):
            (order.out / f"{name}.json").write_text(json.dumps(content))
        (order.out / "history.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in history))
        return facts
'''


def mind(body: dict[str, Any], repeats: int) -> str:
    """The bad model answers every text wrongly, the large one about every third, all others none."""
    text = body["messages"][-1]["content"]
    right = truth(text)
    if body["model"] == LARGE:
        return right if zlib.crc32(text.encode()) % 3 else other_label(right)
    return other_label(right) if body["model"] == f"toy-model-{BAD}" else right


class HostedProject(Project):
    """A project with the toy trainer installed."""

    url = ""

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root / "site"), os.environ.get("PYTHONPATH", "")])
        return {**super().environment(), "PYTHONPATH": path, "TOY_URL": self.url, "TOY_KEY": KEY}

    def train(self, seed: int) -> tuple[int, dict[str, Any]]:
        self.write_spec(training={"trainer": "toy", "seed": seed})
        return self.run()


@dataclass
class Story:
    """Results of the project's runs, by training seed."""

    project: HostedProject
    server: Server
    codes: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, dict[str, Any]] = field(default_factory=dict)
    folders: dict[int, dict[str, Path]] = field(default_factory=dict)
    aliases: dict[int, dict[str, int]] = field(default_factory=dict)

    def facts(self, seed: int, step: str) -> dict[str, Any]:
        return json.loads((self.folders[seed][step] / "artifact.json").read_text())["facts"]


@pytest.fixture(scope="module")
def story(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with openai_server(mind) as server:
        folder = tmp_path_factory.mktemp("hosted")
        project = HostedProject.continued(finished.project, folder, "training_plan", gates={"min_valid_share": 0.8})
        project.url = server.url
        install_trainer(folder / "site", "toy_trainer", TRAINER)
        story = Story(project, server)
        for seed in (GOOD, BAD, DEAD):
            story.codes[seed], story.outputs[seed] = project.train(seed)
            steps = story.outputs[seed].get("steps", {})
            story.folders[seed] = {name: Path(step["folder"]) for name, step in steps.items()}
            story.aliases[seed] = registry.aliases(project.tracking, "colours")
        yield story


def test_a_good_hosted_model_is_promoted(story: Story) -> None:
    assert story.codes[GOOD] == 0, story.outputs[GOOD]
    assert story.aliases[GOOD] == {"candidate": 1, "champion": 1}
    gates = {gate["name"]: gate for gate in story.facts(GOOD, "evaluation_report")["gates"]}
    assert gates["merge_parity"]["status"] == "not_asked" and "nothing was merged" in gates["merge_parity"]["message"]
    assert gates["beats_baseline"]["status"] == "passed"
    assert story.facts(GOOD, "evaluation_report")["models"]["candidate"]["accuracy"] == 1.0


def test_its_answers_are_those_of_the_endpoint_and_their_cost_is_counted(story: Story) -> None:
    folder = story.folders[GOOD]["test_predictions"]
    rows = of_model(read_predictions(folder / "predictions.parquet"), "candidate")
    assert rows and all(row["status"] == "ok" and row["text"] == row["gold"] for row in rows)
    spent = json.loads((folder / "measured.json").read_text())["spent"]["candidate"]
    assert spent["requests"] == len(rows) and spent["prompt_tokens"] == 7 * len(rows)
    requests = [request for request in story.server.requests if request["model"] == f"toy-model-{GOOD}"]
    assert {request["key"] for request in requests} == {f"Bearer {KEY}"}
    assert len(requests) == len(rows), "the champion's answers were bought again in later runs"
    assert {request["messages"][0]["content"] for request in requests} == {"Answer red or blue."}


def test_a_bad_one_is_refused_and_the_champion_stays(story: Story) -> None:
    assert story.codes[BAD] == 2, story.outputs[BAD]
    assert story.aliases[BAD] == {"candidate": 2, "champion": 1}
    facts = story.facts(BAD, "test_predictions")
    assert facts["kinds"] == {"candidate": "endpoint", "champion": "endpoint"}
    gates = {gate["name"]: gate["status"] for gate in story.facts(BAD, "evaluation_report")["gates"]}
    assert gates["beats_baseline"] == gates["beats_champion"] == "failed"


def test_a_dead_endpoint_is_an_error_and_no_answer(story: Story) -> None:
    assert story.codes[DEAD] == 1, story.outputs[DEAD]
    output = json.dumps(story.outputs[DEAD])
    assert "the model trained by toy" in output and "toy-model-2 at 127.0.0.1" in output and "unreachable" in output
    assert "evaluation_report" not in story.folders[DEAD]
    assert story.aliases[DEAD] == story.aliases[BAD]


@pytest.mark.parametrize("command", ["serve colours --port 0", "export colours --to {}"])
def test_what_needs_weights_says_so(story: Story, command: str, tmp_path: Path) -> None:
    process = story.project.finetune(*command.format(tmp_path / "out").split(), timeout=120)
    assert process.returncode == 1 and not (tmp_path / "out").exists()
    assert "has no weights here" in process.stderr and f"query it at {story.server.url}" in process.stderr


def test_report_and_card_say_where_it_answers(story: Story) -> None:
    report = (story.folders[GOOD]["evaluation_report"] / "report.md").read_text("utf-8")
    assert "Fine-tuned (toy-base by toy)" in report and "5,000 tokens, $0.02" in report
    assert "returns no likelihoods" in report
    card = (story.folders[GOOD]["model_version"] / "README.md").read_text("utf-8")
    assert "`toy-model-0`" in card and "nothing was merged" in card and story.server.url in card


def test_the_registered_model_asks_the_endpoint(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    import pandas

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, story.project.tracking.uri())
    monkeypatch.setenv("TOY_KEY", KEY)
    model = mlflow.pyfunc.load_model("models:/colours/1")
    assert list(model.predict(pandas.DataFrame({"text": ["frost apple fire", "ember stone water"]}))) == ["red", "blue"]


def test_the_report_puts_it_beside_a_large_model(story: Story) -> None:
    """The API model gets its best prompt and the same sealed rows; prices come from prices.yaml."""
    endpoint = {"url": story.server.url, "model": LARGE, "key_variable": "TOY_KEY"}
    story.project.write_spec(
        training={"trainer": "toy", "seed": GOOD}, baseline={**story.project.spec["baseline"], "endpoint": endpoint}
    )
    assert story.project.finetune("run", "colours").returncode in (0, 2)
    process = story.project.finetune("report", "colours", "--calls-per-month", "1000000", "--json")
    assert process.returncode in (0, 2), process.stderr[-3000:]
    comparison = json.loads(process.stdout)["versus"]
    assert comparison["rows"] == story.project.facts("splits")["counts"]["test"] and comparison["tuned"]["value"] == 1.0
    assert 0.4 < comparison["api"]["value"] < 0.9 and comparison["api"]["name"].startswith(LARGE)
    assert comparison["gain"] == pytest.approx(1.0 - comparison["api"]["value"])
    assert comparison["gain_interval"][0] < comparison["gain"] < comparison["gain_interval"][1]
    per_thousand = (7 * 1.0 + 3 * 5.0) / 1000  # the fake server's token counts at the listed prices
    assert comparison["api"]["thousand"] == {f"OpenAI, {LARGE}": pytest.approx(per_thousand)}
    assert comparison["api"]["month"] == {f"OpenAI, {LARGE}": pytest.approx(1000 * per_thousand)}
    assert comparison["warnings"] == ["prices.yaml has no price for a fine-tuned toy-base: add a line with tuned: true"]
    assert {request["key"] for request in story.server.requests if request["model"] == LARGE} == {f"Bearer {KEY}"}


def test_the_key_is_kept_nowhere(story: Story) -> None:
    assert story.codes[GOOD] == 0
    assert not [p for p in story.project.root.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert KEY not in json.dumps(story.outputs, default=str)


def test_ctrl_c_at_a_purchase_cancels_the_job_and_names_it(finished: Finished, tmp_path: Path) -> None:
    """The service has begun the job, and does not answer yet."""
    with OpenAiJobsServer() as service:
        service.fault = lambda request: "slow" if request.method == "POST" and request.path.endswith("/jobs") else None
        service.pause = 60.0
        section = {**QUICK, **GPT, "base_url": service.url, "request_seconds": 90.0}
        training = {"trainer": "openai", "method": "lora", "epochs": 1, "batch_size": 8, "openai": section}
        project = Project.continued(finished.project, tmp_path, "training_plan", training=training)
        run = start(project, OPENAI_API_KEY=SERVICE_KEY)
        wait_for(run, lambda: service.jobs)
        assert service.jobs, last_output(project)
        stop_run(run, signal.SIGINT, group=True)
        (job,) = service.jobs.values()
        assert job["status"] == "cancelled"
        _, _, after = last_output(project).partition("stopped; finished steps are kept")
        assert f"adapter: the job {job['id']} at " in after and "was cancelled; 120 tokens were billed" in after
