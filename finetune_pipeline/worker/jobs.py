"""Jobs for the child process (``python -m finetune_pipeline.worker.entry JOB.json``), as plain JSON dictionaries.

Imports no torch: assets and the command line build jobs with these functions. Common arguments:

stage   name for progress messages (the asset's name)
out     folder for the results: ``result.json`` (the facts; equal for equal inputs), ``measured.json`` (seconds,
        peak_memory_mib, threads), and on failure ``error.json`` {code, kind, message}
work    folder that survives a kill, for actions that can resume

A *model folder* is an artifact of the ``base_model`` or ``merge`` action (it contains ``model.json``), or any folder in the
transformers format. Paths become absolute strings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.data.perturbations import set_name

Job = dict[str, Any]
ACTIONS = ("base_model", "baseline", "train", "merge", "predict", "latency", "ability")


def _as_json(value: Any) -> Any:
    """Convert a value to JSON's types; paths become absolute."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {key: _as_json(part) for key, part in value.items()}
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value


def _job(action: str, arguments: Mapping[str, Any]) -> Job:
    """Return a job with the arguments of one of the functions below, under their names."""
    return {"action": action, **{name: _as_json(value) for name, value in arguments.items()}}


def base_job(
    *, base_model: str, revision: str | None, out: Path, chat_template: str | None = None, stage: str = "base_model"
) -> Job:
    """Prepare the base model: a bundled one, a local folder, or a hub id; see :func:`finetune_pipeline.models.base.prepare_base`.
    chat_template: text of a template that replaces the model's own."""
    return _job("base_model", locals())


def kept_answers(*, file: Path, limit_mib: int) -> dict[str, Any] | None:
    """Return the settings of a job's answer cache (:mod:`finetune_pipeline.evaluation.answer_cache`); None without a cache."""
    if not limit_mib:
        return None
    return dict(_as_json(locals()))


def baseline_job(
    *,
    base: Path,
    examples: Path,
    train: Path,
    shots: Sequence[int],
    seed: int,
    labels: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    out: Path,
    retrieved: int = 0,
    embeddings: str | None = None,
    documents: Path | None = None,
    shown_documents: int = 0,
    system_prompt: str = "",
    prompts: Sequence[str] = (),
    without_labels: str = "",
    limit: int | None = None,
    answers: Mapping[str, Any] | None = None,
    simple: Mapping[str, Any] | None = None,
    restricted: Mapping[str, Any] | None = None,
    precision: str = "serving",
    stage: str = "few_shot_baseline",
) -> Job:
    """Try every prompt of :func:`finetune_pipeline.evaluation.prompts.prompts_to_try` with the base model, on `examples` (the
    validation split).

    train: source of shots and nearest examples. documents: folder of the task's documents; a prompt contains
    `shown_documents` of their passages. prompts: other system prompts to try instead of `system_prompt`; without_labels: one to
    try without examples. limit: use only the first rows in order of id. restricted: as in :func:`prompt_set`, for every prompt.
    answers: of :func:`kept_answers`.
    Writes out/predictions.parquet, one model name per prompt (``zero_shot``, ``8_shot``, ``3_nearest``,
    ``prompt_2_8_shot``), and out/prompts.json {name: prompt}; give the best one to :func:`prompt_set` for the test.
    """
    return _job("baseline", locals())


def train_job(
    *,
    base: Path,
    train: Path,
    validation: Path,
    settings: Mapping[str, Any],
    out: Path,
    work: Path,
    start_from: Path | None = None,
    stage: str = "adapter",
) -> Job:
    """Train with ``settings["method"]``, from scratch or (low-rank adapters) from the adapter in the folder `start_from`.

    settings: ``spec.training.model_dump()``; train, validation: examples files.

    Writes out/adapter (see training.model.save_trained), out/history.jsonl (one line per logged step), out/audit.json and
    out/audit.html. While it runs, it appends to work/history.jsonl and writes the checkpoints for a rerun into
    work/checkpoints. It also writes work/audit.html if the audit stops the job.
    """
    return _job("train", locals())


def merge_job(
    *,
    base: Path,
    adapter: Path,
    examples: Path,
    labels: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    out: Path,
    parity_rows: int = 32,
    precision: str = "serving",
    stage: str = "merged_model",
) -> Job:
    """Build the model to serve from `adapter` (the result of training, of any kind), and compare the two.

    Low-rank: merged into the unquantized base; full: used as it is; prompt: a plain model with added tokens. These write
    out/model (safetensors, config, tokenizer) and out/model.json. A prefix is copied to out/adapter. The comparison uses the
    first `parity_rows` of `examples` in order of id. Facts: see models.merging.merge_and_compare.
    """
    return _job("merge", locals())


