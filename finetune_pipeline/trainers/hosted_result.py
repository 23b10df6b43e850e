"""Writes the result of a hosted training in the form of a local one: an adapter, or the name of the hosted model."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.hosted import ENDPOINT_FILE, HostedModel
from finetune_pipeline.models.identity import model_folder, name_base
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, tensor_header, text_files
from finetune_pipeline.trainers.service import Refused
from finetune_pipeline.training import history
from finetune_pipeline.training.facts import HostedTraining, Trained

if TYPE_CHECKING:
    from finetune_pipeline.trainers.hosted import HostedTrainer
    from finetune_pipeline.trainers.service import Job

_NOT_TOKENIZER = ("config.json", "generation_config.json", INDEX)


def write_result(trainer: HostedTrainer, job: Job) -> HostedTraining:
    """Write history.jsonl, measured.json, result.json and the adapter, or endpoint.json, into order.out. Returns the facts.

    Services do not report the loss before training: first_eval_loss is None. Raises JobError if the training diverged, or if
    the download is not an adapter.
    """
    service, order = trainer.service, trainer.order
    logged = service.log(job.id).losses
    if diverged := [entry.step for entry in logged if not entry.is_finite]:
        raise JobError(
            f"the loss was not finite at step {diverged[0]} of the job {job.id} at {service.place}",
            "lower the learning rate, or look at the rows; with other settings or rows it is another job, to be paid",
        )
    order.out.mkdir(parents=True, exist_ok=True)
    history.write(order.out / "history.jsonl", logged)
    evaluated, losses = history.validation_losses(logged), history.training_losses(logged)
    best_step, best_loss = min(evaluated, key=lambda entry: entry[1]) if evaluated else (None, None)
    returned = trainer.returned(order.spec)
    step, trained = None, None
    if returned == "weights":
        step, trained = _bring_adapter(trainer, job)
    else:
        base_url, model = service.endpoint(job)
        served = {"base_url": base_url, "model": model, "api_key_env": service.key_name}
        hosted = HostedModel(**served, trainer=trainer.name, base_model=service.model)
        write_json(order.out / ENDPOINT_FILE, hosted.to_json())
    facts = HostedTraining(
        service=service.place,
        returns=returned,
        job=job.id,
        model=job.model,
        service_base_model=service.model,
        method=order.spec.training.method,
        precision=None,
        hyperparameters=service.hyperparameters,
        rows={split: file.rows for split, file in trainer.files.items()},
        steps=max((entry.step for entry in logged), default=None),
        epochs=service.epochs,
        stopped_early=None,
        best_step=best_step,
        best_eval_loss=best_loss,
        first_eval_loss=None,
        last_train_loss=losses[-1][1] if losses else None,
        history=logged,
        overfitting=history.overfitting(logged) if evaluated else None,
        adapter_tensors=trained.tensors if trained else [],
        kept_step=step,
        trained=trained,
        trainable_parameters=trained.parameters if trained else None,
    )
    measured = {
        "seconds": round(time.monotonic() - trainer.began, 2),
        "billed_tokens": job.tokens,
        "dollars": job.dollars,
        "estimated_dollars": trainer.ledger.entry(trainer.ledger_order).estimate_usd,
    }
    write_json(order.out / "measured.json", measured)
    write_json(order.out / "result.json", facts.to_json())
    return facts


def _bring_adapter(trainer: HostedTrainer, job: Job) -> tuple[int | None, Trained]:
    """Download the adapter and add the base's tokenizer and chat template, as local training does."""
    order, folder = trainer.order, trainer.order.out / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        step = trainer.service.download(job.id, folder)
    except Refused as refusal:
        if refusal.status not in (404, 410):
            raise
        fix = "if its files were deleted there, set another training.seed: the training is done, and paid for, again"
        raise Refused(refusal.problem, fix, refusal.status) from refusal
    trained = _adapter_facts(folder, trainer.service.place)
    name_base(folder / ADAPTER_CONFIG, order.base)
    for path in text_files(model_folder(order.base)):
        if path.name not in _NOT_TOKENIZER:
            shutil.copyfile(path, folder / path.name)
    return step, trained


def _adapter_facts(folder: Path, place: str) -> Trained:
    """Return facts about a downloaded, untrusted adapter; reads only JSON and a safetensors header."""
    try:
        config = read_json(folder / ADAPTER_CONFIG)
        kind = config["peft_type"]
        tensors, _ = tensor_header(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise JobError(
            f"the download from {place} is not an adapter: {getattr(error, 'problem', f'{type(error).__name__}: {error}')}",
            "check the job's files at the service; running again downloads them again and buys nothing",
        ) from None
    if kind != "LORA" or not tensors:
        content = f"an adapter of the type {kind!r} with {len(tensors)} tensors, and not LoRA"
        raise JobError(f"the download from {place} is {content}")
    size = (folder / ADAPTER_WEIGHTS).stat().st_size
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Trained(folder="adapter", kind="lora", bytes=size, tensors=sorted(tensors), parameters=parameters)
