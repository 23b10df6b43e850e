"""Time, memory and validation loss of this pipeline's training job against plain TRL.

    python benchmarks/training_throughput.py                                      # data/ticket_triage
    python benchmarks/training_throughput.py --instructions instruction-data.json # rows without a shared prefix

Both baselines are SFTTrainer with LoRA r 16, alpha 32, dropout 0.05. `guide` follows tutorials: batches of 4 rows, 4
accumulated, padded, float32 on the CPU (float16 on a GPU), loss on all tokens, at most 512 of them, no gradient
checkpointing, learning rate 2e-4. `TRL` uses TRL's own defaults (batches of 8, gradient checkpointing, at most 1,024 tokens,
bfloat16 where the processor supports it). Ours is the real job with the method lora, the same LoRA shape, and otherwise the
defaults of a task. All see the same rows for the same number of epochs, each in a fresh process, in turn. CPU seconds count
the whole process, from the start of Python to the saved adapter. `Training loop` is that alone, with our validation passes
in it (the baselines make none); the limit is about it. One code judges all adapters: the mean cross-entropy of the
assistant's tokens of the validation rows, in float32.

Measures: finetune_pipeline/training.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_tasks import make_base, make_splits, run_job, run_python
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models.hardware import cpu_has_bfloat16, cpu_model
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.spec.training import TrainingSpec

LIMITS = {"ticket_triage": 0.2, "instructions": 0.5}
"""Largest share of the guide's training loop."""
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def baseline(job: dict[str, Any]) -> dict[str, Any]:
    """Train as guides do, or with TRL's defaults. Runs in its own process; returns its measurements."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    folder = model_folder(Path(job["base"]))
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.float32
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    quantized: dict[str, Any] = {"quantization_config": four_bit} if job.get("four_bit") else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": 0} if gpu else None, **quantized)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common: dict[str, Any] = {"output_dir": job["out"], "num_train_epochs": job["epochs"], "use_cpu": not gpu}
    common |= {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": job["seed"]}
    trl_config = SFTConfig(**common, bf16=gpu or cpu_has_bfloat16())
    guide_config = SFTConfig(
        **common,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        learning_rate=2e-4,
        max_length=512,
        logging_steps=10,
        fp16=gpu,
        bf16=False,
        gradient_checkpointing=bool(job.get("gradient_checkpointing")),
    )
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LAYERS, task_type="CAUSAL_LM")
    rows = Dataset.from_list(
        [
            {"messages": [{"role": m["role"], "content": m["content"]} for m in row["messages"]]}
            for row in read_rows(Path(job["train"]))
        ]
    )
    config = trl_config if job["defaults"] else guide_config
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    began, cpu_began = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    trainer.save_model(str(Path(job["out"]) / "adapter"))
    gpu_memory = {"peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20} if gpu else {}
    return {"train_seconds": seconds, "train_cpu_seconds": cpu, "steps": trainer.state.global_step, **gpu_memory}


def judge(job: dict[str, Any]) -> dict[str, Any]:
    """Validation loss of the base model and of several adapters on the assistant's tokens."""
    import torch
    from peft import PeftModel

    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.chat import load_tokenizer
    from finetune_pipeline.models.loading import load_for_prediction
    from finetune_pipeline.training.fused import token_losses
    from finetune_pipeline.training.packing import logits_to_learn, packed_batch, supports_shared_prefix
    from finetune_pipeline.training.rows import encode_split

    base = Path(job["base"])
    tokenizer = load_tokenizer(base)
    encoded = encode_split(tokenizer, read_examples(Path(job["validation"])), 1 << 20, "fail").rows
    rows = sorted(({"id": r.id, "ids": r.ids, "loss": r.loss} for r in encoded), key=lambda r: len(r["ids"]))
    model: Any = load_for_prediction(base, torch.device("cpu"))

    def loss() -> float:
        supported, reason = supports_shared_prefix(model)
        if not supported:
            raise RuntimeError(reason)
        total, count = 0.0, 0
        for i in range(0, len(rows), 8):
            batch = packed_batch(rows[i : i + 8])
            with torch.no_grad():
                losses = token_losses(logits_to_learn(model, batch), batch["labels"])
            total, count = total + losses.double().sum().item(), count + losses.numel()
        return total / count

    losses_by_name = {"base": loss()}
    for name, adapter in job["adapters"].items():
        model = PeftModel.from_pretrained(load_for_prediction(base, torch.device("cpu")), adapter).eval()
        losses_by_name[name] = loss()
    return losses_by_name


CHILD_JOBS = {"baseline": baseline, "judge": judge}


