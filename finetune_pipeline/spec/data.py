"""Sections of task.yaml about raw data, what a good example looks like, and the splits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_pipeline.spec.outputs import Section, Share


class FieldsSpec(Section):
    """Where things are in a raw row, as JMESPath expressions (jmespath.org); CSV and Parquet rows are flat objects.

    Besides the row's own keys an expression may be ``$file`` (the file's name), ``$key`` (for a JSON document that is
    an object of lists: the key of the list the row stands in) or ``='text'`` (this very text). Elements of `each` that
    are no objects are called ``element``. Without any of the fields for texts (messages … output) the texts are found
    by the format, and the other fields are filled in beside them.
    """

    rows: str | None = Field(None, description="The list of rows inside a JSON document, where it is not the document.")
    each: str | None = Field(
        None, description="A list inside the row: one example per element, which sees the row's keys."
    )
    messages: str | None = Field(None, description="A list of turns with role and content.")
    text: str | None = Field(None, description="What the user says; together with `label`.")
    label: str | None = Field(None, description="The right label.")
    prompt: str | None = Field(None, description="What the user says; together with `completion`.")
    completion: str | None = Field(None, description="The right answer.")
    instruction: str | None = Field(None, description="The instruction; `input` is put below it, after a blank line.")
    input: str | None = Field(None, description="What the instruction is about; may be empty.")
    output: str | None = Field(None, description="The right answer.")
    system: str | None = Field(None, description="The system turn.")
    tools: str | None = Field(None, description="A list of functions the assistant may call.")
    id: str | None = None
    group: str | None = Field(None, description="Rows of one group share a split: a dialogue, a customer, a document.")
    origin: str | None = Field(None, description="human, production or synthetic.")
    generator: str | None = Field(None, description="What made a synthetic row.")
    time: str | None = Field(None, description="When the row was made, RFC 3339 or seconds since 1970.")
    tags: str | None = None


class CsvSpec(Section):
    """The dialect of CSV and TSV files. What is declared is taken; anything else must follow from the file itself, or the
    file is refused with the line to add here."""

    delimiter: Literal[",", ";", "\t", "|"] | None = None
    quote: Literal['"', "'", "none"] | None = Field(None, description="`none`: quotes are ordinary characters.")
    header: bool | None = Field(None, description="Whether the first row names the columns.")
    encoding: str = Field("utf-8", description="For example cp1252.")


class SyntheticSpec(Section):
    """What is asked of rows a model has written."""

    review_share: Share = Field(0.1, description="Share of the synthetic rows people must look at before training.")
    acceptable_rejected: Share = Field(
        0.02, description="Share of bad rows with which a set should pass (acceptable quality level)."
    )
    intolerable_rejected: Share = Field(
        0.10, description="Share of bad rows with which a set must not pass (rejectable quality level)."
    )
    risk: float = Field(0.05, gt=0, lt=0.5, description="Chance of a wrong verdict on the sample at either level.")


class SemanticSpec(Section):
    """Likeness of meaning by an embedding model; suspects for people unless `remove` is set."""

    model: str = Field(
        "hashed",
        description="`hashed` (built in: words and their parts), `wordllama`, or a folder with static embeddings.",
    )
    threshold: float = Field(0.9, gt=0.0, le=1.0, description="Cosine similarity from which rows are suspects.")
    remove: bool = Field(False, description="Treat suspects as near-duplicates.")


class ConsistencySpec(Section):
    """How uniform the answers must be."""

    max_minority: Share = Field(0.1, description="Forms that together are rarer than this are stray rows, a warning.")


class DataSpec(Section):
    """Where raw examples are and what a good one looks like."""

    raw: list[str] = Field(
        ["raw/*.jsonl"],
        min_length=1,
        description="Globs relative to the task folder (jsonl, json, csv, tsv, parquet, .gz).",
    )
    format: str = Field(
        "auto",
        description="Format of the raw rows, by its name in docs/data.md; `auto` finds it row by row and says why.",
    )
    fields: FieldsSpec = FieldsSpec()
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        default_factory=dict, description="Other names of roles: {USER: user, SYSTEM: assistant}."
    )
    csv: CsvSpec = CsvSpec()
    inject: bool = Field(False, description="Add the spec's system_prompt to chats without a system turn.")
    max_chars: int = Field(8000, ge=1, description="Rows with more characters in all turns together are quarantined.")
    min_chars: int = Field(2, ge=0, description="User text shorter than this many characters is quarantined.")
    max_quarantine_share: Share = Field(0.2, description="More quarantined rows than this share stops the pipeline.")
    min_examples: int = Field(500, ge=1, description="Fewer clean examples than this stops the pipeline.")
    min_per_label: int = Field(100, ge=0, description="Fewer clean examples of any label than this stops the pipeline.")
    many_examples: int = Field(10_000, ge=1, description="Above this, advice to train on a part first.")
    max_imbalance: float = Field(10.0, ge=1, description="Largest over smallest label; more is a warning.")
    max_suspects_of_a_file: Share = Field(
        0.5,
        description="A raw file of whose labels more than this share is contradicted by the other files stops the pipeline. "
        "1: never.",
    )
    max_label_noise: Share = Field(
        0.3, description="When surely more than this share of the labels is wrong, the pipeline stops. 1: never."
    )
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1.0, description="Jaccard similarity of character 5-grams.")
    contradictions: Literal["quarantine", "warn"] = Field(
        "quarantine", description="What to do with equal prompts that are answered differently."
    )
    semantic: SemanticSpec | None = Field(None, description="Likeness of meaning; off unless given.")
    consistency: ConsistencySpec = ConsistencySpec()
    synthetic: SyntheticSpec = SyntheticSpec()
    scrub: Literal["replace", "drop", "warn"] = Field(
        "replace", description="What to do with personal data and secrets."
    )
    scrub_names: bool = Field(
        False, description="Look for names and addresses of people too, with the recogniser model installed."
    )
    benchmarks: list[str] = Field(
        default_factory=list,
        description="Globs of benchmark files; training rows that repeat one of their rows are removed.",
    )


class SplitSpec(Section):
    """Shares of clusters; the train share is the rest."""

    by: Literal["cluster", "time"] = Field(
        "cluster",
        description="`cluster`: by hash of the near-duplicate cluster or group; `time`: the newest are the test.",
    )
    validation: float = Field(0.1, gt=0.0, lt=0.5)
    test: float = Field(0.2, gt=0.0, lt=0.5)
    seed: int = Field(0, ge=0, description="Changes which clusters land where on the first split only.")
    tolerance: float = Field(0.05, gt=0, lt=0.5, description="Allowed absolute deviation of a split's share.")
