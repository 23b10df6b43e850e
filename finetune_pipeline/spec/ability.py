"""What is asked besides the task: whether the model can still do what it could before."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.spec.outputs import Section


class AbilitySpec(Section):
    """General ability: what the model is asked besides its task, before and after training."""

    suite: bool = Field(True, description="Ask the items that ship: questions of seven kinds, and plain text.")
    files: list[str] = Field(
        default_factory=list,
        description="Globs of JSON Lines files of benchmarks, relative to the task folder; rows of {query, choices, gold}, "
        "{context, continuation}, {text} or {prompt, answer, others}.",
    )
    rows_per_file: int = Field(200, ge=2, description="At most so many rows of each file, chosen by their content.")
