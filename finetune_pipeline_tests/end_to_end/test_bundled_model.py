"""The bundled instruct model through the real jobs: unpack, 4-bit training, merge, parity."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import read_examples, write_examples
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.jobs import Job, MergeJob, TrainJob, write_job
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import APART, way_of_reading
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.settings import WORKER_MODULE
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.shared import bundled_base

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "ticket_triage"


def run_job(job: Job, folder: Path) -> dict[str, Any]:
    """Run a job in a worker process. Returns its facts."""
    path = folder / "job.json"
    write_job(path, job)
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **warm_workers.start()}
    command = [sys.executable, "-m", env.get("FINETUNE_WORKER_MODULE", WORKER_MODULE), str(path)]
    process = subprocess.run(command, env=env, text=True, capture_output=True, timeout=600, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads((job.out / "result.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundled")


@pytest.fixture(scope="module")
def base() -> Path:
    return bundled_base()[0]


def test_a_trained_model_is_read_in_the_fastest_way(base: Path) -> None:
    """Checks that the trial's tolerances also hold for the logits of trained weights, not only of random ones."""
    for precision in ("serving", "float32"):
        model = load_for_prediction(base, torch.device("cpu"), precision=precision)
        assert way_of_reading(model, Reader) == APART


@pytest.fixture(scope="module")
def examples(folder: Path) -> dict[str, Path]:
    """8 short training tickets and 2 validation tickets from the task that ships."""
    task = load_task(SHIPPED)
    for name in ("raw", "validated", "clean"):
        (folder / name).mkdir()
    collect_raw(task, folder / "raw")
    validate(folder / "raw", task.spec, folder / "validated")
    clean(folder / "validated", task.spec, folder / "clean")
    short = [e for e in read_examples(folder / "clean") if len(e.user_text) < 200]
    write_examples(folder / "train.jsonl", short[:8])
    write_examples(folder / "validation.jsonl", short[8:10])
    return {name: folder / f"{name}.jsonl" for name in ("train", "validation")}


@pytest.fixture(scope="module")
def trained(folder: Path, base: Path, examples: dict[str, Path]) -> dict[str, Any]:
    quick = {"epochs": 1, "evals_per_epoch": 1, "precision": "float32", "batch_size": 4}
    settings = load_task(SHIPPED).spec.training.changed(**quick)
    job = TrainJob(
        base=base, train=examples["train"], validation=examples["validation"], settings=settings,
        out=folder / "trained", work=folder / "work",
    )  # fmt: skip
    return run_job(job, folder)


def test_the_base_is_unpacked_whole_into_safetensors() -> None:
    base, facts = bundled_base()
    assert (facts["parameters"], facts["eos"], facts["dtype"]) == (134_515_008, "<|im_end|>", "BF16")
    assert {p.suffix for p in (base / "model").iterdir()} <= {".safetensors", ".json", ".jinja", ".txt"}


def test_the_base_takes_under_45_percent_in_memory_and_training_lowers_the_loss(trained: dict[str, Any]) -> None:
    assert trained["weights"]["ratio"] < 0.45 and trained["weights"]["quantized_modules"] == 210
    assert trained["trainable_parameters"] == 4_884_480 and len(trained["adapter_tensors"]) == 420
    assert trained["best_eval_loss"] < trained["first_eval_loss"]
    assert trained["shared_prefix"]["used"] is True and trained["shared_prefix"]["prefix_tokens"] > 100
    assert trained["audit"]["rows_without_eos"] == 0


def test_the_merged_model_is_the_unquantized_base_and_the_adapter(
    trained: dict[str, Any], base: Path, examples: dict[str, Path], folder: Path
) -> None:
    job = MergeJob(
        base=base, adapter=folder / "trained" / "adapter", examples=examples["validation"],
        labels=load_task(SHIPPED).spec.labels, max_new_tokens=4, batch_size=8, out=folder / "merged",
    )  # fmt: skip
    facts = run_job(job, folder)
    assert facts["merged_tensors"] == 210
    # bfloat16 may round away the change of so few steps; the merge is then stored in float32
    assert facts["dtype"] in ("bfloat16", "bfloat16+float32")
    assert facts["parity"]["passed"] and facts["parity"]["merge_kl"] < 1e-7 and facts["parity"]["weights_off"] == []
    # merged weight = base + alpha / r * B A, rounded once; checked on three layers
    plain, merged = (load_file(path / "model" / "model.safetensors") for path in (base, folder / "merged"))
    adapter = load_file(folder / "trained" / "adapter" / "adapter_model.safetensors")
    for layer in ("layers.0.self_attn.q_proj", "layers.7.self_attn.v_proj", "layers.29.mlp.down_proj"):
        a, b = (adapter[f"base_model.model.model.{layer}.lora_{m}.weight"].float() for m in "AB")
        base_weight, merged_weight = plain[f"model.{layer}.weight"], merged[f"model.{layer}.weight"]
        assert torch.equal(merged_weight, (base_weight.float() + 2.0 * (b @ a)).to(merged_weight.dtype))
        assert not torch.equal(merged_weight, base_weight)
    assert torch.equal(merged["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])
