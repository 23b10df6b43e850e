"""The process entry: exit codes, what it leaves behind, and its talk with Dagster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_pipeline.faults import outside_words
from finetune_pipeline.jobs import BaseJob, PredictJob, job_fields, write_job
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.processes import STRATEGY
from finetune_pipeline.worker import entry
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until
from finetune_pipeline_tests.unit.training.jobs import ROOT, call, finish, make_inputs, start
from finetune_pipeline_tests.unit.training.jobs import job as training_job

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_a_job_leaves_facts_and_measurements_and_talks_to_dagster(tiny: Path, tmp_path: Path) -> None:
    from dagster_pipes import encode_param

    fields = "asset_keys code_version_by_asset_key provenance_by_asset_key partition_key partition_key_range "
    fields += "partition_time_window run_id job_name retry_number"
    (tmp_path / "context").write_text(json.dumps({"extras": {}, **dict.fromkeys(fields.split())}))
    (tmp_path / "messages").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "error.json").write_text("{}")
    pipes = {f"DAGSTER_PIPES_{n.upper()}": encode_param({"path": str(tmp_path / n)}) for n in ("context", "messages")}
    code, errors = finish(start(BaseJob(base_model=str(tiny), revision=None, out=tmp_path / "out"), tmp_path, **pipes))
    assert code == 0, errors
    assert json.loads((tmp_path / "out" / "result.json").read_text())["parameters"] == 99_648
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert measured["seconds"] > 0 and measured["peak_memory_mib"] > 50 and measured["threads"] == 1
    assert not (tmp_path / "out" / "error.json").exists()
    methods = [json.loads(line)["method"] for line in (tmp_path / "messages").read_text().splitlines()]
    assert methods[0] == "opened" and methods[-1] == "closed"


def test_findings_are_told_and_end_with_the_configuration_code(tmp_path: Path) -> None:
    job = BaseJob(base_model="bundled/none", revision=None, out=tmp_path / "out")
    code, errors = finish(start(job, tmp_path))
    assert code == 64 and "there is no bundled model 'bundled/none'" in errors and "Traceback" not in errors
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "findings" and "[model.base_model]" in error["message"]
    assert "fix:" in error["message"] and not (tmp_path / "out" / "result.json").exists()


def test_on_a_full_disk_the_reason_is_told_all_the_same(tiny: Path, tmp_path: Path) -> None:
    job = BaseJob(base_model=str(tiny), revision=None, out=tmp_path / "out")
    write_job(tmp_path / "job.json", job)
    command = ["prlimit", "--fsize=20", sys.executable, "-m", entry.__name__, str(tmp_path / "job.json")]
    completed = subprocess.run(command, env=ENVIRONMENT, text=True, capture_output=True, check=False)
    assert completed.returncode == 1 and "Traceback" not in completed.stderr
    assert "base_model: " in completed.stderr and "limit of a file's size" in completed.stderr
    with pytest.raises(RuntimeError) as error:  # how torch saves the state of an optimiser
        torch.save(torch.ones(9), "/dev/full")
    assert "the disk is full" in str(outside_words(error.value, "home"))


ON = {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({}, "gradient_checkpointing: true"),
        (ON, "unquantized_epochs: 0"),
        ({**ON, "unquantized_epochs": 0}, "max_tokens: 512 (now 1024)"),
        ({**ON, "unquantized_epochs": 0, "max_tokens": 128}, "more memory"),
        ({**ON, "method": "full"}, "method: lora"),
        ({"method": "prefix"}, "method: qlora"),
    ],
)
def test_out_of_memory_names_the_nearest_smaller_setting(changes: dict[str, object], fix: str) -> None:
    """The micro-batch was halved by then."""
    settings = TrainingSpec.model_validate({"method": "qlora", **changes})
    message = entry.classify_error(MemoryError(), training_job(Path("in"), Path("place"), settings))[2]
    assert fix in message and "micro_batch_size" not in message


def test_out_of_memory_in_one_of_several_processes_names_a_smaller_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not halve it by themselves."""
    monkeypatch.setenv(STRATEGY, "ddp")
    for size, fix in ((8, "training.micro_batch_size: 4 (now 8)"), (9, "training.micro_batch_size: 3 (now 9)")):
        settings = TrainingSpec(batch_size=size, micro_batch_size=size)
        assert fix in entry.classify_error(MemoryError(), training_job(Path("in"), Path("place"), settings))[2]


