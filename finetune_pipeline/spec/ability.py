"""What is asked besides the task: whether the model can still do what it could before."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.spec.outputs import Section


class HarnessSpec(Section):
    """Tasks of lm-evaluation-harness, run offline (the optional extra `harness`)."""

    tasks: list[str] = Field(
        default_factory=list,
        description="Globs of task files (.yaml, as lm-evaluation-harness writes them) or of folders that hold some, relative "
        "to the task folder. Their rows lie in local files: dataset_path json, csv, parquet or text with data_files.",
    )
    limit: int = Field(
        100, ge=2, description="At most so many rows of each task: the first ones, as lm_eval's --limit."
    )
    chat: bool = Field(False, description="Ask through the model's chat template, as lm_eval's --apply_chat_template.")


class AbilitySpec(Section):
    """General ability: what the model is asked besides its task, before and after training."""

    suite: bool = Field(True, description="Ask the items that ship: questions of seven kinds, and plain text.")
    files: list[str] = Field(
        default_factory=list,
        description="Globs of JSON Lines files of benchmarks, relative to the task folder; rows of {query, choices, gold}, "
        "{context, continuation}, {text} or {prompt, answer, others}.",
    )
    rows_per_file: int = Field(200, ge=2, description="At most so many rows of each file, chosen by their content.")
    harness: HarnessSpec = HarnessSpec()
