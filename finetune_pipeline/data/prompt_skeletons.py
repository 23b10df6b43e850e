"""Prompt skeletons that travel from set to set: the same content in one of them, or in none, is still the same content."""

from __future__ import annotations

from finetune_pipeline.data.templates import Templates

PREAMBLES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
)
LABELS = (
    "### Instruction:",
    "### Input:",
    "### Response:",
    "### Human:",
    "### Assistant:",
    "### Question:",
    "### Answer:",
)


def with_known(templates: Templates) -> Templates:
    """The templates found in a set, and those known from elsewhere."""
    segments = {*templates.segments, *PREAMBLES, *LABELS}
    return Templates(tuple(sorted(segments, key=lambda s: (-len(s), s))))