def in_child(kind: str, job: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """Run one of CHILD_JOBS in a new process. Returns its result with the seconds it took."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", job)
    began = time.perf_counter()
    run_python(__file__, "--child", kind, str(folder / "job.json"), str(folder / "result.json"), threads=threads)
    return {"seconds": time.perf_counter() - began, **read_json(folder / "result.json")}


def ours(
    base: Path, train: Path, validation: Path, settings: TrainingSpec, folder: Path, threads: int
) -> dict[str, Any]:
    """Run the product's training job. Returns its measurements."""
    job = TrainJob(
        base=base, train=train, validation=validation, settings=settings, out=folder / "out", work=folder / "work"
    )
    began = time.perf_counter()
    measured = run_job(job, folder, threads)
    return {**measured, "seconds": time.perf_counter() - began}


def first_rows(file: Path, out: Path, rows: int | None) -> Path:
    """`file`, or a copy of its first `rows` lines."""
    if not rows:
        return file
    lines = file.read_text("utf-8").splitlines(keepends=True)[:rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(lines), "utf-8")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=Path, help="JSON file of {instruction, input, output} rows")
    parser.add_argument("--rows", type=int, help="number of training rows; default: all")
    parser.add_argument("--validation-rows", type=int, help="number of validation rows; default: all")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of training")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        os.environ["HF_HUB_OFFLINE"] = "1"
        kind, job, result = arguments.child
        facts = CHILD_JOBS[kind](read_json(Path(job)))
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_memory_mib": used.ru_maxrss / 1024}
        write_json(Path(result), facts)
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="training-throughput-"))
    return compare(arguments, folder)


def compare(arguments: argparse.Namespace, folder: Path) -> int:
    """Train all sides in turn, judge the adapters, print the report. Returns 1 if a limit is not met."""
    name = "instructions" if arguments.instructions else "ticket_triage"
    base = make_base(folder, "chatml" if arguments.instructions else None)
    train, validation, settings = make_splits(folder, arguments.instructions)
    train = first_rows(train, folder / name / f"train-{arguments.rows}.jsonl", arguments.rows)
    validation = first_rows(
        validation, folder / name / f"validation-{arguments.validation_rows}.jsonl", arguments.validation_rows
    )
    rows = sum(1 for _ in train.open(encoding="utf-8"))
    declared = {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    usual = {"method": "lora", "epochs": arguments.epochs, "unquantized_epochs": 0.0}
    settings = settings.changed(**{**usual, **declared})
    runs: dict[str, list[dict[str, Any]]] = {"guide": [], "TRL": [], "ours": []}
    adapters = {}
    for turn in range(arguments.repeats):
        out = folder / f"{name}-{turn}"
        for side in ("guide", "TRL"):
            job = {
                "base": str(base),
                "train": str(train),
                "epochs": arguments.epochs,
                "seed": turn,
                "out": str(out / side),
            }
            runs[side].append(in_child("baseline", {**job, "defaults": side == "TRL"}, out / side, arguments.threads))
            adapters[f"{side} {turn}"] = str(out / side / "adapter")
        runs["ours"].append(ours(base, train, validation, settings.changed(seed=turn), out / "ours", arguments.threads))
        adapters[f"ours {turn}"] = str(out / "ours/out/adapter")
    judged = {"base": str(base), "validation": str(validation), "adapters": adapters}
    losses = in_child("judge", judged, folder / f"{name}-judge", arguments.threads)
    machine = f"{cpu_model()} ({'' if cpu_has_bfloat16() else 'no '}bfloat16), {os.cpu_count()} cores"
    print(f"\n{name}: {rows} training rows, {arguments.epochs:g} epochs, {arguments.threads} threads; {machine}")
    return report(name, runs, losses)


def report(name: str, runs: dict[str, list[dict[str, Any]]], losses: dict[str, Any]) -> int:
    """Print the table and the limits; returns 1 if one is not met."""
    loss = {side: statistics.mean(v for k, v in losses.items() if k.startswith(side)) for side in runs}
    lines = {}
    for label, key in (
        ("CPU seconds, whole process", "cpu_seconds"),
        ("CPU seconds, training loop", "train_cpu_seconds"),
        ("wall seconds, whole process", "seconds"),
        ("peak memory, MiB", "peak_memory_mib"),
    ):
        lines[label] = {side: statistics.median(float(run[key]) for run in repeats) for side, repeats in runs.items()}
    print(f"{'':32} {'guide':>12} {'TRL':>12} {'ours':>12} {'ours/guide':>11} {'ours/TRL':>9}")
    for label, values in lines.items():
        ratios = f"{values['ours'] / values['guide']:11.3f} {values['ours'] / values['TRL']:9.3f}"
        print(f"{label:32} {values['guide']:12.1f} {values['TRL']:12.1f} {values['ours']:12.1f} {ratios}")
    print(f"{'validation loss':32}{''.join(f' {v:12.4f}' for v in loss.values())}   (base model {losses['base']:.4f})")
    for run in runs["ours"]:
        t = run["throughput"]
        print(f"ours: {t['tokens']} tokens computed, {t['tokens'] / t['cpu_seconds']:.0f} a CPU second")
    loop, memory = lines["CPU seconds, training loop"], lines["peak memory, MiB"]
    share = loop["ours"] / loop["guide"]
    met = {
        f"time to train at most {LIMITS[name]} of the guide's ({share:.3f})": share <= LIMITS[name],
        "time to train no more than by TRL's defaults": loop["ours"] <= loop["TRL"],
        "validation loss no higher than the guide's": loss["ours"] <= loss["guide"],
        "peak memory no higher than the guide's": memory["ours"] <= memory["guide"],
    }
    for limit, is_met in met.items():
        print(f"{'met    ' if is_met else 'NOT MET'} {limit}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
