"""The real graph on a tiny model: every artifact is made once and recorded in Dagster and MLflow."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from huggingface_hub import ModelCard

from finetune_pipeline.cli.documents import document_schema
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.pipeline import PIPELINE, STEPS
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.graph.project import Finished, Project

ASSETS = {step.name for step in STEPS if not step.asked_for}


def print_records() -> None:
    """Print Dagster's and MLflow's records of the environment's project."""
    import dagster as dg

    from finetune_pipeline.tracking.tracking import Tracking

    home = str(read_settings().project)
    os.environ.setdefault("DAGSTER_HOME", home)
    records: dict[str, Any] = {"assets": {}, "mlflow": {}}
    with dg.DagsterInstance.from_config(home) as instance:
        for key in instance.all_asset_keys():
            event = instance.get_latest_materialization_event(key)
            if event:
                records["assets"][key.path[-1]] = event.asset_materialization.tags["dagster/data_version"]
    client = Tracking().client()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            tags = run.data.tags
            records["mlflow"][tags["mlflow.runName"]] = {
                "status": run.info.status,
                "parent": tags.get("mlflow.parentRunId"),
                "version": run.data.params.get("version"),
                "params": sorted(run.data.params),
                "metrics": run.data.metrics,
                "models": len(run.outputs.model_outputs) if run.outputs else 0,
                "note": tags.get("mlflow.note.content"),
                "artifacts": [a.path for a in client.list_artifacts(run.info.run_id)],
                "datasets": [[i.dataset.name, i.dataset.digest, i.tags[0].value] for i in run.inputs.dataset_inputs],
                "curve": len(client.get_metric_history(run.info.run_id, "eval_loss")),
            }
    for model in client.search_registered_models():
        versions = len(client.search_model_versions(f"name='{model.name}'"))
        fields = {"name": model.name, "description": model.description, "aliases": dict(model.aliases)}
        records["model"] = {**fields, "versions": versions}
    print(json.dumps(records))


@pytest.fixture(scope="module")
def records(finished: Finished) -> dict:
    """Dagster's and MLflow's records after the run, read in a separate process."""
    return json.loads(finished.project.call(print_records).splitlines()[-1])


def test_the_run_ends_with_a_verdict(finished: Finished) -> None:
    project, code, result = finished
    assert code in (0, 2), result
    assert result["passed"] is (code == 0)
    page = (project.artifact("evaluation_report") / "report.html").read_text("utf-8")
    assert result["verdict"] and ("Ship nothing." if code else "Ship ") in page


def test_the_documents_of_run_and_report_keep_to_their_schemas(finished: Finished) -> None:
    jsonschema.validate(finished.output, document_schema("run"))
    report = finished.project.finetune("report", "colours", "--json")
    document = json.loads(report.stdout)
    jsonschema.validate(document, document_schema("report"))
    assert document["task"] == "colours" and "exit_code" not in document


def test_check_reads_what_the_run_knows_of_the_same_rows(finished: Finished, tmp_path: Path) -> None:
    project = Project.continued(finished.project, tmp_path, "adapter")
    document = json.loads(project.finetune("check", "colours", "--json").stdout)
    jsonschema.validate(document, document_schema("check"))
    assert (
        document["quality"] == project.facts("data_quality") and document["power"] == project.facts("advice")["power"]
    )
    assert not (project.home / "checks" / "colours" / "quality.json").exists(), "made again"


def test_a_changed_report_is_named_and_not_shown(finished: Finished) -> None:
    project = finished.project
    for name, arguments in (("report.json", ("report", "colours", "--json")), ("gates.json", ("run", "colours"))):
        path = project.artifact("evaluation_report") / name
        original = path.read_bytes()
        path.write_text("[]")
        process = project.finetune(*arguments)
        path.write_bytes(original)
        assert process.returncode == 1 and f"{name} has changed" in process.stderr, process.stdout + process.stderr


def test_a_model_whose_weights_are_gone_is_not_up_to_date(finished: Finished) -> None:
    """A disk that was full, or a copy that broke off, leaves a file of zero bytes."""
    weights = next(finished.project.artifact("merged_model").rglob("*.safetensors"))
    content = weights.read_bytes()
    weights.unlink()  # not written in place: it may be linked elsewhere
    weights.write_bytes(b"")
    try:
        process = finished.project.finetune("run", "colours")
        assert process.returncode == 1 and f"{weights.name} has changed" in process.stderr
        assert "up to date" not in process.stdout
    finally:
        weights.write_bytes(content)
    assert "up to date" in finished.project.finetune("run", "colours").stdout


def test_the_registered_model_has_its_card(finished: Finished) -> None:
    project, code, _ = finished
    own = project.artifact("model_version") / "README.md"
    (registered,) = [p for p in (project.home / "mlflow").rglob("README.md") if (p.parent / "MLmodel").is_file()]
    assert registered.read_text("utf-8") == own.read_text("utf-8")
    card = ModelCard.load(registered)
    scores = json.loads((project.artifact("evaluation_report") / "report.json").read_text())["scores"]["candidate"]
    result = {r.metric_type: r.metric_value for r in card.data.eval_results if r.dataset_type == "colours"}
    assert result["accuracy"] == round(scores["accuracy"], 4)
    assert ("did not pass its gates" in card.text) is (code == 2)
    assert "models:/colours@champion" in card.text and project.artifact("splits").name in card.text


