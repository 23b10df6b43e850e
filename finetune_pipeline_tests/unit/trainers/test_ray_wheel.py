"""The recipes install the package from its wheel, on a cluster whose Python does not have it."""

import os
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline import __version__
from finetune_pipeline.trainers.ray_cluster import connect
from finetune_pipeline.trainers.ray_job import _install_fix
from finetune_pipeline_tests.ray_cluster import LocalCluster, local_cluster
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.wheel import ROOT, build

pytest.importorskip("ray")
WHEEL = f"finetune_pipeline-{__version__}-py3-none-any.whl"
IN_UPLOAD = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/" + WHEEL
WAIT = 400.0
WHERE = "python -c 'import finetune_pipeline.trainers.ray_job as job; print(job.__file__)'"


def test_every_recipe_names_the_wheel_that_is_built_and_no_index() -> None:
    docs = (ROOT / "docs/training.md").read_text("utf-8")
    block = next(part for part in docs.split("```") if part.startswith("yaml") and "trainer: ray" in part)
    (package,) = yaml.safe_load(block.removeprefix("yaml"))["training"]["ray"]["runtime_env"]["pip"]
    assert package == f"{IN_UPLOAD}[ray]" and package in _install_fix(ModuleNotFoundError("no torch"))
    for name in ("kuberay", "anyscale"):
        text = (ROOT / f"docs/clusters/{name}.yaml").read_text("utf-8")
        assert f"pip install '/tmp/{WHEEL}[ray]'" in text and "pip install 'finetune-pipeline" not in text


@pytest.fixture
def empty_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster of a Python that has Ray and the dependencies, but not the package."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if Path(p).name == "site-packages"))
    ray = environment / "bin" / "ray"
    ray.write_text(f"#!{environment}/bin/python\nfrom ray.scripts.scripts import main\n\nmain()\n")
    ray.chmod(0o755)
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    with local_cluster(cpus=1, ray=ray) as cluster:
        yield cluster


@pytest.mark.ray
def test_ray_installs_the_uploaded_wheel_where_the_package_is_missing(
    empty_cluster: LocalCluster, tmp_path: Path
) -> None:
    client = connect(empty_cluster.address)

    def logs(**runtime_env: Any) -> str:
        job = client.submit_job(entrypoint=WHERE, runtime_env=runtime_env)
        wait_until(lambda: client.get_job_status(job).is_terminal(), WAIT)
        return str(client.get_job_logs(job)) + str(client.get_job_info(job).message)

    assert "No module named 'finetune_pipeline'" in logs()
    wheel = build(tmp_path / "built")
    assert wheel.name == WHEEL
    # nothing is downloaded: the dependencies are there
    pip = {"packages": [IN_UPLOAD], "pip_install_options": ["--no-deps", "--no-index"]}
    installed = logs(working_dir=str(wheel.parent), pip=pip)
    assert f"site-packages{os.sep}finetune_pipeline" in installed and "runtime_resources" in installed, installed
