"""Supervised fine-tuning: audits the rows, loads the base, trains with the chosen method until the validation loss stops
falling (training.patience), and keeps the best checkpoint."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
from trl import SFTConfig

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import digest_file, digest_json, read_json, write_json
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.identity import model_folder, record_digest
from finetune_pipeline.models.loading import pick_device, resolve_precision
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.training import checkpoints, history
from finetune_pipeline.training.attention import choose_kernel
from finetune_pipeline.training.facts import (
    Checkpointing,
    LocalTraining,
    MicroBatch,
    Rounding,
    SharedPrefix,
    SplitTokens,
)
from finetune_pipeline.training.flex import Trial
from finetune_pipeline.training.fused import fuse
from finetune_pipeline.training.micro_batch import micro_batch, passes_of, train_in_halves
from finetune_pipeline.training.model import Built, build, round_to_base, save_trained
from finetune_pipeline.training.packing import Collator, packed_collator, padded_batch, supports_shared_prefix
from finetune_pipeline.training.prefix_tree import shared_by_all
from finetune_pipeline.training.processes import (
    is_first,
    is_worker,
    rows_per_process,
    strategy,
    validation_rows_per_pass,
)
from finetune_pipeline.training.rows import (
    Audited,
    AuditHtml,
    audit_facts,
    augmented_facts,
    longest_allowed,
    prepare_split,
    task_text,
    training_examples,
    write_audit,
)
from finetune_pipeline.training.trainer import ProgressCallback, TokenTrainer, load_finished


def job_digest(job: TrainJob, processes: int = 1) -> str:
    """Return the digest that a checkpoint must match to be resumed: of settings, data, base model and the adapter that training
    starts from, without paths; and of the number of processes, since each has its own random state."""
    content: dict[str, object] = {
        "settings": decisive_settings(job.settings),
        "train": digest_file(job.train),
        "validation": digest_file(job.validation),
        "base": record_digest(job.base),
        "start_from": digest_file(job.start_from / ADAPTER_WEIGHTS) if job.start_from else None,
    }
    if job.classes:
        content["classes"] = list(job.classes)
    return digest_json(content | ({"processes": processes, "strategy": strategy()} if processes > 1 else {}))


def _kernel(model: Any, work: Path, dtype: torch.dtype, device: torch.device) -> Trial:
    """Return the kernel of packed attention, which a trial on CUDA chooses. A resumed training keeps the choice in `work`, for
    bitwise equal results."""
    path = work / "kernel.json"
    if not path.exists():
        virtual_tokens = getattr(model, "virtual_tokens", (0, 0))[1]
        write_json(path, asdict(choose_kernel(model.config.get_text_config(), virtual_tokens, dtype, device)))
    return Trial(**read_json(path, Trial))


def train(
    job: TrainJob, audit_html: AuditHtml | None = None, on_saved: Callable[[], None] | None = None
) -> tuple[LocalTraining | None, dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.TrainJob`. Returns (facts, measured).

    All workers of a training call this; the first one writes and reports for all; the others return no facts.
    facts depend only on the job, on how many processes share it, and on the micro-batch that fits into memory; measured
    contains what differs from run to run.
    audit_html: also write the audit as a page, even if it stops the training. on_saved: called in every process after a
    checkpoint is complete.
    Raises FindingsError for findings of the audit, faults.Diverged when the loss is no longer finite, PassTooLarge if a single
    row does not fit into memory.
    """
    for folder in (job.out, job.work):
        folder.mkdir(parents=True, exist_ok=True)
    state = PartialState(cpu=pick_device().type == "cpu", backend=_backend())
    digest = job_digest(job, state.num_processes)
    attempt = partial(_attempt, job, digest, state, audit_html, on_saved)
    return train_in_halves(attempt, job.work, digest, job.settings.batch_size, job.stage)


