"""Time, memory and validation loss of this pipeline's training job against plain TRL, the way guides write it.

    python benchmarks/training_throughput.py                                      # data/ticket_triage
    python benchmarks/training_throughput.py --instructions instruction-data.json # rows that share no beginning

Two baselines, both SFTTrainer with LoRA r 16, alpha 32, dropout 0.05. `guide`: as guides write it, batches of 4 rows, 4
accumulated, padded, float32 on the CPU (float16 on a GPU), loss on all tokens, at most 512 of them, no gradient
checkpointing, learning rate 2e-4. `TRL`: whatever TRL's own defaults are (batches of 8, gradient checkpointing, at most
1,024 tokens, and bfloat16 where the processor computes in it). Ours: the real job, with the method lora, the same LoRA
shape, and otherwise the defaults of a task. All see the same rows in the same number of passes. Every figure is of a fresh
process; they take turns. CPU seconds count the whole process, from
the start of Python over loading, tokenizing, audit and (ours) all validation passes to the saved adapter. `Training loop`
is that alone, with our validation passes in it (the baselines make none), and it is what the limit is about. The adapters
are judged by the same code: mean cross-entropy of the assistant's tokens of the validation rows, in float32.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training_tasks import child, first_rows, make_base, make_splits, messages, read_json

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.worker.jobs import train_job

LIMITS = {"ticket_triage": 0.2, "instructions": 0.5}
"""Share of the guide's training loop."""
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def baseline(job: dict[str, Any]) -> dict[str, Any]:
    """The guide's script, or TRL by its own defaults. Runs in a process of its own; returns what it measured."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    from finetune_pipeline.models.hardware import cpu_has_bfloat16

    folder = model_folder(Path(job["base"]))
    gpu = torch.cuda.is_available()
    dtype = torch.float16 if gpu else torch.float32
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    more: dict[str, Any] = {"quantization_config": four_bit} if job.get("four_bit") else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": 0} if gpu else None, **more)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    always: dict[str, Any] = {"output_dir": job["out"], "num_train_epochs": job["epochs"], "use_cpu": not gpu}
    always |= {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": job["seed"]}
    by_default = SFTConfig(**always, bf16=gpu or cpu_has_bfloat16())
    of_guide = SFTConfig(
        **always,
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
    rows = Dataset.from_list([{"messages": chat} for chat in messages(Path(job["train"]))])
    arguments = by_default if job["defaults"] else of_guide
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    began, used = time.perf_counter(), time.process_time()
    trainer.train()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    trainer.save_model(str(Path(job["out"]) / "adapter"))
    gpu_memory = {"peak_gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20} if gpu else {}
    return {"train_seconds": seconds, "train_cpu_seconds": cpu, "steps": trainer.state.global_step, **gpu_memory}


def judge(job: dict[str, Any]) -> dict[str, Any]:
    """Validation loss of the base and of several adapters on the assistant's tokens, by one code."""
    import torch
    from peft import PeftModel

    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.chat import load_tokenizer
    from finetune_pipeline.models.loading import load_for_prediction
    from finetune_pipeline.training.fused import token_losses
    from finetune_pipeline.training.packing import PackedCollator, logits_to_learn, supports_shared_prefix
    from finetune_pipeline.training.rows import encode_split

    base = Path(job["base"])
    tokenizer = load_tokenizer(base)
    encoded = encode_split(tokenizer, read_examples(Path(job["validation"])), 1 << 20, "fail").rows
    rows = sorted(({"id": r.id, "ids": r.ids, "loss": r.loss} for r in encoded), key=lambda r: len(r["ids"]))
    model: Any = load_for_prediction(base, torch.device("cpu"))

    def loss() -> float:
        good, why = supports_shared_prefix(model)
        if not good:
            raise RuntimeError(why)
        total, count = 0.0, 0
        for i in range(0, len(rows), 8):
            batch = PackedCollator()(rows[i : i + 8])
            with torch.no_grad():
                losses = token_losses(logits_to_learn(model, batch), batch["labels"])
            total, count = total + losses.double().sum().item(), count + losses.numel()
        return total / count

    found = {"base": loss()}
    for name, adapter in job["adapters"].items():
        model = PeftModel.from_pretrained(load_for_prediction(base, torch.device("cpu")), adapter).eval()
        found[name] = loss()
    return found


CHILDREN = {"baseline": baseline, "judge": judge}


