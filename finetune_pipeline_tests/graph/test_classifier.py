"""A classifier through the whole graph: promoted, served, verified, logged, and compared with a model that writes."""

import json
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.skilled_model import LABELS, make_skilled_model
from finetune_pipeline_tests.worlds.planted_world import World, run


def registered_answers(project: World, version: int, texts: list[str]) -> list[str]:
    """The answers of the model that MLflow has registered."""
    import mlflow
    import pandas

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.setenv(name, project.tracking.uri())
        model = mlflow.pyfunc.load_model(f"models:/colours/{version}")
    return list(model.predict(pandas.DataFrame({"text": texts})))


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def test_a_classifier_is_promoted_served_and_verified(tmp_path: Path) -> None:
    base = make_skilled_model(tmp_path / "base", steps=220, knowledge=False)
    training = {"method": "classifier", "learning_rate": 0.002, "epochs": 7}
    project = World(tmp_path / "w", base, training=training, ability={"suite": False, "files": []})
    project.cold = False
    copy_database(project.home / "mlflow")
    outcome = run(project)
    assert (outcome.code, outcome.champion) == (0, 1), (outcome.verdict, outcome.failed_checks())
    merged, adapter = project.facts("merged_model"), project.facts("adapter")
    assert (merged["kind"], merged["parity"]["passed"]) == ("classifier", True)
    assert adapter["audit"]["rows_of_other_class"] == 0 and adapter["shared_prefix"]["used"]
    gates = {gate["name"]: gate for gate in project.facts("evaluation_report")["gates"]}
    assert (gates["general_ability"]["status"], gates["format_compliance"]["status"]) == ("not_asked", "passed")
    folder = project.artifact("test_predictions")
    rows = of_model(read_predictions(folder / "predictions.parquet"), "candidate")
    assert all(row["status"] == "ok" and row["text"] in LABELS and row["new_tokens"] == 0 for row in rows)
    assert all(LABELS[row["label_scores"].index(max(row["label_scores"]))] == row["text"] for row in rows)
    texts = read_test_rows(folder).texts
    answers = registered_answers(project, 1, [texts[row["example_id"]] for row in rows])
    assert answers == [row["text"] for row in rows] and set(answers) == {*LABELS}
    tags = registry.version_tags(project.tracking, "colours", 1)
    assert (tags["method"], tags["kind"], tags[registry.WINNER_KIND]) == ("classifier", "classifier", "classifier")

    command, environment = project.command("serve", "colours", "--port", "0"), project.environment()
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        line = next(line for line in server.stdout if "serving" in line)
        url = line.split(" at ")[1].split("/v1")[0]
        row = rows[0]
        question = {"messages": [{"role": "user", "content": texts[row["example_id"]]}]}
        completion = post(f"{url}/v1/chat/completions", question)
        assert completion["choices"][0]["message"]["content"] == row["text"]
        data = post(f"{url}/classify", {**question, "add_generation_prompt": True})["data"][0]
        assert data["label"] == row["text"] == LABELS[data["probs"].index(max(data["probs"]))]
        verified = project.finetune("export", "colours", "--verify", url, "--json")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    assert (verified.returncode, json.loads(verified.stdout)["passed"]) == (0, True), verified.stdout
    logged = (project.folder / "logs" / "served.jsonl").read_text().splitlines()
    assert [json.loads(entry)["output"] for entry in logged] == [row["text"]] * 2
    exported = project.finetune("export", "colours", "--to", str(tmp_path / "out"), "--for", "vllm")
    assert exported.returncode == 0 and "--runner pooling" in (tmp_path / "out" / "README.md").read_text()
    refused = project.finetune("export", "colours", "--to", str(tmp_path / "ollama"), "--for", "ollama")
    assert refused.returncode == 1 and "a classifier writes no text" in refused.stderr
