"""Faults of a job that another try of the same job cannot cure, with a sentence for people."""

from __future__ import annotations


class JobError(ValueError):
    """The job cannot be done as given. The message says what, where, and what to do."""


class Diverged(JobError):
    """The loss is no longer a finite number."""

    def __init__(self, step: int, example_ids: list[str]) -> None:
        self.example_ids = example_ids
        super().__init__(
            f"the loss was not finite at step {step}, on a batch with the examples {', '.join(example_ids)}.\n"
            "fix: lower training.learning_rate or raise training.warmup_share; if it happens at the first step, look at "
            "these examples and at the base model"
        )