def test_out_of_memory_of_other_jobs() -> None:
    """Batches have been halved by then."""
    folder = Path("folder")
    predicting = PredictJob(sets=[], examples=folder, labels=[], max_new_tokens=1, batch_size=16, out=folder)
    for job in (predicting, BaseJob(base_model="m", revision=None, out=folder)):
        message = entry.classify_error(MemoryError(), job)[2]
        assert message.startswith("out of memory") and "smaller base_model" in message and "batch_size" not in message


def ask_for_too_much(job: str) -> None:
    """In a process of its own: do the job, whose model asks the allocator for more than there is."""
    import torch

    from finetune_pipeline.training import model

    model.load_for_training = lambda *_: torch.empty(1 << 50)  # type: ignore[assignment,return-value]
    sys.exit(entry.main([job]))


def test_memory_that_really_runs_out_is_one_clear_message(tmp_path: Path) -> None:
    settings = TrainingSpec(method="full", batch_size=8, precision="float32")
    job = training_job(make_inputs(tmp_path / "inputs", rows=8), tmp_path, settings)
    write_job(tmp_path / "job.json", job)
    completed = call(ask_for_too_much, str(tmp_path / "job.json"))
    assert completed.returncode == 75, completed.stderr
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert error["kind"] == "memory" and "fix: set training.gradient_checkpointing: true (now auto)" in error["message"]
    assert "Traceback" not in completed.stderr


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
_PARENT = """
import os, subprocess, sys
os.environ["FINETUNE_PARENT_PID"] = str(os.getpid())
subprocess.Popen(sys.argv[1:], start_new_session=True).wait()
"""


def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    child = [sys.executable, "-c", _CHILD, str(tmp_path / "pid")]
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, *child], env=ENVIRONMENT)
    grandchild = number_in(tmp_path / "pid")
    parent.kill()
    parent.wait(10)
    wait_until(lambda: (tmp_path / "pid.stopped").exists() and not is_running(grandchild), 20)


def test_a_parent_that_died_before_the_start_is_noticed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait(20)
    code = "from finetune_pipeline.worker import process; process.die_with_parent()"
    env = {**ENVIRONMENT, "FINETUNE_PARENT_PID": str(gone.pid)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 85


def test_the_environment_is_set_before_torch(tiny: Path, tmp_path: Path) -> None:
    """A model of the hub, which is fetched, and then one that is here."""
    code = (
        "import json, os, sys\n"
        "from finetune_pipeline.jobs import job_of\n"
        "from finetune_pipeline.worker import entry\n"
        "for job in map(job_of, json.loads(sys.argv[1])):\n"
        "    entry.prepare_environment(job)\n"
        "    assert 'torch' not in sys.modules\n"
        "    print(*(os.environ.get(k) for k in sys.argv[2:]))\n"
    )
    jobs = [BaseJob(base_model=base, revision=None, out=tmp_path) for base in ("owner/name", str(tiny))]
    names = ("OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE")
    command = [sys.executable, "-c", code, json.dumps([job_fields(job) for job in jobs]), *names]
    env = {name: value for name, value in ENVIRONMENT.items() if name not in names}
    completed = subprocess.run(command, env=env, text=True, capture_output=True, check=True)
    assert completed.stdout.splitlines() == ["PASSIVE false None", "PASSIVE false 1"]


_SPINS = (
    "import os\n"
    "from finetune_pipeline.worker import process\n"
    "if {alone}: process.cores_in_use = lambda: 0.1\n"
    "process.spin_if_alone()\n"
    "print(os.environ.get('GOMP_SPINCOUNT'))"
)


def _spins(alone: bool) -> str:
    env = {name: value for name, value in ENVIRONMENT.items() if name != "GOMP_SPINCOUNT"}
    code = _SPINS.format(alone=alone)
    return subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True).stdout


def test_threads_wait_by_spinning_only_where_nobody_else_computes() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert _spins(alone=False) == "None\n"
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert _spins(alone=True) == "3500\n"
