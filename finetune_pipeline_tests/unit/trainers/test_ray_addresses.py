"""Where a Ray cluster may be: a dashboard, or a platform whose own package finds it; and the cluster files of the docs."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import RaySection
from finetune_pipeline.trainers import TRAINERS
from finetune_pipeline.trainers.ray import cluster_findings
from finetune_pipeline.trainers.ray_cluster import connect
from finetune_pipeline.trainers.storage import Storage
from finetune_pipeline_tests.ray_jobs_server import RayJobsServer

SPEC: dict[str, Any] = {"name": "demo", "description": "d", "system_prompt": "s", "output": {"kind": "text"}}
FILES = Path(__file__).resolve().parents[3] / "docs" / "clusters"
PLATFORM = """
from ray.dashboard.modules.dashboard_sdk import ClusterInfo

def get_job_submission_client_cluster_info(address, **_):
    return ClusterInfo(address="{address}" if address == "project/cluster" else "http://127.0.0.1:1", headers={{"X": "y"}})
"""


def rules(address: str, storage: Path | str, **more: Any) -> dict[str, str]:
    """Rule and fix of every finding about a cluster at an address."""
    section = RaySection(address=address, storage=str(storage), **more)
    return {f.rule: f"{f.message}; {f.fix}" for f in cluster_findings(section)}


@pytest.mark.parametrize(
    ("address", "rule", "message"),
    [
        ("https://me:secret@head:8265", "training.ray_address", "RAY_AUTH_TOKEN"),
        ("head:8265", "training.ray_address", "http://HEAD:8265"),
        ("http://127.0.0.1:99999", "training.ray_address", "Port out of range"),
        ("https://me:secret@[head", "training.ray_address", "no URL"),
        ("nosuchplatform://project/cluster", "training.ray_address", "no package nosuchplatform is installed"),
        ("json://project/cluster", "training.ray_address", "finds Ray clusters"),
        ("http://head.invalid:8265", "training.ray_clear", "unencrypted"),
        ("http://127.0.0.1:1", "training.ray_away", "`ray start --head` starts one here"),
        (f"http://{'a' * 70}:8265", "training.ray_away", "no Ray cluster answers"),
    ],
)
def test_an_address_that_will_not_do_is_told_before_anything_is_sent(
    address: str, rule: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    found_rules = rules(address, tmp_path)
    assert message in found_rules[rule] and "secret" not in str(found_rules)


def test_a_cluster_that_answers_is_well_and_what_it_would_refuse_is_told(tmp_path: Path) -> None:
    with RayJobsServer() as server:
        assert not rules(server.address, tmp_path, runtime_env={"pip": ["numpy"], "env_vars": {"A": "1"}})
        found_rules = rules(server.address, "nosuch://[x", runtime_env={"env_vars": ["A=1"]})
    assert set(found_rules) == {"training.storage", "training.ray_environment"}
    assert "must be of type Dict[str, str]" in found_rules["training.ray_environment"]


def test_batches_that_the_workers_cannot_share_evenly_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    with RayJobsServer() as server:

        def findings(workers: int) -> list[Finding]:
            section = {"address": server.address, "storage": str(tmp_path), "workers": workers}
            return TRAINERS["ray"].preflight(TaskSpec(**SPEC, training={"batch_size": 8, "ray": section}))

        assert findings(workers=4) == []
        (uneven,) = findings(workers=3)
    assert (uneven.rule, uneven.severity) == ("training.batch_over_workers", "error")
    assert "6 or 9" in uneven.fix


def test_a_platforms_package_finds_its_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As anyscale://PROJECT/CLUSTER is found by the package anyscale."""
    with RayJobsServer() as server:
        (tmp_path / "cloudofmine.py").write_text(PLATFORM.format(address=server.address))
        monkeypatch.syspath_prepend(str(tmp_path))
        assert not rules("cloudofmine://project/cluster", tmp_path)
        submitted = connect("cloudofmine://project/cluster").submit_job(entrypoint="true", submission_id="one")
        assert submitted == "one" and server.running() == ["one"]


@pytest.mark.parametrize("key", ["somebody", None], ids=["out of reach", "no credentials"])
def test_an_object_store_that_cannot_be_used_is_told_in_a_sentence(tmp_path, monkeypatch, key) -> None:
    s3fs = pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, key) if key else monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(OutsideError, match=r"storage s3://b/jobs cannot be used: (?s:.)*fix: .* credentials"):
            Storage("s3://b/jobs").has_folder("result")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_the_files_of_the_docs_make_clusters_of_the_ray_that_is_pinned() -> None:
    """Both were also held against KubeRay's schema and Anyscale's own models (docs/training.md)."""
    kuberay: dict[str, Any] = yaml.safe_load((FILES / "kuberay.yaml").read_text("utf-8"))
    assert (kuberay["apiVersion"], kuberay["kind"]) == ("ray.io/v1", "RayCluster")
    head, (workers,) = kuberay["spec"]["headGroupSpec"], kuberay["spec"]["workerGroupSpecs"]
    ports = [port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]]
    assert 8265 in ports, "the dashboard, which takes the jobs"
    assert kuberay["spec"]["rayVersion"] == ray.__version__
    for group in (head, workers):
        assert group["template"]["spec"]["containers"][0]["image"].endswith(f":{ray.__version__}")
    anyscale = yaml.safe_load((FILES / "anyscale.yaml").read_text("utf-8"))
    assert workers["minReplicas"] == anyscale["worker_nodes"][0]["min_nodes"] == 0
    assert f"Ray {ray.__version__}" in (FILES / "anyscale.yaml").read_text("utf-8")
