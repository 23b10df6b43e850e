"""Cross-field rules about training. What depends on the base model, too, is in :mod:`finetune_pipeline.planning.preflight`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import problem, rule


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
    method = METHODS[spec.training.method]
    if spec.training.unquantized_epochs and not method.default("unquantized_epochs").value:
        message = f"method {method.name} has no second phase: what it trains is trained on the unquantized base already"
        fix = "remove training.unquantized_epochs, and raise training.epochs instead"
        yield problem("second_phase", "training.unquantized_epochs", message, fix)


@rule
def check_gradient_checkpointing(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """A trained prefix lies in the cache of keys and values, which computing a layer twice would fill twice."""
    method = METHODS[spec.training.method]
    if spec.training.gradient_checkpointing is True and not method.checkpointing:
        message = f"{method.name} tuning does not work with gradient checkpointing: what it trains lies in the key-value cache"
        fix = "set training.gradient_checkpointing: false and lower training.micro_batch_size, or use method: prompt or lora"
        yield problem("gradient_checkpointing", "training.gradient_checkpointing", message, fix)


@rule
def check_method(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """What the method says of its own settings; sections of other methods do nothing, which a switch turned on hides."""
    training = spec.training
    yield from METHODS[training.method].check(training)
    for key in sorted(training.model_fields_set):
        names = [method.name for method in METHODS.values() if method.section == key]
        if not names or training.method in names:
            continue
        switches = [name for name, value in getattr(training, key) if value is True]
        message = f"method {training.method} does not use the section {key!r}"
        message += f", in which {' and '.join(switches)} is true" if switches else ""
        fix = f"remove it, or set method: {' or '.join(names)}"
        yield problem("unused_section", f"training.{key}", message, fix, "error" if switches else "warning")