def _attempt(
    job: TrainJob,
    digest: str,
    state: PartialState,
    audit_html: AuditHtml | None,
    on_saved: Callable[[], None] | None,
) -> tuple[LocalTraining | None, dict[str, object]]:
    """Train with the micro-batch that fits, as far as is known."""
    settings, out, work, base = job.settings, job.out, job.work, job.base
    device, processes, sharded = pick_device(), state.num_processes, strategy() == "fsdp2"
    micro = micro_batch(work, digest, settings.micro_batch_size)
    tokenizer = load_tokenizer(base)
    examples = {"train": read_examples(job.train), "validation": read_examples(job.validation)}
    token_limit = longest_allowed(settings, read_json(model_folder(base) / "config.json"))
    epoch_examples = {**examples, "train": training_examples(examples["train"], settings)}
    splits = {
        split: prepare_split(tokenizer, rows, token_limit, settings.over_length, f"{split} split", job.classes)
        for split, rows in epoch_examples.items()
    }
    write_audit(job, splits, audit_html, state.is_main_process)

    resume = checkpoints.find_resumable(work / "checkpoints", digest) if state.is_main_process else checkpoints.Resume()
    (resume,) = broadcast_object_list([resume])
    for skipped in resume.skipped:
        say(f"{job.stage}: {skipped['name']} is not used: {skipped['reason']}")
    if resume.folder is not None:
        say(f"{job.stage}: resuming from {resume.folder.name}")

    set_seed(settings.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads memory before writing it
    compute_dtype = resolve_precision(settings.precision, device)
    start = job.start_from
    load_device = torch.device("cpu") if sharded else device  # a sharded model need not fit on one device
    built = build(
        base, settings, compute_dtype, load_device, tokenizer, task_text(examples["train"]), start, job.classes
    )
    packed, packing_reason = False, "training.shared_prefix is off"
    if settings.shared_prefix:
        packed, packing_reason = supports_shared_prefix(built.model)
    fused = fuse(built.model)
    picks_kernel = packed and state.is_main_process
    (trial,) = broadcast_object_list([_kernel(built.model, work, compute_dtype, device) if picks_kernel else None])
    collator = packed_collator(built.model, trial.kernel) if packed else padded_batch
    batch_form = "shared prefix" if packed else f"padded batches: {packing_reason}"
    weight_share = f"weights at {built.weights.ratio:.0%} of bfloat16"
    say(f"{job.stage}: {settings.method} in {_name(compute_dtype)}, {weight_share}; {batch_form}")

    trainer, callback = _trainer(
        job, built, tokenizer, collator, splits, digest, processes, micro, resume.folder is None
    )
    callback.on_saved = on_saved
    began, cpu_began = time.monotonic(), time.process_time()
    if resume.folder is None:
        if state.is_main_process:
            (work / "history.jsonl").unlink(missing_ok=True)
        set_seed(settings.seed)
        with passes_of(micro):
            trainer.train()
    elif resume.finished and resume.best is not None:
        callback.first_step = resume.step
        load_finished(trainer, resume.folder, resume.best)
    else:
        if state.is_main_process:
            logged = read_json(resume.folder / "trainer_state.json")["log_history"]
            history.write(work / "history.jsonl", history.entries_of(logged))
        with passes_of(micro):
            trainer.train(resume_from_checkpoint=str(resume.folder))
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began

    assert trainer.model is not None
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    rounding = None
    if METHODS[settings.method].holds == "float32":  # method full: float32 in training, stored in the base's dtype
        rounding = Rounding(dtype=_name(round_to_base(trainer.model, base)), eval_loss=trainer.validation_loss())
    gathered = trainer.accelerator.get_state_dict(trainer.model) if sharded else None
    if not state.is_main_process:
        state.wait_for_everyone()
        return None, {}
    trained = save_trained(trainer.model, tokenizer, base, settings.method, out / "adapter", gathered)
    state.wait_for_everyone()
    entries = history.entries_of(trainer.state.log_history)
    history.write(out / "history.jsonl", entries)
    progress = trainer.state
    _, first_eval_loss = history.validation_losses(entries)[0]
    _, last_train_loss = history.training_losses(entries)[-1]
    assert progress.best_global_step is not None and progress.best_metric is not None
    facts = LocalTraining(
        method=settings.method,
        precision=_name(compute_dtype),
        device=device.type,
        processes=processes,
        strategy=strategy(),
        trained=trained,
        trainable_parameters=trainable,
        total_parameters=built.weights.parameters,
        adapter_tensors=trained.tensors,
        weights=built.weights,
        begun=built.begun,
        rounding=rounding,
        micro_batch=MicroBatch(declared=settings.micro_batch_size, used=micro),
        gradient_checkpointing=Checkpointing(used=built.checkpointing, why=built.checkpointing_why),
        shared_prefix=SharedPrefix(
            used=packed,
            why=packing_reason,
            prefix_tokens=shared_by_all(splits["train"].plain_rows()) if packed else 0,
            kernel=trial.kernel if packed else None,
            kernel_why=trial.why if packed else None,
        ),
        fused=fused,
        tokens={
            name: SplitTokens(rows=s.audit.rows, tokens=s.audit.tokens, loss_tokens=s.audit.loss_tokens)
            for name, s in splits.items()
        },
        augmented=augmented_facts((r.id for r in splits["train"].rows), splits["train"].copies_too_long),
        rows_dropped={name: s.length_facts() for name, s in splits.items()},
        steps=progress.global_step,
        steps_planned=progress.max_steps,
        epochs=round(progress.epoch or 0.0, 4),
        stopped_early=progress.global_step < progress.max_steps,
        best_step=progress.best_global_step,
        best_eval_loss=progress.best_metric,
        first_eval_loss=first_eval_loss,
        last_train_loss=last_train_loss,
        overfitting=history.overfitting(entries),
        history=entries,
        audit=audit_facts(splits),
    )
    measured = {
        "train_seconds": round(seconds, 2),
        "train_cpu_seconds": round(cpu_seconds, 2),
        "steps_run": progress.global_step - callback.first_step,
        "resumed_from": resume.folder.name if resume.folder else None,
        "checkpoints_skipped": resume.skipped,
        "throughput": trainer.meter.facts(),
    }
    return facts, measured


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _backend() -> str | None:
    """Return the communication backend of CPU processes; None: Accelerate's choice, or a single process."""
    return "gloo" if is_worker() and not torch.cuda.is_available() else None


def _trainer(
    job: TrainJob,
    built: Built,
    tokenizer: Any,
    collator: Collator,
    splits: dict[str, Audited],
    digest: str,
    processes: int,
    micro: int,
    from_start: bool,
) -> tuple[TokenTrainer, ProgressCallback]:
    """Return the trainer with its early stopping, and the callback that reports its progress.

    micro: rows of a pass; from_start: not resumed."""
    settings, work = job.settings, job.work
    micro_batch = rows_per_process(settings.batch_size, micro, processes)
    steps_per_epoch = math.ceil(len(splits["train"].rows) / settings.batch_size)
    eval_steps = max(1, round(steps_per_epoch / settings.evals_per_epoch))
    sharding: dict[str, Any] = {}
    if strategy() == "fsdp2":  # checkpoints still contain complete weights
        sharding = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}
    args = SFTConfig(
        output_dir=str(work / "checkpoints"),
        num_train_epochs=settings.epochs,
        seed=settings.seed,
        data_seed=settings.seed,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=validation_rows_per_pass(micro_batch),
        gradient_accumulation_steps=settings.batch_size // (micro_batch * processes),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_share,  # below 1: a share of all steps
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        eval_on_start=from_start,  # step 0: the loss before training
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=eval_steps,
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
        ddp_backend=_backend(),
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        **sharding,
        bf16=False,  # TokenTrainer has its own autocast
        fp16=False,
        gradient_checkpointing=built.checkpointing,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        router_aux_loss_coef=0.0,  # the loss is only that of the learned tokens
        dataloader_pin_memory=False,
    )
    callback = ProgressCallback(job.stage, work / "history.jsonl" if is_first() else None)
    exact_weights: dict[str, torch.Tensor] = {}
    if built.weights.quantized_modules:
        exact_weights = {name: p.detach().clone() for name, p in built.model.named_parameters() if p.requires_grad}
    trainer = TokenTrainer(
        model=built.model,
        args=args,
        data_collator=collator,
        processing_class=tokenizer,
        job_digest=digest,
        autocast=built.autocast,
        train_dataset=Dataset.from_list(splits["train"].plain_rows()),
        eval_dataset=Dataset.from_list(splits["validation"].plain_rows()),
        callbacks=[EarlyStoppingCallback(settings.patience), callback],
    )
    trainer.remove_callback(PrinterCallback)
    for name, parameter in built.model.named_parameters():
        if name in exact_weights:  # TRL rounds the adapters of 4-bit models to bfloat16, which would lose small updates
            parameter.data = exact_weights[name]
    return trainer, callback