def in_child(kind: str, job: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", job)
    began = time.perf_counter()
    child(__file__, "--child", kind, str(folder / "job.json"), str(folder / "told.json"), threads=threads)
    told: dict[str, Any] = read_json(folder / "told.json")
    return {"seconds": time.perf_counter() - began, **told}


def ours(
    base: Path, train: Path, validation: Path, settings: dict[str, Any], folder: Path, threads: int
) -> dict[str, Any]:
    job = train_job(
        base=base, train=train, validation=validation, settings=settings, out=folder / "out", work=folder / "work"
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", job)
    began = time.perf_counter()
    child(None, str(folder / "job.json"), module="finetune_pipeline.worker.entry", threads=threads)
    told: dict[str, Any] = read_json(folder / "out" / "measured.json")
    return {**told, "seconds": time.perf_counter() - began, "facts": read_json(folder / "out" / "result.json")}


def _describe() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in flags.splitlines() if line.startswith("model name")), "?")
    kinds = [f for f in ("avx512_bf16", "amx_bf16") if f in flags]
    return f"{platform.machine()}, {name} ({', '.join(kinds) or 'no bfloat16'}), {os.cpu_count()} cores"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=Path, help="JSON file of {instruction, input, output} rows")
    parser.add_argument("--rows", type=int, help="only so many training rows, for both; default: all")
    parser.add_argument("--validation-rows", type=int, help="only so many validation rows; default: all")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of training")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        os.environ["HF_HUB_OFFLINE"] = "1"
        kind, job, told = given.child
        facts = CHILDREN[kind](read_json(Path(job)))
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_memory_mib": used.ru_maxrss / 1024}
        write_json(Path(told), facts)
        return 0
    folder = given.folder or Path(tempfile.mkdtemp(prefix="training-throughput-"))
    return compare(given, folder)


def compare(given: argparse.Namespace, folder: Path) -> int:
    """Run both in turn, judge, print. Returns 1 if a limit is not met."""
    name = "instructions" if given.instructions else "ticket_triage"
    base = make_base(folder, "chatml" if given.instructions else None)
    train, validation, settings = make_splits(folder, given.instructions)
    train = first_rows(train, folder / name / f"train-{given.rows}.jsonl", given.rows)
    validation = first_rows(
        validation, folder / name / f"validation-{given.validation_rows}.jsonl", given.validation_rows
    )
    rows = sum(1 for _ in train.open(encoding="utf-8"))
    settings |= {"method": "lora", "epochs": given.epochs, "unquantized_epochs": 0.0}
    settings |= {key: json.loads(value) for key, _, value in (pair.partition("=") for pair in given.set)}
    runs: dict[str, list[dict[str, Any]]] = {"guide": [], "TRL": [], "ours": []}
    adapters = {}
    for turn in range(given.repeats):
        out = folder / f"{name}-{turn}"
        for side in ("guide", "TRL"):
            job = {"base": str(base), "train": str(train), "epochs": given.epochs, "seed": turn, "out": str(out / side)}
            runs[side].append(in_child("baseline", {**job, "defaults": side == "TRL"}, out / side, given.threads))
            adapters[f"{side} {turn}"] = str(out / side / "adapter")
        runs["ours"].append(ours(base, train, validation, {**settings, "seed": turn}, out / "ours", given.threads))
        adapters[f"ours {turn}"] = str(out / "ours/out/adapter")
    judged = {"base": str(base), "validation": str(validation), "adapters": adapters}
    losses = in_child("judge", judged, folder / f"{name}-judge", given.threads)
    print(f"\n{name}: {rows} training rows, {given.epochs:g} epochs, {given.threads} threads; {_describe()}")
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
        lines[label] = {side: statistics.median(float(run[key]) for run in of) for side, of in runs.items()}
    print(f"{'':32} {'guide':>12} {'TRL':>12} {'ours':>12} {'ours/guide':>11} {'ours/TRL':>9}")
    for label, of in lines.items():
        ratios = f"{of['ours'] / of['guide']:11.3f} {of['ours'] / of['TRL']:9.3f}"
        print(f"{label:32} {of['guide']:12.1f} {of['TRL']:12.1f} {of['ours']:12.1f} {ratios}")
    print(f"{'validation loss':32}{''.join(f' {v:12.4f}' for v in loss.values())}   (base model {losses['base']:.4f})")
    for run in runs["ours"]:
        t = run["throughput"]
        print(
            f"ours: {t['tokens']} tokens computed ({run['saved_prefix_tokens']} saved, validation included), "
            f"{t['tokens'] / t['cpu_seconds']:.0f} a CPU second"
        )
    loop, memory = lines["CPU seconds, training loop"], lines["peak memory, MiB"]
    share = loop["ours"] / loop["guide"]
    met = {
        f"time to train at most {LIMITS[name]} of the guide's ({share:.3f})": share <= LIMITS[name],
        "time to train no more than by TRL's defaults": loop["ours"] <= loop["TRL"],
        "validation loss no higher than the guide's": loss["ours"] <= loss["guide"],
        "peak memory no higher than the guide's": memory["ours"] <= memory["guide"],
    }
    for limit, good in met.items():
        print(f"{'met    ' if good else 'NOT MET'} {limit}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