def prompt_set(
    *,
    name: str,
    model: Path,
    adapter: Path | None = None,
    prompt: Mapping[str, Any] | None = None,
    served: str | None = None,
    hosted: Mapping[str, Any] | None = None,
    restricted: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a model with one prompt. name: the predictions' model column ("base", "candidate", "champion").

    adapter: a prefix before `model`. prompt: one of prompts.json; None: the task's own without examples. A prompt that retrieves
    examples needs `train` in :func:`predict_job`. served: the model's name at the job's endpoint, if there is one. hosted: the
    fields of models.hosted.HostedModel if its trainer serves it; `model` then only provides its tokenizer. restricted: a JSON
    schema. The predictions then also contain the answers decoded under it, with the model name of
    evaluation.predictions.restricted_name: finished answers that comply are kept, all others are generated again. If the
    schema or an endpoint does not support this, there are no such rows.
    """
    fields = {key: _as_json(value) for key, value in locals().items() if value is not None}
    return {"prompt": {}, **fields}


def perturbed_set(prompted: Mapping[str, Any], kind: str, rows: int, seed: int) -> dict[str, Any]:
    """Return the same model and prompt for `rows` of the job's examples that a perturbation (`kind`, of
    :mod:`finetune_pipeline.data.perturbations`) changes, with this perturbation. Scores no likelihoods of labels."""
    perturbed = {"kind": kind, "rows": rows, "seed": seed}
    return {**prompted, "name": set_name(prompted["name"], kind), "perturbed": perturbed, "likelihoods": False}


def other_rows_set(prompted: Mapping[str, Any], name: str, examples: Path) -> dict[str, Any]:
    """Return the same model and prompt for the rows of another file, named with `name` appended; without label likelihoods."""
    fields = {key: value for key, value in prompted.items() if key != "restricted"}
    return {**fields, "name": set_name(prompted["name"], name), "examples": _as_json(examples), "likelihoods": False}


def predict_job(
    *,
    sets: Sequence[Mapping[str, Any]],
    examples: Path,
    labels: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    out: Path,
    train: Path | None = None,
    passages: Path | None = None,
    limit: int | None = None,
    answers: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    simple: Mapping[str, Any] | None = None,
    precision: str = "serving",
    stage: str = "test_predictions",
) -> Job:
    """Answer every example with every set of :func:`prompt_set`, greedily.

    endpoint: None: answer with transformers; otherwise the fields of spec.evaluation.ServedModelsSpec, and no label is scored.
    train: examples for prompts that retrieve, and training rows of the simple models; passages: of the documents. simple
    {output, seed}: also answer with evaluation.simple_models, as models `simple_NAME`. labels: empty for free text; otherwise
    each label's log-likelihood (including the end-of-turn token) is scored too.
    Writes out/predictions.parquet (one row per example and set, sets in the given order, examples in file order); an
    example that cannot be answered gets a row with status ``error``.
    """
    job = _job("predict", locals())
    names = [s["name"] for s in sets]
    if len(set(names)) != len(names):
        raise ValueError(f"two prompt sets have the same name: {', '.join(names)}")
    return job


def latency_job(
    *,
    model: Path,
    prompts: Mapping[str, Mapping[str, Any]],
    examples: Path,
    train: Path,
    passages: Path,
    max_new_tokens: int,
    precision: str,
    calls: int,
    out: Path,
    stage: str = "ladder",
) -> Job:
    """Time single calls of a model with each of the `prompts` (prompts.json), one row after the other, without a cache."""
    return _job("latency", locals())


def ability_job(
    *,
    model: Path,
    adapter: Path | None,
    files: Sequence[Path],
    limit: int,
    suite: bool,
    batch_size: int,
    out: Path,
    answers: Mapping[str, Any] | None = None,
    precision: str = "serving",
    stage: str = "general_ability",
) -> Job:
    """Score a model (after a prefix `adapter`, unless None) on items of general ability.

    files: JSON Lines of benchmarks, at most `limit` rows of each; suite: also use the shipped items.
    Writes out/ability.jsonl (evaluation.ability.scoring.score_items).
    """
    return _job("ability", locals())
