"""Jobs for the child process (``python -m finetune_pipeline.worker.entry JOB.json``).

Imports no torch: assets and the command line make jobs of these classes, and :func:`write_job` and :func:`read_job` carry them
into the child. A missing or misspelt field fails where the job is made. A *model folder* is an artifact of a base or merge job
(it contains ``model.json``), or any folder in the transformers format.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from pydantic import BaseModel

from finetune_pipeline.data.examples import Message
from finetune_pipeline.data.perturbations import set_name
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.spec.training import RefineSpec, TrainingSettings, TrainingSpec, decisive_settings

Fields = Mapping[str, object]
"""Settings whose form task.yaml, or a model's own JSON, defines."""


class Job(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", forbid_unknown_fields=True):
    """A job.

    Attributes:
        stage: Name for progress messages: the asset's name.
        out: Folder for the results: ``result.json`` (the facts; equal for equal inputs), ``measured.json`` (seconds,
            peak_memory_mib, threads), and on failure ``error.json`` {code, kind, message}.
        work: Folder that survives a kill, for jobs that can resume.
    """

    stage: str
    out: Path
    work: Path | None = None


class KeptAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of a job's answer cache (:mod:`finetune_pipeline.evaluation.answer_cache`), and its size."""

    file: Path
    limit_mib: int


class SimpleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the simple models. output: the spec's section of that name. base: the base model, whose hidden states some of
    them read. encoder: the sentence encoder that others read. fitted: folder of the fitted models; None fits them on the
    training rows, and writes them to out/simple_models."""

    output: Fields
    seed: int
    base: Path
    encoder: str | None = None
    fitted: Path | None = None


class FittedSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fitted model without a language model, in a folder that SimpleModel.save wrote. name: the predictions' model column.
    examples: other rows than the job's."""

    name: str
    folder: Path
    examples: Path | None = None

    def on_file(self, name: str, examples: Path) -> "FittedSet":
        """Return the same model for the rows of another file, named with `name` appended."""
        return replace(self, name=set_name(self.name, name), examples=examples)


class BaseJob(Job, frozen=True, kw_only=True, tag="base_model"):
    """Prepare the base model: a bundled one, a local folder, or a hub id; see :func:`finetune_pipeline.models.base.prepare_base`.
    chat_template: text of a template that replaces the model's own."""

    stage: str = "base_model"
    base_model: str
    revision: str | None
    chat_template: str | None = None


class BaselineJob(Job, frozen=True, kw_only=True, tag="baseline"):
    """Try every prompt of :func:`finetune_pipeline.evaluation.prompts.prompts_to_try` with the base model, on `examples` (the
    validation split).

    train: source of shots and nearest examples. documents: folder of the task's documents; a prompt contains
    `shown_documents` of their passages. prompts: other system prompts to try instead of `system_prompt`. without_labels: a
    system prompt to try that does not list the labels. limit: use only the first rows in order of id. restricted: as in
    :class:`ModelSet`, for every prompt.
    Writes out/predictions.parquet, one model name per prompt (``zero_shot``, ``8_shot``, ``3_nearest``,
    ``prompt_2_8_shot``), out/prompts.json {name: prompt}, and the fitted simple models; give the best prompt to a
    :class:`ModelSet` and the models to a :class:`FittedSet` for the test.
    """

    stage: str = "few_shot_baseline"
    base: Path
    examples: Path
    train: Path
    shots: Sequence[int]
    seed: int
    labels: Sequence[str]
    max_new_tokens: int
    batch_size: int
    retrieved: int = 0
    embeddings: str | None = None
    documents: Path | None = None
    shown_documents: int = 0
    system_prompt: str = ""
    prompts: Sequence[str] = ()
    without_labels: str = ""
    limit: int | None = None
    answers: KeptAnswers | None = None
    simple: SimpleSettings | None = None
    restricted: Fields | None = None
    precision: str = "serving"


class TrainJob(Job, frozen=True, kw_only=True, tag="train"):
    """Train with ``settings.method``, from scratch or (low-rank adapters) from the adapter in the folder `start_from`.

    settings: ``spec.training``; train, validation: examples files; steps_before: those of earlier phases.
    classes: the labels of a classifier, in the order of its outputs; empty for methods that learn to write answers.

    Writes out/adapter (see training.model.save_trained), out/history.jsonl (one line per logged step), out/audit.json and
    out/audit.html. While it runs, it appends to work/history.jsonl and writes the checkpoints for a rerun into
    work/checkpoints. It also writes work/audit.html if the audit stops the job.
    """

    stage: str = "adapter"
    work: Path
    base: Path
    train: Path
    validation: Path
    settings: TrainingSpec
    classes: list[str] = []
    start_from: Path | None = None
    steps_before: int = 0


class RefineJob(Job, frozen=True, kw_only=True, tag="refine"):
    """Train the low-rank adapter in the folder `start_from` further on preferences, with TRL's trainer for `refine.method`.

    settings: of the last phase of the first stage (as in :class:`TrainJob`), for batches, lengths, precision and adapter.
    refine: the section training.refine. rows: a file of data.preferences.rows.Preference.

    Writes out/adapter, out/history.jsonl and out/audit.json. While it runs, it writes the checkpoints for a rerun into
    work/checkpoints.
    """

    stage: str = "adapter"
    work: Path
    base: Path
    start_from: Path
    rows: Path
    settings: TrainingSpec
    refine: RefineSpec


class MergeJob(Job, frozen=True, kw_only=True, tag="merge"):
    """Build the model to serve from `adapter` (the result of training, of any kind), and compare the two.

    Low-rank: merged into the unquantized base; full: used as it is; prompt: a plain model with added tokens. These write
    out/model (safetensors, config, tokenizer) and out/model.json. A prefix is copied to out/adapter. The comparison uses the
    first `parity_rows` of `examples` in order of id. Facts: see models.merging.merge_and_compare.
    """

    stage: str = "merged_model"
    base: Path
    adapter: Path
    examples: Path
    labels: Sequence[str]
    max_new_tokens: int
    batch_size: int
    parity_rows: int = 32
    precision: str = "serving"


class Perturbed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sample of rows that a perturbation (`kind`, of :mod:`finetune_pipeline.data.perturbations`) changes."""

    kind: str
    rows: int
    seed: int


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt: the task's own without examples, but for these fields. prompts.json holds prompts by name.

    Attributes:
        shots: Number of fixed examples, with these `ids`, shown as `turns`.
        retrieved: Number of most similar training examples shown instead, found by `embeddings`
            (preferences.embeddings.embed) or, if None, by TF-IDF.
        documents: Number of passages of documents/ at the end of the system prompt.
        system: Replaces the system prompt `instead_of`; None keeps the task's own.
        api: Whether it is sent to baseline.endpoint.
    """

    shots: int = 0
    ids: list[str] = []
    turns: list[Message] = []
    retrieved: int = 0
    embeddings: str | None = None
    documents: int = 0
    system: str | None = None
    instead_of: str | None = None
    api: bool = False


class ModelSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model with one prompt. name: the predictions' model column ("base", "candidate", "champion").

    adapter: a prefix before `model`. prompt: one that retrieves examples needs `train` in :class:`PredictJob`. served: the
    model's name at the job's endpoint, if there is one. hosted: the fields of models.hosted.HostedModel if its trainer serves
    it; `model` then only provides its tokenizer. concurrency: of its requests. restricted: a JSON schema. The predictions then
    also contain the answers decoded under it, with the model name of evaluation.predictions.restricted_name: finished answers
    that comply are kept, all others are generated again. If the schema or an endpoint does not support this, there are no such
    rows. constrained: the answers decoded under `restricted` are the set's only ones; an endpoint is sent the schema as
    `response_format`. perturbed, examples: other rows than the job's. likelihoods: whether labels are scored. stored: folder
    of a champion's prompt (evaluation.stored_prompt), which replaces `prompt`, what it retrieves from, labels and schema; its
    restricted answers, if it has these, are the set's only ones.
    """

    name: str
    model: Path
    adapter: Path | None = None
    prompt: Prompt = Prompt()
    served: str | None = None
    hosted: Fields | None = None
    concurrency: int | None = None
    restricted: Fields | None = None
    constrained: bool = False
    perturbed: Perturbed | None = None
    examples: Path | None = None
    likelihoods: bool = True
    stored: Path | None = None

    @property
    def decoded_schema(self) -> Fields | None:
        """The schema that all answers are decoded under; None for free answers."""
        return self.restricted if self.constrained else None

    def on_perturbed(self, perturbed: Perturbed) -> "ModelSet":
        """Return the same model and prompt for perturbed rows; without label likelihoods."""
        return replace(self, name=set_name(self.name, perturbed.kind), perturbed=perturbed, likelihoods=False)

    def on_file(self, name: str, examples: Path) -> "ModelSet":
        """Return the same model and prompt for the rows of another file, named with `name` appended; without label
        likelihoods."""
        name, schema = set_name(self.name, name), self.decoded_schema
        return replace(self, name=name, examples=examples, restricted=schema, likelihoods=False)


LOG_PROBABILITIES = "log_probabilities.jsonl"


class PredictJob(Job, frozen=True, kw_only=True, tag="predict"):
    """Answer every example with every set, greedily.

    endpoint: None: answer with transformers; otherwise the fields of spec.evaluation.ServedModelsSpec, and no label is scored.
    train: examples for prompts that retrieve, and training rows of the simple models; passages: of the documents. simple:
    also answer with evaluation.simple_models, as models `simple_NAME`. fitted: other fitted models. labels: empty for free
    text; otherwise each label's log-likelihood (including the end-of-turn token) is scored too.
    Writes out/predictions.parquet (one row per example and set, sets in the given order, examples in file order); an
    example that cannot be answered gets a row with status ``error``. log_probabilities: also writes out/LOG_PROBABILITIES, those
    of the tokens of each answer, in the order of these rows.
    """

    stage: str = "test_predictions"
    sets: Sequence[ModelSet]
    examples: Path
    labels: Sequence[str]
    max_new_tokens: int
    batch_size: int
    train: Path | None = None
    passages: Path | None = None
    limit: int | None = None
    answers: KeptAnswers | None = None
    endpoint: Fields | None = None
    simple: SimpleSettings | None = None
    fitted: Sequence[FittedSet] = []
    precision: str = "serving"
    log_probabilities: bool = False

    def __post_init__(self) -> None:
        names = [*(model_set.name for model_set in self.sets), *(fitted.name for fitted in self.fitted)]
        if len(set(names)) != len(names):
            raise ValueError(f"two sets have the same name: {', '.join(names)}")


class LatencyJob(Job, frozen=True, kw_only=True, tag="latency"):
    """Time single calls of a model with each of the `prompts`, one row after the other, without a cache."""

    stage: str = "ladder"
    model: Path
    prompts: Mapping[str, Prompt]
    examples: Path
    train: Path
    passages: Path
    max_new_tokens: int
    precision: str
    calls: int


class AbilityJob(Job, frozen=True, kw_only=True, tag="ability"):
    """Score a model (after a prefix `adapter`, unless None) on items of general ability.

    files: JSON Lines of benchmarks, at most `limit` rows of each; suite: also use the shipped items.
    Writes out/ability.jsonl (evaluation.ability.scoring.score_items).
    """

    stage: str = "general_ability"
    model: Path
    adapter: Path | None
    files: Sequence[Path]
    limit: int
    suite: bool
    batch_size: int
    answers: KeptAnswers | None = None
    precision: str = "serving"


AnyJob = BaseJob | BaselineJob | TrainJob | RefineJob | MergeJob | PredictJob | LatencyJob | AbilityJob


def job_fields(job: Job) -> dict[str, object]:
    """Return a job in JSON's types, with absolute paths. Raises TypeError if something in it has no form in JSON."""
    fields: dict[str, object] = msgspec.to_builtins(job, enc_hook=_encoded)
    return fields


def job_of(fields: object) -> AnyJob:
    """Return the job of such fields. Raises msgspec.ValidationError for missing, unknown and wrong ones."""
    job: AnyJob = msgspec.convert(fields, AnyJob, dec_hook=_decoded)
    return job


def write_job(path: Path, job: Job) -> None:
    """Write a job file, and its folder if it is missing."""
    write_json(path, job_fields(job))


def read_job(path: Path) -> AnyJob:
    """Read a job file. Raises OSError, or msgspec.DecodeError like :func:`job_of`."""
    job: AnyJob = msgspec.json.decode(path.read_bytes(), type=AnyJob, dec_hook=_decoded)
    return job


def _encoded(value: object) -> Any:
    if isinstance(value, TrainingSettings):
        return decisive_settings(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"a job cannot contain {value!r}")


def _decoded(kind: type, value: object) -> Any:
    if kind is object:  # JSON that is only passed on
        return value
    if issubclass(kind, BaseModel):
        return kind.model_validate(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected a {kind.__name__} as text, got {value!r}")  # msgspec adds the field, as ValidationError
