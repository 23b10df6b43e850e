"""The second stage: trains the first stage's adapter on preferences with TRL's trainers for KTO and DPO.

The reference is the adapter as the first stage left it. Its log-probabilities are computed once, before the first step.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from finetune_pipeline import progress
from finetune_pipeline.data.preferences.rows import read_made
from finetune_pipeline.engine.files import digest_file, digest_json, read_json, write_json
from finetune_pipeline.faults import Diverged
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import RefineJob
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.identity import model_folder, record_digest
from finetune_pipeline.models.loading import pick_device, resolve_precision
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.training import checkpoints, history
from finetune_pipeline.training.facts import RefinedFacts
from finetune_pipeline.training.micro_batch import micro_batch, passes_of, train_in_halves
from finetune_pipeline.training.model import Built, build, save_trained
from finetune_pipeline.training.preference_rows import (
    LEAST_ROWS_OF_A_PASS,
    EncodedPreferences,
    audit_batches,
    encode_preferences,
    in_order,
    with_mismatched,
)
from finetune_pipeline.training.rows import longest_allowed
from finetune_pipeline.training.trainer import VerifiedCheckpoints


class _AsEncoded:
    """A TRL trainer that takes its rows as they are encoded: TRL would read control tokens in users' texts as such."""

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        return dataset


class KtoTrainer(VerifiedCheckpoints, _AsEncoded, KTOTrainer):
    pass


class DpoTrainer(VerifiedCheckpoints, _AsEncoded, DPOTrainer):
    pass


def weights_of(labels: list[bool]) -> tuple[float, float]:
    """Return KTO's weights (of liked, of disliked answers): the rarer kind weighs as much in all as the other (Ethayarajh et al.
    2024, section 4.2)."""
    counts = Counter(labels)
    liked, disliked = max(1, counts[True]), max(1, counts[False])
    return max(1.0, disliked / liked), max(1.0, liked / disliked)


def job_digest(job: RefineJob) -> str:
    """Return the digest that a checkpoint must match to be resumed, without paths."""
    return digest_json(
        {
            "settings": decisive_settings(job.settings),
            "refine": job.refine.model_dump(),
            "rows": digest_file(job.rows),
            "base": record_digest(job.base),
            "start_from": digest_file(job.start_from / ADAPTER_WEIGHTS),
        }
    )


