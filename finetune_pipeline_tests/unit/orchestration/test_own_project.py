"""The pipeline in somebody's own Dagster project, beside assets, resources and an executor of theirs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster.components.scaffold.scaffold import get_scaffolder
from dagster_shared.serdes.objects import EnvRegistryKey

import finetune_pipeline
from finetune_pipeline.definitions import build_definitions, definitions_of
from finetune_pipeline.pipeline import PIPELINE, STEPS
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests.shared import copy_database

SPEC = {
    "name": "triage",
    "description": "Which team a ticket goes to.",
    "base_model": "bundled/smollm2-135m-instruct",
    "system_prompt": "Answer with the team.",
    "output": {"kind": "labels", "labels": ["billing", "delivery"]},
}
FOREIGN = """
    import dagster as dg

    @dg.asset
    def exported_tickets(store: dg.ResourceParam[str]) -> None:
        print(store)

    @dg.asset(deps=[dg.AssetKey(["ml", "triage", "model_version"])])
    def deployed(compute: dg.ResourceParam[str]) -> None:
        print(compute)

    defs = dg.Definitions(
        assets=[exported_tickets, deployed],
        resources={"store": "theirs", "tracking": "theirs", "compute": "theirs"},
        executor=dg.in_process_executor,
    )
"""


def write_task(folder: Path) -> None:
    (folder / "raw").mkdir(parents=True)
    (folder / "task.yaml").write_text(yaml.safe_dump(SPEC))


def write_project(root: Path) -> Path:
    """Write a project as `dg` makes it: two assets of its own, and the component twice, for two tasks."""
    defs = root / "shop" / "defs"
    defs.mkdir(parents=True)
    (root / "shop" / "__init__.py").touch()
    (defs / "assets.py").write_text(textwrap.dedent(FOREIGN))
    for name in ("triage", "refunds"):
        write_task(defs / name)
        spec = {**SPEC, "name": name}
        (defs / name / "task.yaml").write_text(yaml.safe_dump(spec))
        component = {"type": "finetune_pipeline.FinetuneTask", "attributes": {"key_prefix": ["ml"]}}
        (defs / name / "defs.yaml").write_text(yaml.safe_dump(component))
    (root / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
    )
    return root


def test_the_component_stands_beside_foreign_assets(tmp_path: Path) -> None:
    root = write_project(tmp_path)
    code = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        import dagster as dg
        defs = dg.load_from_defs_folder(path_within_project=Path(sys.argv[1]) / "shop")
        repository = defs.get_repository_def()
        graph = repository.asset_graph
        print(json.dumps({
            "keys": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
            "parents": [key.to_user_string() for key in graph.get(dg.AssetKey("deployed")).parent_keys],
            "jobs": sorted(repository.job_names),
            "executor": defs.executor.name,
            "resources": sorted(repository.get_top_level_resources()),
            "all": sorted(k.to_user_string() for k in repository.get_job("triage__all").asset_layer.selected_asset_keys),
        }))
        """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    ours = {f"ml/{task}/{step.name}" for task in ("triage", "refunds") for step in STEPS}
    assert set(shown["keys"]) == ours | {"exported_tickets", "deployed"}
    assert shown["parents"] == ["ml/triage/model_version"]
    assert {"triage__all", "refunds__data"} <= set(shown["jobs"])
    assert shown["executor"] == "in_process"
    assert {"store", "tracking", "compute", "finetune_store", "finetune_compute"} <= set(shown["resources"])
    assert set(shown["all"]) == {f"ml/triage/{step.name}" for step in STEPS if not step.asked_for}


def test_definitions_merge_with_others_and_a_step_runs_under_a_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path / "data" / "triage")
    row = '{"text": "Where is it?", "label": "delivery"}\n'
    (tmp_path / "data" / "triage" / "raw" / "a.jsonl").write_text(row)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", copy_database(tmp_path / "mlflow"))
    own = dg.Definitions(resources={"store": "theirs"}, executor=dg.in_process_executor)
    defs = dg.Definitions.merge(own, build_definitions(tmp_path / "data", key_prefix=["ml", "models"]))
    job, key = defs.resolve_job_def("triage__data"), dg.AssetKey(["ml", "models", "triage", "raw_examples"])
    with dg.DagsterInstance.ephemeral() as instance:
        keys = [dg.AssetKey([*key.path[:-1], name]) for name in PIPELINE.upstream("raw_examples")]
        result = job.execute_in_process(instance=instance, asset_selection=keys)
        (event,) = result.asset_materializations_for_node("ml__models__triage__raw_examples")
        assert (result.success, event.asset_key) == (True, key)
        assert event.metadata["bytes"].value == len(row)


def test_dg_finds_the_component_and_scaffolds_a_task(tmp_path: Path) -> None:
    """The entry point is that of pyproject.toml; `dg scaffold defs` calls the scaffolder that is found by it."""
    component = finetune_pipeline.FinetuneTask
    entry = Path(finetune_pipeline.__file__).parents[1] / "pyproject.toml"
    assert '[project.entry-points."dagster_dg_cli.registry_modules"]\nfinetune_pipeline = "finetune_pipeline"' in (
        entry.read_text("utf-8")
    )
    info = tmp_path / "site" / "finetune_probe-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: finetune-probe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dagster_dg_cli.registry_modules]\nfinetune_pipeline = finetune_pipeline\n")
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        registered = discover_entry_point_package_objects()
    finally:
        sys.path.remove(str(tmp_path / "site"))
    assert registered[EnvRegistryKey(name="FinetuneTask", namespace="finetune_pipeline")] is component
    folder = tmp_path / "defs" / "tickets"
    folder.mkdir(parents=True)
    scaffolder = get_scaffolder(component)
    assert isinstance(scaffolder, dg.Scaffolder)
    scaffolder.scaffold(dg.ScaffoldRequest("finetune_pipeline.FinetuneTask", folder, "yaml", tmp_path, None))
    written = yaml.safe_load((folder / "defs.yaml").read_text())
    assert written == {"type": "finetune_pipeline.FinetuneTask", "attributes": {}}
    defs = definitions_of(load_task(folder))
    assert "tickets__all" in defs.get_repository_def().job_names, "what is scaffolded can be loaded"
