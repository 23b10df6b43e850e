"""Cross-field rules about training. What depends on the base model, too, is in :mod:`finetune_pipeline.training.refusals`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.method_defaults import LOW_RANK, SOFT_PROMPTS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import problem, rule

NOT_ADAPTED = ("lm_head", "embed_tokens", "embed_out", "wte")
"""Embeddings and output heads, which low-rank adapters leave alone."""


@rule
def check_batches(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """The optimiser step is made of whole micro-batches."""
    batch, micro = spec.training.batch_size, spec.training.micro_batch_size
    if batch % micro:
        message = f"micro_batch_size {micro} does not divide batch_size {batch}"
        yield problem("batches", "training.micro_batch_size", message, f"use a divisor of {batch}")


@rule
def check_epochs(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Past the third pass a small set is learned by heart more often than understood."""
    total = spec.training.epochs + spec.training.unquantized_epochs
    if total > 3:
        message = f"{total:g} epochs in all; after three, small sets are mostly learned by heart"
        fix = "lower training.epochs, and watch the check for overfitting"
        yield problem("epochs", "training.epochs", message, fix, "warning")


@rule
def check_second_phase(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Only an adapter trained on four bits has anywhere to move to."""
    method = spec.training.method
    if method == "qlora" or not spec.training.unquantized_epochs:
        return
    why = "is never merged" if method in SOFT_PROMPTS else "is trained on the unquantized base already"
    message = f"method {method} has no second phase: what it trains {why}"
    fix = "remove training.unquantized_epochs, and raise training.epochs instead"
    yield problem("second_phase", "training.unquantized_epochs", message, fix)


@rule
def check_gradient_checkpointing(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """A trained prefix lies in the cache of keys and values, which computing a layer twice would fill twice."""
    if spec.training.method == "prefix" and spec.training.gradient_checkpointing is True:
        message = "prefix tuning does not work with gradient checkpointing: its prefix lies in the key-value cache"
        fix = "set training.gradient_checkpointing: false and lower training.micro_batch_size, or use method: prompt or lora"
        yield problem("gradient_checkpointing", "training.gradient_checkpointing", message, fix)


@rule
def check_low_rank_options(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Options of low-rank adapters belong to a method that trains some."""
    method, lora = spec.training.method, spec.training.lora
    if method not in LOW_RANK:
        for name in ("dora", "rslora"):
            if getattr(lora, name):
                message = f"{name} changes low-rank adapters, and method {method} trains none"
                fix = f"set method: lora or qlora, or remove training.lora.{name}"
                yield problem("low_rank_options", f"training.lora.{name}", message, fix)
        if idle := sorted(lora.model_fields_set - {"dora", "rslora"}):
            message = f"method {method} does not use {', '.join(f'training.lora.{name}' for name in idle)}"
            yield problem("low_rank_options", "training.lora", message, "remove the section `lora`", "warning")
    elif lora.init == "orthogonal" and (method == "qlora" or lora.r % 2):
        why, fix = (
            "the base's weights are not numbers yet once they are in four bits",
            "set training.lora.init: default",
        )
        if method != "qlora":
            why, fix = (
                f"it needs an even rank, and training.lora.r is {lora.r}",
                f"{fix}, or training.lora.r: {lora.r + 1}",
            )
        message = f"orthogonal initialisation cannot be used: {why}"
        yield problem("low_rank_options", "training.lora.init", message, fix)


@rule
def check_target_modules(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """The output head shares its weight with the embedding in many bases, and is computed only where there is loss."""
    key, named = "training.lora.target_modules", spec.training.lora.target_modules
    if spec.training.method not in LOW_RANK or isinstance(named, str):
        return
    if not named:
        message, fix = "the list is empty: no layer would be trained", "write all-linear, or name layers such as q_proj"
        yield problem("target_modules", key, message, fix)
    for name in named:
        if name.rpartition(".")[2] in NOT_ADAPTED:
            message = f"{name!r} is the embedding or the output head, which adapters here leave alone"
            yield problem("target_modules", key, message, f"remove {name}; method: full trains everything")


@rule
def check_soft_prompt_options(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Sections of other methods do nothing; a text to begin from must be there, and be used."""
    training, name = spec.training, "soft_prompt_options"
    for method in SOFT_PROMPTS:
        key, section = f"training.{method}", getattr(training, method)
        if training.method != method:
            if method in training.model_fields_set:
                message = f"method {training.method} does not use the section {method!r}"
                yield problem(name, key, message, f"remove it, or set method: {method}", "warning")
        elif section.init == "text" and section.text is None:
            fix = f"add {key}.text, or set {key}.init: task"
            yield problem(name, f"{key}.text", "init is `text`, but there is no text", fix)
        elif section.init != "text" and section.text is not None:
            message = f"the text is not used with init: {section.init}"
            yield problem(name, f"{key}.text", message, f"set {key}.init: text, or remove the text")
