"""A prompt as the files of a champion: its text with shots, whether answers are restricted, and what it retrieves from."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from finetune_pipeline.data.documents import PASSAGES, read_passages
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.evaluation.correctness import is_valid, likelihood_label
from finetune_pipeline.evaluation.prompts import Retriever
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.models.inference.constrained import Grammar, Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.json_grammar import UnsupportedSchema
from finetune_pipeline.spec.outputs import JsonOutput

PROMPT = "prompt.json"
TRAIN = "train.jsonl"
"""File of the training rows that the prompt shows the nearest of."""


class StoredPrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt of the baseline.

    Attributes:
        name: Its name in the baseline.
        prompt: Turns of its fixed shots are training rows.
        mode: `restricted`: the answer is the likeliest label, or JSON decoded under `json_schema`.
        labels: Of the task; empty for JSON and text.
    """

    name: str
    prompt: Prompt
    mode: Literal["free", "restricted"] = "free"
    labels: list[str] = []
    json_schema: dict[str, Any] | None = None

    @property
    def retrieves(self) -> bool:
        """Whether it shows training rows that are looked up for each input."""
        return self.prompt.retrieved > 0

    @property
    def holds_rows(self) -> bool:
        """Whether its files contain training rows: fixed shots, or the rows it retrieves from."""
        return bool(self.prompt.turns) or self.retrieves

    @property
    def scored_labels(self) -> list[str]:
        """The labels whose likelihoods decide; none for free answers."""
        return self.labels if self.mode == "restricted" else []

    @property
    def decoded_schema(self) -> dict[str, object] | None:
        """The schema that answers are decoded under; None for free answers and labels."""
        return self.json_schema if self.mode == "restricted" else None

    def write(self, folder: Path, train: Path, passages: Path) -> None:
        """Write the prompt into a folder, with the rows or passages that it retrieves. train, passages: files of the baseline."""
        folder.mkdir(parents=True)
        write_json(folder / PROMPT, msgspec.to_builtins(self), durable=False)
        if self.retrieves:
            shutil.copyfile(train, folder / TRAIN)
        if self.prompt.documents:
            shutil.copyfile(passages, folder / PASSAGES)


def read_stored_prompt(folder: Path) -> StoredPrompt:
    """Read what StoredPrompt.write wrote. Raises DamagedFile if it is something else."""
    return msgspec.convert(read_json(folder / PROMPT, StoredPrompt), StoredPrompt)


def stored_retriever(folder: Path) -> Retriever | None:
    """Return the retriever over the stored training rows or passages; None if the prompt retrieves nothing."""
    train, passages = folder / TRAIN, folder / PASSAGES
    if not train.exists() and not passages.exists():
        return None
    rows = read_examples(train) if train.exists() else []
    return Retriever(rows, read_passages(passages) if passages.exists() else [])


def restriction_of(schema: Mapping[str, object], tokenizer: Any) -> Restriction | None:
    """Return what decodes answers under a schema; None if they cannot be: then all complied freely when the prompt was shipped."""
    output = JsonOutput(json_schema=dict(schema))
    try:
        return Restriction(Grammar(schema, tokenizer), lambda answer: is_valid(vars(answer), output))
    except UnsupportedSchema:
        return None


def restricted_answer(answer: Answer, labels: Sequence[str]) -> Answer:
    """Return the answer restricted to the allowed forms: the likeliest label, or without labels the one under the grammar."""
    if not labels:
        return answer.restricted or answer
    if answer.status == "error":
        return answer
    label = likelihood_label(answer.label_scores, labels)
    return dataclasses.replace(answer, text=label or "", status="ok" if label else "empty", label_scores=[])
