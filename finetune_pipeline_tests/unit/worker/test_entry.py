"""The process entry: exit codes, what it leaves behind, and its talk with Dagster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.worker import entry
from finetune_pipeline.worker.jobs import base_job
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until
from finetune_pipeline_tests.unit.training.jobs import ROOT, finish, make_inputs, start
from finetune_pipeline_tests.unit.training.jobs import job as train_job


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


def test_a_job_leaves_facts_and_measurements_and_talks_to_dagster(tiny: Path, tmp_path: Path) -> None:
    from dagster_pipes import encode_param

    fields = "asset_keys code_version_by_asset_key provenance_by_asset_key partition_key partition_key_range "
    fields += "partition_time_window run_id job_name retry_number"
    (tmp_path / "context").write_text(json.dumps({"extras": {}, **dict.fromkeys(fields.split())}))
    (tmp_path / "messages").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "error.json").write_text("{}")
    job = base_job(base_model=str(tiny), revision=None, out=tmp_path / "out")
    code, errors = finish(
        start(
            job,
            tmp_path,
            DAGSTER_PIPES_CONTEXT=encode_param({"path": str(tmp_path / "context")}),
            DAGSTER_PIPES_MESSAGES=encode_param({"path": str(tmp_path / "messages")}),
        )
    )
    assert code == 0, errors
    assert json.loads((tmp_path / "out" / "result.json").read_text())["parameters"] == 99_648
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert measured["seconds"] > 0 and measured["peak_memory_mib"] > 50 and measured["threads"] == 1
    assert not (tmp_path / "out" / "error.json").exists()
    methods = [json.loads(line)["method"] for line in (tmp_path / "messages").read_text().splitlines()]
    assert methods[0] == "opened" and methods[-1] == "closed"


def test_findings_are_told_and_end_with_the_configuration_code(tmp_path: Path) -> None:
    job = base_job(base_model="bundled/none", revision=None, out=tmp_path / "out")
    code, errors = finish(start(job, tmp_path))
    assert code == 64 and "there is no bundled model 'bundled/none'" in errors and "Traceback" not in errors
    told = json.loads((tmp_path / "out" / "error.json").read_text())
    assert told["kind"] == "findings" and [f["rule"] for f in told["findings"]] == ["model.base_model"]
    assert "fix:" in told["message"]
    assert not (tmp_path / "out" / "result.json").exists()


def _named(**changes: object) -> str:
    settings = {**TrainingSpec.model_validate({"method": changes.pop("method", "qlora")}).model_dump(), **changes}
    return entry.judge(MemoryError(), {"action": "train", "settings": settings})[2]


def test_out_of_memory_names_the_nearest_smaller_setting() -> None:
    assert "training.micro_batch_size: 4 (now 8)" in _named()
    assert "training.micro_batch_size: 3 (now 9)" in _named(batch_size=9, micro_batch_size=9)
    assert "gradient_checkpointing: true" in _named(micro_batch_size=1)
    on = {"micro_batch_size": 1, "gradient_checkpointing": True}
    assert "unquantized_epochs: 0" in _named(**on)
    assert "max_tokens: 512 (now 1024)" in _named(**on, unquantized_epochs=0)
    assert "more memory" in _named(**on, unquantized_epochs=0, max_tokens=128)
    assert "method: lora" in _named(method="full", **on)
    assert "method: qlora" in _named(method="prefix", micro_batch_size=1)
    predict = entry.judge(MemoryError(), {"action": "predict", "batch_size": 16})[2]
    assert "baseline.batch_size: 8 (now 16)" in predict and predict.startswith("out of memory")
    assert "smaller base_model" in entry.judge(MemoryError(), {"action": "predict", "batch_size": 1})[2]
    assert "smaller base_model" in entry.judge(MemoryError(), {"action": "base_model"})[2]


def test_memory_that_really_runs_out_is_one_clear_message(tmp_path: Path) -> None:
    """The model asks the allocator for more than there is."""
    asked = TrainingSpec(method="full", batch_size=8, precision="float32").model_dump()
    job = train_job(make_inputs(tmp_path / "inputs"), tmp_path, asked)
    code = (
        "import sys, torch\n"
        "from finetune_pipeline.training import model\n"
        "from finetune_pipeline.worker import entry\n"
        "entry.prepare_environment = lambda job: None\n"
        "model.load_for_training = lambda *a: torch.empty(1 << 50)\n"
        "sys.exit(entry.main(sys.argv[1:]))\n"
    )
    (tmp_path / "job.json").write_text(json.dumps(job))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.json")], env=env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 75, done.stderr
    told = json.loads((tmp_path / "out" / "error.json").read_text())
    assert told["kind"] == "memory" and "fix: set training.micro_batch_size: 4 (now 8)" in told["message"]
    assert "Traceback" not in done.stderr


_CHILD = """
import os, subprocess, sys, time
from finetune_pipeline.worker import process
process.die_with_parent()
process.stop_on_signals()
other = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
                          "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"])
open(sys.argv[1], "w").write(str(other.pid))
try:
    time.sleep(100)
except process.Stop:
    open(sys.argv[1] + ".stopped", "w").write("yes")
process.sweep_group()
os._exit(0)
"""


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    middle = (
        "import os, subprocess, sys\n"
        "os.environ['FINETUNE_PARENT_PID'] = str(os.getpid())\n"
        "child = subprocess.Popen(sys.argv[1:], start_new_session=True)\n"
        "child.wait()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = [sys.executable, "-c", _CHILD, str(tmp_path / "pid")]
    parent = subprocess.Popen([sys.executable, "-c", middle, *child], env=env)
    grandchild = number_in(tmp_path / "pid")
    parent.kill()
    parent.wait(10)
    wait_until(lambda: (tmp_path / "pid.stopped").exists() and not is_running(grandchild), 20)


def test_a_parent_that_died_before_the_start_is_noticed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait(20)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FINETUNE_PARENT_PID": str(gone.pid)}
    code = "from finetune_pipeline.worker import process; process.die_with_parent()"
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 85


def test_the_environment_is_set_before_torch(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import json, os, sys\n"
        "from finetune_pipeline.worker import entry\n"
        "entry.prepare_environment(json.loads(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules\n"
        "print(json.dumps({k: os.environ.get(k) for k in sys.argv[2:]}))\n"
    )
    names = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE")
    plain = {k: v for k, v in os.environ.items() if k not in names}
    told = {}
    for name in (str(tiny), "owner/name"):
        job = json.dumps(base_job(base_model=name, revision=None, out=tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", code, job, *names],
            env={**plain, "PYTHONPATH": str(ROOT)},
            text=True,
            capture_output=True,
            check=True,
        )
        told[name] = json.loads(done.stdout)
    assert told[str(tiny)] == {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    assert told["owner/name"]["HF_HUB_OFFLINE"] is None
