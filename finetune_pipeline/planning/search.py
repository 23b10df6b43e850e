"""Searches for the nearest plan that fits: tries settings that need less memory, in order of their cost."""

from collections.abc import Iterator

from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.processes import is_worker

_SHORTEST = 256
"""Smallest training.max_tokens that is proposed."""
WHY = {
    "micro_batch_size": "same result, but slower",
    "gradient_checkpointing": "about a third slower, with the same result",
    "unquantized_epochs": "the base stays in four bits throughout: small bases lose part of the training when merged",
    "method": "the base is stored in 16 or 4 bits, with gradients and optimiser states for a hundredth of the weights",
    "max_tokens": "longer examples are truncated at the start of their user text, or left out (training.rows)",
}
"""The cost of each change, as a sentence."""
Change = dict[str, bool | int | float | str]
"""New values of keys of `training`."""


def ladder(settings: TrainingSettings) -> Iterator[TrainingSettings]:
    """Yield settings in decreasing order of memory, the cheapest change first; each with every smaller micro-batch."""
    for rung in _rungs(settings):
        batch = rung.batch_size
        micro = [n for n in range(rung.micro_batch_size, 0, -1) if batch % n == 0]
        yield from (rung.changed(micro_batch_size=n) for n in micro)


def _rungs(settings: TrainingSettings) -> Iterator[TrainingSettings]:
    yield settings
    if METHODS[settings.method].checkpointing and settings.gradient_checkpointing is not True:
        settings = settings.changed(gradient_checkpointing=True)
        yield settings
    if len(METHODS[settings.method].phases(settings)) > 1:
        settings = settings.changed(unquantized_epochs=0.0)
        yield settings
    while smaller := METHODS[settings.method].smaller:
        settings = METHODS[smaller].adopt(settings).changed(gradient_checkpointing=METHODS[smaller].checkpointing)
        yield settings
    while settings.max_tokens > _SHORTEST:
        over_length = "truncate_prompt" if settings.over_length == "fail" else settings.over_length
        settings = settings.changed(max_tokens=max(_SHORTEST, settings.max_tokens // 2), over_length=over_length)
        yield settings


def changes(settings: TrainingSettings, candidate: TrainingSettings) -> Change:
    """Return the keys of `candidate` that differ from `settings`, with their new values."""
    return {key: value for key, value in candidate if value != getattr(settings, key)}


def reasons(change: Change) -> list[str]:
    """Return the cost of each changed key."""
    return [f"{key}: {WHY[key]}" for key in change if key in WHY]


def nearest_smaller(settings: TrainingSettings | None) -> str:
    """Return a sentence on which keys of task.yaml to change, and their cost. settings: of a training; None: of other jobs."""
    if settings is not None:
        if not is_worker():  # training has halved the micro-batch by itself
            settings = settings.changed(micro_batch_size=1)
        if change := next(filter(None, (changes(settings, smaller) for smaller in ladder(settings))), None):
            # lower case, as YAML writes true and false
            keys = (f"training.{key}: {value} (now {getattr(settings, key)})".lower() for key, value in change.items())
            return f"set {', '.join(keys)}; {'; '.join(WHY[key] for key in change if key in WHY)}"
    # batches of prompts are halved by models.inference.memory
    return "use a machine with more memory, or a smaller base_model"
