"""The assets of several tasks as Dagster groups them."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from finetune_pipeline.definitions import build_definitions, definitions_of
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.orchestration.assets import LADDER, TUNED_LADDER, task_assets
from finetune_pipeline.pipeline import GROUPS, STEPS
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import Task
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.unit.evaluation.rows import spec


def _write(folder: Path, **more: object) -> None:
    folder.mkdir()
    values = spec(**more).model_dump(mode="json", exclude_unset=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(values))


def test_each_task_has_its_own_groups_without_a_cycle_and_assets_carry_their_code_version() -> None:
    assets = [a for name in ("triage", "orders") for a in task_assets(Task(spec=spec(name=name), folder=Path(name)))]
    specs = {asset_spec.key: asset_spec for asset in assets for asset_spec in asset.specs}
    assert {asset_spec.group_name for asset_spec in specs.values()} == {
        f"{t}__{g}" for t in ("triage", "orders") for g in GROUPS
    }
    order = {f"{task}__{group}": i for task in ("triage", "orders") for i, group in enumerate(GROUPS)}
    for asset_spec in specs.values():
        assert asset_spec.group_name is not None and asset_spec.group_name.startswith(f"{asset_spec.key.path[0]}__")
        assert all(
            order[specs[d.asset_key].group_name or ""] <= order[asset_spec.group_name] for d in asset_spec.deps
        ), asset_spec.key
    versions = {step.name: step.code_version for step in STEPS}
    assert {key.path[-1]: asset_spec.code_version for key, asset_spec in specs.items()} == versions


def test_a_gate_that_the_task_does_not_ask_for_is_no_green_check() -> None:
    def checks(**changes: object) -> set[str]:
        assets = task_assets(Task(spec=spec(**changes), folder=Path("triage")))
        return {
            key.name for asset in assets for key in asset.check_keys if key.asset_key.path[-1] == "evaluation_report"
        }

    gates = {"min_score": 0.5, "min_rated": 30, "min_preferred": 0.5, "never_break": ["a"], "parts": ["raw/a.jsonl"]}
    every = checks(gates=gates, automation={"max_error": 0.05})
    unasked = {"min_score", "human_review", "judge", "never_break", "beats_baseline_on_parts", "automation"}
    assert every - checks() == unasked and {"beats_baseline", "general_ability", "beats_champion"} <= checks()
    assert "not_worse_than_teacher" not in every and "general_ability" not in checks(ability={"suite": False})


def test_dagster_loads_all_of_a_task_and_a_whole_run_leaves_out_what_is_made_on_request(tmp_path: Path) -> None:
    _write(tmp_path / "triage")
    repository = build_definitions(tmp_path).get_repository_def()
    repository.load_all_definitions()  # names of jobs and of assets must not meet
    asked_for = {step.name for step in STEPS if step.asked_for}

    def made(job: str) -> set[str]:
        layer = repository.get_job(f"triage__{job}").asset_layer
        return {key.path[-1] for key in layer.selected_asset_keys}

    assert made("all") == {step.name for step in STEPS} - asked_for
    assert made("baseline") & asked_for == set()
    assert made(LADDER) & asked_for == {"pilot", "ladder"}
    assert asked_for | {"adapter", "merged_model"} <= made(TUNED_LADDER)


def test_a_step_without_its_inputs_says_so_in_a_sentence_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    copy_database(tmp_path / "home" / "mlflow")
    _write(tmp_path / "triage")
    (tmp_path / "triage" / "raw").mkdir()
    (tmp_path / "triage" / "raw" / "a.jsonl").write_text('{"text": "hello", "label": "a"}\n')
    job = build_definitions(tmp_path).resolve_job_def("triage__all")
    selected = [dg.AssetKey(["triage", "merged_model"])]
    result = job.execute_in_process(asset_selection=selected, raise_on_error=False)
    (failure,) = [e for e in result.all_events if e.is_step_failure or e.is_step_up_for_retry]
    assert failure.step_failure_data.user_failure_data.description.startswith("triage/merged_model needs adapter, ")


def test_a_value_that_dagster_refuses_is_named_and_stops_no_other_task(tmp_path: Path) -> None:
    _write(tmp_path / "triage")
    _write(tmp_path / "never", name="never", logs={"retrain_cron": "0 3 31 2 *"})
    with pytest.raises(FindingsError, match="Dagster refuses the task: .* invalid cron schedule '0 3 31 2"):
        definitions_of(load_task(tmp_path / "never"))
    names = build_definitions(tmp_path).get_repository_def().job_names
    assert "triage__all" in names and not any(name.startswith("never") for name in names)
