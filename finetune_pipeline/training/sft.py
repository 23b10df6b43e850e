"""Trains an adapter: loads the base (4-bit or not), audits what is taught, trains, keeps the best checkpoint."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
from trl import SFTConfig

from finetune_pipeline.artifacts import digest_file, digest_json, read_json, write_json
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import Encoded, encode_all
from finetune_pipeline.models.identity import model_record, record_digest
from finetune_pipeline.models.loading import load_for_training, load_tokenizer, pick_device, resolve_precision
from finetune_pipeline.training import checkpoints, history
from finetune_pipeline.training.audit import problems, supervision_audit
from finetune_pipeline.training.faults import JobError
from finetune_pipeline.training.fused import fuse
from finetune_pipeline.training.reporting import say
from finetune_pipeline.training.shared_prefix import (
    PackedCollator,
    PaddedCollator,
    common_prefix,
    supports_shared_prefix,
)
from finetune_pipeline.training.trainer import TokenTrainer, Told, load_finished

_RECOMPUTE_ABOVE = 1_000_000_000
ADAPTER_FILE = "adapter_model.safetensors"


def job_digest(job: dict[str, Any]) -> str:
    """What a checkpoint must agree with to be taken up: settings, data, base model and first adapter, not paths."""
    start = job.get("start_from")
    return digest_json(
        {
            "settings": job["settings"],
            "train": digest_file(Path(job["train"])),
            "validation": digest_file(Path(job["validation"])),
            "base": record_digest(Path(job["base"])),
            "start_from": digest_file(Path(start) / ADAPTER_FILE) if start else None,
        }
    )


def train(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a job of :func:`finetune_pipeline.training.jobs.train_job`. Returns (facts, measured).

    facts depend on the job alone; measured holds what differs from run to run. Raises FindingsError when the audit finds
    anything, faults.Diverged when the loss is no longer finite.
    """
    settings, out, work = job["settings"], Path(job["out"]), Path(job["work"])
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    device = pick_device()
    tokenizer = load_tokenizer(Path(job["base"]))
    rows, audits, dropped = {}, {}, {}
    found: list[Finding] = []
    for split in ("train", "validation"):
        rows[split], audits[split], dropped[split], bad = _encode(
            tokenizer, read_examples(Path(job[split])), settings, f"{split} split"
        )
        found += bad
    write_json(out / "audit.json", audits)
    if found:
        raise FindingsError(found)

    digest = job_digest(job)
    resume = checkpoints.find_resumable(work / "checkpoints", digest)
    for skipped in resume.skipped:
        say(f"{job['stage']}: {skipped['name']} is not used: {skipped['reason']}")
    if resume.folder is not None:
        say(f"{job['stage']}: going on from {resume.folder.name}")

    set_seed(settings["seed"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before writing it
    compute = resolve_precision(settings["precision"], device)
    base, weights = load_for_training(Path(job["base"]), settings["method"], compute, device)
    model = _add_adapter(base, settings["lora"])
    if job.get("start_from"):
        _begin_with(model, Path(job["start_from"]))
    packed, why = (
        supports_shared_prefix(model) if settings["shared_prefix"] else (False, "training.shared_prefix is off")
    )
    fused = fuse(model)
    collator = PackedCollator() if packed else PaddedCollator(tokenizer.pad_token_id)
    say(
        f"{job['stage']}: {settings['method']} in {str(compute).removeprefix('torch.')}, weights at {weights['ratio']:.0%} "
        f"of bfloat16; {'shared prefix' if packed else 'padded batches: ' + why}"
    )

    trainer, told = _trainer(job, model, tokenizer, collator, rows, weights["parameters"], digest)
    began = time.monotonic()
    if resume.folder is None:
        (work / "history.jsonl").unlink(missing_ok=True)
        trainer.evaluate()  # step 0: what the base model starts from
        set_seed(settings["seed"])
        trainer.train()
    elif resume.finished and resume.best is not None:
        told.first_step = resume.step
        load_finished(trainer, resume.folder, resume.best)
    else:
        history.cut_back(work / "history.jsonl", resume.step)
        trainer.train(resume_from_checkpoint=str(resume.folder))
    seconds = time.monotonic() - began

    assert trainer.model is not None
    tensors = save_adapter(trainer.model, tokenizer, Path(job["base"]), out / "adapter")
    entries = history.without_times(history.read(work / "history.jsonl"))
    (out / "history.jsonl").write_text("".join(history.to_line(e) for e in entries), "utf-8")
    state = trainer.state
    evaluated = [e for e in entries if "eval_loss" in e]
    trained = [e for e in entries if "loss" in e]
    facts = {
        "method": settings["method"],
        "precision": str(compute).removeprefix("torch."),
        "device": device.type,
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "total_parameters": weights["parameters"],
        "adapter_tensors": tensors,
        "weights": weights,
        "shared_prefix": {
            "used": packed,
            "why": why,
            "prefix_tokens": common_prefix(_plain(rows["train"])) if packed else 0,
        },
        "fused": fused,
        "tokens": {split: {k: audits[split][k] for k in ("rows", "tokens", "loss_tokens")} for split in rows},
        "rows_dropped": {split: {"over_length": len(ids), "ids": ids[:20]} for split, ids in dropped.items()},
        "steps": state.global_step,
        "steps_planned": state.max_steps,
        "epochs": round(state.epoch or 0.0, 4),
        "stopped_early": state.global_step < state.max_steps,
        "best_step": state.best_global_step,
        "best_eval_loss": state.best_metric,
        "first_eval_loss": evaluated[0]["eval_loss"],
        "last_train_loss": trained[-1]["loss"],
        "history": entries,
        "audit": _audit_facts(audits),
    }
    measured = {
        "train_seconds": round(seconds, 2),
        "steps_run": state.global_step - told.first_step,
        "resumed_from": resume.folder.name if resume.folder else None,
        "checkpoints_skipped": resume.skipped,
        "saved_prefix_tokens": getattr(collator, "saved_tokens", 0),
    }
    return facts, measured


def _encode(
    tokenizer: Any, examples: list[Example], settings: dict[str, Any], place: str
) -> tuple[list[Encoded], dict[str, Any], list[str], list[Finding]]:
    encoded, mismatches = encode_all(tokenizer, examples)
    dropped: list[str] = []
    if settings["over_length"] == "drop":
        dropped = [r.id for r in encoded if len(r.ids) > settings["max_tokens"]]
        encoded = [r for r in encoded if len(r.ids) <= settings["max_tokens"]]
    contents = [m["content"] for e in examples for m in e.messages if m["role"] != "system"]
    audit = supervision_audit(encoded, tokenizer, settings["max_tokens"], mismatches, contents)
    return encoded, audit, dropped, problems(audit, place)


def _audit_facts(audits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The audit's counts over both splits, and each split's own under ``splits``; the rows shown are in audit.json."""
    splits = {split: {k: v for k, v in facts.items() if k != "shown"} for split, facts in audits.items()}
    totals = {
        k: sum(facts[k] for facts in splits.values())
        for k, v in splits["train"].items()
        if isinstance(v, int) and k != "max_tokens"
    }
    return {**totals, "splits": splits}


def _add_adapter(base: Any, lora: dict[str, Any]) -> Any:
    """A PEFT model with float32 LoRA weights on `base`; the output head is left out, as PEFT's all-linear does."""
    target = lora["target_modules"]
    config = LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        task_type="CAUSAL_LM",
        target_modules=target if isinstance(target, str) else list(target),
    )
    return get_peft_model(base, config)


def _begin_with(model: Any, adapter: Path) -> None:
    """Put an earlier adapter's weights into the fresh one. Raises JobError if the two do not have the same tensors."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(adapter / ADAPTER_FILE)
    shapes = {name: t.shape for name, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise JobError(
            f"the adapter to begin with ({adapter.name}) has other tensors than the one to be trained\n"
            "fix: keep training.lora the same in both phases"
        )
    set_peft_model_state_dict(model, tensors)


def _trainer(
    job: dict[str, Any],
    model: Any,
    tokenizer: Any,
    collator: Any,
    rows: dict[str, list[Encoded]],
    parameters: int,
    digest: str,
) -> tuple[TokenTrainer, Told]:
    settings, work = job["settings"], Path(job["work"])
    micro = settings["micro_batch_size"]
    accumulate = settings["batch_size"] // micro
    per_epoch = math.ceil(math.ceil(len(rows["train"]) / micro) / accumulate)
    every = max(1, round(per_epoch / settings["evals_per_epoch"]))
    args = SFTConfig(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=settings["epochs"],
        seed=settings["seed"],
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=settings["batch_size"],
        gradient_accumulation_steps=accumulate,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["scheduler"],
        warmup_steps=settings["warmup_share"],
        weight_decay=settings["weight_decay"],
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        fp16=False,
        gradient_checkpointing=parameters > _RECOMPUTE_ABOVE,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=False,
    )
    told = Told(job["stage"], work / "history.jsonl")
    exact = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = TokenTrainer(
        model=model,
        args=args,
        data_collator=collator,
        processing_class=tokenizer,
        job_digest=digest,
        train_dataset=_dataset(rows["train"]),
        eval_dataset=_dataset(rows["validation"]),
        callbacks=[EarlyStoppingCallback(settings["patience"]), told],
    )
    trainer.remove_callback(PrinterCallback)
    for name, parameter in model.named_parameters():
        if name in exact:  # TRL rounds the adapters of 4-bit models to bfloat16; small updates would be lost in it
            parameter.data = exact[name]
    return trainer, told


def _plain(rows: list[Encoded]) -> list[dict[str, Any]]:
    return [{"id": r.id, "ids": r.ids, "loss": r.loss} for r in rows]


def _dataset(rows: list[Encoded]) -> Dataset:
    return Dataset.from_list(_plain(rows))


def save_adapter(model: Any, tokenizer: Any, base: Path, folder: Path) -> list[str]:
    """Write the adapter, its configuration (naming the base model by its id, not by a path here) and the tokenizer.

    Returns the names of the adapter's tensors. Raises RuntimeError if any of them is not a LoRA tensor.
    """
    from safetensors import safe_open

    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    record = model_record(base)
    config = read_json(folder / "adapter_config.json")
    config |= {
        "base_model_name_or_path": record["base_model"],
        "revision": record.get("revision"),
        "inference_mode": True,
    }
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", dict(sorted(config.items())))
    tokenizer.save_pretrained(folder)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as tensors:
        names = sorted(tensors.keys())
    foreign = [n for n in names if "lora_" not in n]
    if foreign:
        raise RuntimeError(f"the adapter file holds tensors that are no adapter's: {', '.join(foreign[:5])}")
    return names
