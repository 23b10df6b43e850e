"""Sections of task.yaml on raw data, valid examples and the splits."""

from fnmatch import fnmatch
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from finetune_pipeline.spec.outputs import Section, Seed, Share


class FieldsSpec(Section):
    """Paths of fields in a raw row, as JMESPath expressions (jmespath.org); CSV and Parquet rows are flat objects.

    Besides the row's own keys, an expression may be ``$file`` (the file's name), ``$key`` (in a JSON document that is an
    object of lists: the key of the row's list) or ``='text'`` (a literal text). Elements of `each` that are not objects are
    called ``element``. Texts without a field (messages … output) are found by the format, and the given fields are added:
    ``label: category`` alone keeps the column ``text``.
    """

    rows: str | None = Field(None, description="Path to the list of rows inside a JSON document.")
    each: str | None = Field(None, description="List in the row; one example per element, with the row's keys.")
    messages: str | None = Field(None, description="List of turns with role and content.")
    text: str | None = Field(None, description="User text; use with `label`.")
    label: str | None = Field(None, description="Correct label.")
    prompt: str | None = Field(None, description="User text; use with `completion`.")
    completion: str | None = Field(None, description="Correct answer.")
    instruction: str | None = Field(None, description="Instruction; `input` follows it after a blank line.")
    input: str | None = Field(None, description="Text the instruction applies to; may be empty.")
    output: str | None = Field(None, description="Correct answer.")
    system: str | None = Field(None, description="System turn.")
    tools: str | None = Field(None, description="Functions the assistant may call.")
    id: str | None = None
    group: str | None = Field(None, description="Rows of one group (dialogue, customer, document) share a split.")
    origin: str | None = Field(None, description="human, production or synthetic.")
    generator: str | None = Field(None, description="Model that wrote a synthetic row.")
    time: str | None = Field(None, description="RFC 3339, or a number since 1970.")
    tags: str | None = None


class CsvSpec(Section):
    """The dialect of CSV and TSV files. Declared values are used; others are detected, or the file is refused with the line to
    add here."""

    delimiter: Literal[",", ";", "\t", "|"] | None = None
    quote: Literal['"', "'", "none"] | None = Field(None, description="`none`: quotes are ordinary characters.")
    header: bool | None = Field(None, description="Whether the first row names the columns.")
    encoding: str | None = Field(
        None,
        description="Encoding of text files (also JSON) that are not UTF-8, such as cp1252. Unset: it is detected, or the file is "
        "refused.",
    )


class SyntheticSpec(Section):
    """Requirements for rows that a model has written."""

    review_share: Share = Field(0.1, description="Share of synthetic rows to review before training.")
    intolerable_rejected: float = Field(0.10, gt=0, lt=1, description="Share of bad rows that must be rejected.")
    risk: float = Field(0.05, gt=0, lt=0.5, description="Probability that such a set passes.")


class DataSpec(Section):
    """Where raw examples are, and which ones are valid."""

    raw: list[str] = Field(
        ["raw/*"],
        min_length=1,
        description="Globs relative to the task folder. Without a suffix, files with known suffixes match: jsonl, json, csv, "
        "tsv, parquet, xlsx, also gzipped.",
    )
    unlabelled: list[str] = Field(
        [],
        description="Globs of files with rows that the teacher answers, in any raw format; answers in them are not read.",
    )
    format: str = Field("auto", description="Name of the raw format; `auto` detects it row by row.")
    fields: FieldsSpec = FieldsSpec()
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        {}, description="Names of roles in the data: {USER: user, SYSTEM: assistant}."
    )
    csv: CsvSpec = CsvSpec()
    sheet: str | list[str] | None = Field(None, description="Sheet or sheets of workbooks (.xlsx); unset: the first.")
    max_unpacked_gib: float = Field(10.0, gt=0, description="Files that unpack to more are refused.")
    allow_truncated: bool = Field(False, description="Continue with the readable part of a broken or truncated file.")
    inject: bool = Field(False, description="Add system_prompt to chats without a system turn.")
    max_chars: int = Field(8000, ge=1, description="Longer rows (all turns) are quarantined.")
    min_chars: int = Field(2, ge=0, description="Rows with shorter user text are quarantined.")
    max_quarantine_share: Share = Field(0.2, description="A larger share of lost rows stops the pipeline.")
    min_examples: int = Field(500, ge=1, description="Fewer clean examples stop the pipeline.")
    min_per_label: int = Field(100, ge=0, description="Fewer clean examples of any label stop the pipeline.")
    max_imbalance: float = Field(10.0, ge=1, description="Largest label over smallest; a higher ratio warns.")
    max_suspects_of_a_file: Share = Field(
        0.5, description="Stop if other files contradict a larger share of a file's labels. 1: never."
    )
    max_label_noise: Share = Field(0.3, description="Stop if significantly more labels are wrong. 1: never.")
    triggers: Literal["stop", "warn"] = Field(
        "stop", description="A phrase that decides the label against the rest of the text: `stop` or `warn`."
    )
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1.0, description="Jaccard similarity of character 5-grams.")
    contradictions: Literal["quarantine", "warn"] = Field(
        "quarantine", description="Equal prompts with different answers: `quarantine` or `warn`."
    )
    synthetic: SyntheticSpec = SyntheticSpec()
    scrub: Literal["replace", "drop", "warn"] = Field(
        "replace", description="Personal data and secrets: `replace`, `drop` or `warn`."
    )
    scrub_names: bool = Field(False, description="Also look for names and addresses of people; needs a spaCy model.")
    scrub_region: list[str] = Field(
        [],
        description="Countries (ISO 3166, such as GB or [DE, AT]) whose national telephone numbers are found without a "
        "preceding keyword.",
    )
    benchmarks: list[str] = Field([], description="Globs of benchmark files; rows that repeat an item are removed.")

    @field_validator("scrub_region", mode="before")
    @classmethod
    def _one_or_several(cls, regions: Any) -> Any:
        return [regions] if isinstance(regions, str) else regions

    @field_validator("scrub_region")
    @classmethod
    def _known_regions(cls, regions: list[str]) -> list[str]:
        if not regions:
            return regions
        from phonenumbers import SUPPORTED_REGIONS

        if unknown := ", ".join(region for region in regions if region not in SUPPORTED_REGIONS):
            fix = "use two-letter country codes in capitals (GB, US, DE)"
            raise ValueError(f"no telephone numbers are known for {unknown}; {fix}")
        return regions


class SplitSpec(Section):
    """Shares of clusters; the rest is for training."""

    by: Literal["cluster", "time"] = Field(
        "cluster",
        description="`cluster`: by hash; `time`: the newest rows are the test, and older rows like them leave training.",
    )
    validation: float = Field(0.1, gt=0.0, lt=0.5)
    test: Annotated[float, Field(gt=0.0, lt=0.5)] | Annotated[list[str], Field(min_length=1)] = Field(
        0.2,
        description="A share, or globs of raw files whose rows are the test: rows of other files that are like them leave "
        "training.",
    )
    seed: Seed = Field(0, description="Affects the first split only.")
    tolerance: float = Field(0.05, gt=0, lt=0.5, description="Allowed deviation of a split's share.")
    restart: bool = Field(
        False,
        description="Discard the old assignment once and split all rows anew, with a new test set. Remove it after the run.",
    )

    @property
    def test_share(self) -> float | None:
        """Share of all rows in the test; None if `test` names files."""
        return None if isinstance(self.test, list) else self.test

    def is_test_file(self, file: str) -> bool:
        """Whether `test` names this raw file."""
        return isinstance(self.test, list) and any(fnmatch(file, pattern) for pattern in self.test)
