"""Metrics, gates and formats of an installed package of the user's, by entry points."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_pipeline_tests.unit.evaluation.test_registries import TASK, TOY_GATE, TOY_METRIC
from finetune_pipeline_tests.wheel import ROOT

TOY_FORMAT = """
from finetune_pipeline.data.formats.base import RawFormat, read_single_texts, register


@register
class Ticket(RawFormat):
    name, order = "ticket", 35
    documented = "`subject`, `team`"
    row_keys = ("subject",)
    needs = (("subject",), ("team",))

    def read(self, row, spec, turns):
        return read_single_texts(row, "subject", "team", spec, turns)
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-members"
version = "{version}"

[project.entry-points."finetune_pipeline.metrics"]
wrong_letters = "acme_metric"

[project.entry-points."finetune_pipeline.gates"]
toy_short_answers = "acme_gate"

[project.entry-points."finetune_pipeline.formats"]
ticket = "acme_format"

[tool.setuptools]
py-modules = ["acme_metric", "acme_gate", "acme_format"]
"""
SCRIPT = """
import json, sys
from pathlib import Path

from finetune_pipeline.data.formats import format_of
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec.loading import check_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation

sys.path.insert(0, "tools")
from make_reference import render

folder = Path(sys.argv[1])
task, findings = check_task(folder / "triage")
result, store = evaluation(spec=task.spec), ArtifactStore(folder / "store")
inputs = collect_run_inputs(task, None, store)
artifacts = PIPELINE.run_to("validated_examples", task, inputs, store)
print(json.dumps({
    "findings": [finding.rule for finding in findings],
    "gain": [(gain.metric, gain.gain) for gain in result.decisions.baseline.gains],
    "gates": [gate.name for gate in decide(task.spec, result)],
    "format": format_of({"subject": "s", "team": "t"}),
    "kept": artifacts["validated_examples"].facts["kept"],
    "versions": {name: PIPELINE.steps[name].settings(task.spec, inputs).get("plugins") for name in PIPELINE.steps},
    "validated": artifacts["validated_examples"].version,
    "reference": render(),
}))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """Builds a package and installs it into a folder. Returns the folder."""

    def install(version: str, metric: str = TOY_METRIC) -> Path:
        source, target = tmp_path / f"source-{version}", tmp_path / f"site-{version}"
        source.mkdir()
        (source / "pyproject.toml").write_text(PROJECT.format(version=version))
        for name, code in (("metric", metric), ("gate", TOY_GATE), ("format", TOY_FORMAT)):
            (source / f"acme_{name}.py").write_text(code)
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
        subprocess.run([*pip, *options, str(source)], check=True)
        return target

    return install


def call(site: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "FINETUNE_DATA": str(site.parent)}
    return subprocess.run(
        [sys.executable, *command], text=True, capture_output=True, cwd=ROOT, env=environment, check=False
    )


def test_an_installed_package_brings_a_metric_a_gate_and_a_format(
    installed: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "triage/raw").mkdir(parents=True)
    (tmp_path / "triage/task.yaml").write_text(TASK)
    rows = [{"subject": f"It is broken {i}", "team": ("bug", "billing")[i % 2]} for i in range(4)]
    (tmp_path / "triage/raw/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcomes = []
    for version in ("1.0", "1.1"):
        process = call(installed(version), "-c", SCRIPT, str(tmp_path))
        assert process.returncode == 0, process.stderr
        outcomes.append(json.loads(process.stdout.splitlines()[-1]))
    first, second = outcomes
    assert first["findings"] == [] and first["gain"][0][0] == "wrong_letters" and first["gain"][0][1] > 0
    assert "toy_short_answers" in first["gates"] and (first["format"], first["kept"]) == ("ticket", 4)
    for text in ("`wrong_letters` | labels", "`toy_short_answers` | at most three", "`ticket` | `subject`, `team`"):
        assert text in first["reference"]
    dependent = {name for name, plugins in first["versions"].items() if plugins == {"acme-members": "1.0"}}
    assert dependent == {"validated_examples", "few_shot_baseline", "advice", "evaluation_report"}
    assert first["validated"] != second["validated"], "another version of the package makes the step again"


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (
            "import acme_that_is_missing",
            "cannot be loaded: its finetune_pipeline.metrics 'wrong_letters' (acme_metric): No",
        ),
        (TOY_METRIC.replace("wrong_letters", "exact"), "replaces exact of finetune_pipeline.metrics"),
    ],
)
def test_a_package_that_fails_is_named(installed: Callable[..., Path], metric: str, problem: str) -> None:
    process = call(installed("2.0", metric), "-m", "finetune_pipeline.cli.main", "show")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert f"the package acme-members 2.0 {problem}" in process.stderr and "uninstall" in process.stderr