def refine(job: RefineJob, on_saved: Callable[[], None] | None = None) -> tuple[RefinedFacts, dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.RefineJob`. Returns (facts, measured). on_saved: called after a checkpoint.

    Raises FindingsError for findings of the audit, faults.Diverged when the loss is no longer finite, PassTooLarge if the rows
    that a pass needs do not fit into memory: one pair for dpo, two answers for kto.
    """
    for folder in (job.out, job.work):
        folder.mkdir(parents=True, exist_ok=True)
    digest, least = job_digest(job), LEAST_ROWS_OF_A_PASS[job.refine.method]
    return train_in_halves(
        partial(_attempt, job, digest, on_saved), job.work, digest, job.settings.batch_size, job.stage, least
    )


def _attempt(job: RefineJob, digest: str, on_saved: Callable[[], None] | None) -> tuple[RefinedFacts, dict[str, Any]]:
    """Train with the micro-batch that fits, as far as is known."""
    settings, method = job.settings, job.refine.method
    micro = micro_batch(job.work, digest, settings.micro_batch_size)
    tokenizer = load_tokenizer(job.base)
    preferences = in_order(read_made(job.rows), settings.seed)
    max_tokens = longest_allowed(settings, read_json(model_folder(job.base) / "config.json"))
    encoded = encode_preferences(tokenizer, preferences, method, max_tokens, settings.over_length)
    collator_class = DataCollatorForPreference if method == "dpo" else DataCollatorForUnpairedPreference
    collator = collator_class(pad_token_id=tokenizer.pad_token_id)
    audit = audit_batches(tokenizer, collator, encoded, max_tokens)
    for folder in (job.out, job.work):
        write_json(folder / "audit.json", msgspec.to_builtins({"preferences": audit}))
    if audit.problems:
        raise FindingsError(audit.problems)

    set_seed(settings.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = pick_device()
    dtype = resolve_precision(settings.precision, device)
    built = build(job.base, settings, dtype, device, tokenizer, "", job.start_from)
    with passes_of(micro):
        trainer, callback = _trainer(job, built, tokenizer, collator, encoded, digest, micro)
    callback.on_saved = on_saved
    resume = checkpoints.find_resumable(job.work / "checkpoints", digest)
    for skipped in resume.skipped:
        say(f"{job.stage}: {skipped['name']} is not used: {skipped['reason']}")
    if resume.folder is not None:
        say(f"{job.stage}: resuming from {resume.folder.name}")
    began = time.monotonic()
    set_seed(settings.seed)
    with passes_of(micro):
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume.folder else None)
    seconds = time.monotonic() - began

    trained = save_trained(trainer.model, tokenizer, job.base, settings.method, job.out / "adapter")
    entries = history.entries_of(trainer.state.log_history)
    history.write(job.out / "history.jsonl", entries)
    liked_weight, disliked_weight = callback.weights
    labels = Counter(row.get("label") for row in encoded.rows)
    facts = RefinedFacts(
        method=method,
        rows=len(encoded.rows),
        liked=labels[True] or len(encoded.rows),
        disliked=labels[False] if method == "kto" else len(encoded.rows),
        liked_weight=liked_weight,
        disliked_weight=disliked_weight,
        too_long=len(encoded.too_long),
        steps=trainer.state.global_step,
        history=entries,
        audit=msgspec.structs.replace(audit, shown=[]),
        trained=trained,
    )
    measured = {
        "train_seconds": round(seconds, 2),
        "micro_batch": micro,
        "resumed_from": resume.folder.name if resume.folder else None,
        "checkpoints_skipped": resume.skipped,
    }
    return facts, measured


def _trainer(
    job: RefineJob, built: Built, tokenizer: Any, collator: Any, encoded: EncodedPreferences, digest: str, micro: int
) -> tuple[Any, "RefineCallback"]:
    """Return TRL's trainer for the method, and the callback that reports its progress. micro: rows of a pass."""
    settings, refine = job.settings, job.refine
    batch = settings.batch_size
    steps_per_epoch = math.ceil(len(encoded.rows) / batch)
    arguments: dict[str, Any] = {
        "output_dir": str(job.work / "checkpoints"),
        "num_train_epochs": refine.epochs,
        "learning_rate": refine.learning_rate,
        "beta": refine.beta,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "optim": "adamw_torch_fused",
        "save_strategy": "steps",
        "save_steps": max(1, round(steps_per_epoch / settings.evals_per_epoch)),
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": built.checkpointing,
        "precompute_ref_log_probs": True,
        "max_length": None,  # the audit has refused longer rows
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "router_aux_loss_coef": 0.0,
    }
    rows, weights = encoded.rows, (1.0, 1.0)
    if refine.method == "kto":
        weights = weights_of([row["label"] for row in rows])
        arguments |= {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
        rows = with_mismatched(rows, micro)
    exact_weights = {name: p.detach().clone() for name, p in built.model.named_parameters() if p.requires_grad}
    callback = RefineCallback(job.stage, weights)
    parts: dict[str, Any] = {
        "model": built.model,
        "data_collator": collator,
        "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(rows),
        "callbacks": [callback],
    }
    trainer: KtoTrainer | DpoTrainer
    if refine.method == "kto":
        trainer = KtoTrainer(args=KTOConfig(**arguments), **parts)
    else:
        trainer = DpoTrainer(args=DPOConfig(**arguments), **parts)
    trainer.job_digest = digest
    trainer.remove_callback(PrinterCallback)
    built.model.delete_adapter("ref")  # its log-probabilities are computed
    for name, parameter in built.model.named_parameters():
        if name in exact_weights:  # TRL rounds the adapters of 4-bit models to bfloat16, which would lose small updates
            parameter.data = exact_weights[name]
            parameter.requires_grad_(True)
    return trainer, callback


class RefineCallback(TrainerCallback):
    """Reports progress, saves the last step, and stops at a loss that is not finite. weights: KTO's, of liked and disliked."""

    def __init__(self, stage: str, weights: tuple[float, float]) -> None:
        self.stage, self.weights = stage, weights
        self.on_saved: Callable[[], None] | None = None

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        if self.on_saved is not None:
            self.on_saved()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise Diverged(state.global_step, ["of the preferences"])
        numbers = {"of": state.max_steps, "step": state.global_step, "loss": loss}
        progress.tell(self.stage, "second stage", **numbers)
        if state.global_step == state.max_steps or state.global_step % max(1, state.max_steps // 10) == 0:
            say(f"{self.stage}: second stage, step {state.global_step} of {state.max_steps}, loss {loss:.4f}")