def test_dagster_knows_every_asset_with_its_version(finished: Finished, records: dict) -> None:
    assert set(records["assets"]) == ASSETS
    versions = {name: step["version"] for name, step in finished.output["steps"].items()}
    assert versions.items() <= records["assets"].items()


def test_mlflow_holds_the_same_names_under_one_parent(finished: Finished, records: dict) -> None:
    runs, model = records["mlflow"], records["model"]
    nested = {name: run for name, run in runs.items() if run["parent"]}
    assert set(nested) == {f"colours/{asset}" for asset in ASSETS}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert len({run["parent"] for run in nested.values()}) == 1
    assert len(runs) == len(nested) + 1
    (parent,) = [run for run in runs.values() if not run["parent"]]
    assert parent["note"] == finished.output["verdict"]
    assert {"gain", "gain_low", "test_accuracy", "best_eval_loss"} <= set(parent["metrics"])
    assert {"training.learning_rate", "evaluation.gates.min_gain"} <= set(parent["params"])
    assert parent["models"] == 1
    assert {d[0] for d in parent["datasets"]} >= {"colours_train", "colours_validation"}
    assert all("settings" not in run["params"] and len(run["metrics"]) <= 20 for run in nested.values())
    adapter = nested["colours/adapter"]
    assert adapter["version"] == finished.output["steps"]["adapter"]["version"]
    assert adapter["curve"] >= 3
    assert [d[0] for d in adapter["datasets"]] == ["colours_train", "colours_validation"]
    assert len({d[1] for d in adapter["datasets"]}) == 2
    assert nested["colours/evaluation_report"]["artifacts"] == ["gates.json", "plots", "report.html"]
    assert model["name"] == "colours"
    assert model["versions"] == 1 and "champion is the version that serves" in model["description"]
    assert model["aliases"]["candidate"] == 1
    assert ("champion" in model["aliases"]) is finished.output["passed"]


def test_the_sealed_test_was_opened_once(finished: Finished) -> None:
    ledger = finished.project.home / "artifacts" / "colours" / "state" / "test_openings.jsonl"
    (line,) = ledger.read_text().splitlines()
    assert json.loads(line)["candidate"] == finished.output["steps"]["adapter"]["version"]


def test_the_weights_were_really_four_bit_and_the_adapter_holds_nothing_else(finished: Finished) -> None:
    from safetensors import safe_open

    project = finished.project
    weights = project.facts("adapter")["weights"]
    assert weights["quantized_modules"] == 14, "seven linear layers in each of two blocks"
    with safe_open(str(project.artifact("adapter") / "adapter" / "adapter_model.safetensors"), "pt") as tensors:
        names = list(tensors.keys())
    assert len(names) == 28 and all("lora_A" in n or "lora_B" in n for n in names)


def test_the_plan_is_told_and_holds(finished: Finished) -> None:
    project = finished.project
    plan, adapter = project.facts("training_plan"), project.facts("adapter")
    assert plan["steps"] == adapter["steps"] and [p["method"] for p in plan["phases"]] == ["qlora", "lora"]
    assert plan["trainable_parameters"] == adapter["trainable_parameters"]
    assert plan["tokens"]["total"] == adapter["tokens"]["train"]["tokens"]
    assert plan["fits"] is True and "| **qlora** |" in plan["plan_markdown"]
    new_plan = json.loads(project.finetune("plan", "colours", "--json").stdout)
    assert new_plan["source"] == f"splits {finished.output['steps']['splits']['version']}"


def test_training_gets_no_path_to_the_sealed_test(finished: Finished) -> None:
    """Only test_predictions' manifest and job name the sealed file."""
    project = finished.project
    for step in ("adapter", "few_shot_baseline", "merged_model", "training_plan"):
        for path in project.artifact(step).rglob("*.json*"):
            assert "sealed" not in path.read_text("utf-8", "replace"), path


def test_a_plan_that_does_not_fit_stops_everything_after_it(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.continued(finished.project, tmp_path, "training_plan")
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "0.3")
    code, result = project.run()
    assert code == 2, result
    assert {(r["asset"], r["check"]) for r in result["refused"]} == {("training_plan", "fits_memory")}
    facts = project.facts("training_plan")
    assert facts["fits"] is False and facts["available_mib"] == 307 and "does not fit" in facts["sentence"]
    after = ("adapter", "merged_model", "test_predictions", "evaluation_report", "model_version")
    assert not [step for step in after if any(project.home.glob(f"artifacts/colours/{step}/*/artifact.json"))]


def test_a_changed_gate_remakes_the_report_and_nothing_before_it(finished: Finished) -> None:
    project = finished.project
    task, store = load_task(project.folder), ArtifactStore(project.home / "artifacts")
    run_inputs = collect_run_inputs(task, None, store)
    gates = task.spec.gates.model_copy(update={"min_valid_share": 0.5})
    changed = Task(spec=task.spec.model_copy(update={"gates": gates}), folder=task.folder)
    before, after = (PIPELINE.versions(each, run_inputs, store) for each in (task, changed))
    changed_steps = {name for name in before if before[name] != after[name]}
    assert changed_steps == {"advice", "ladder", "tuned_rungs", "evaluation_report", "model_version"}
