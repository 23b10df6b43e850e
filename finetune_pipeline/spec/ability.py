"""What is asked besides the task: whether the model can still do what it could before."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.spec.outputs import Section


class HarnessSpec(Section):
    """Tasks of lm-evaluation-harness, run offline (the optional extra `harness`)."""

    tasks: list[str] = Field(
        default_factory=list,
        description="Globs of lm-evaluation-harness task files, or folders of them.",
    )
    limit: int = Field(100, ge=2, description="Rows per task, from the start.")
    chat: bool = Field(False, description="Ask through the chat template.")


class AbilitySpec(Section):
    """General ability: what the model is asked besides its task, before and after training."""

    suite: bool = Field(True, description="Ask the shipped questions and texts.")
    files: list[str] = Field(
        default_factory=list,
        description="Globs of JSON Lines benchmarks (docs/evaluation.md).",
    )
    rows_per_file: int = Field(200, ge=2, description="Rows per file, chosen by content.")
    harness: HarnessSpec = HarnessSpec()
