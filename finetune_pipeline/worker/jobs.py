"""Jobs for the child process (``python -m finetune_pipeline.worker.entry JOB.json``), as plain JSON dictionaries.

No torch here: assets and the command line build jobs with these functions. Common to all of them:

stage   name under which progress is told (the asset's name)
out     folder for the results; ``result.json`` (the facts; the same for the same inputs, whatever the machine's mood),
        ``measured.json`` (seconds, peak_memory_mib, threads), and ``error.json`` {kind, message, findings} on failure
work    folder that outlives a kill, or None where the action has nothing to take up again

A *model folder* is either an artifact of the ``base_model`` or ``merge`` action (it holds ``model.json``), or any folder
in the transformers format. Paths become absolute strings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.data.perturbations import set_name

Job = dict[str, Any]
ACTIONS = ("base_model", "baseline", "train", "merge", "predict", "latency", "ability")


def _plain(value: Any) -> Any:
    """A value as JSON holds it; paths become absolute."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _job(action: str, arguments: Mapping[str, Any]) -> Job:
    """The job that a function below describes: its arguments, under their names."""
    return {"action": action, **{name: _plain(value) for name, value in arguments.items()}}


def base_job(
    *, base_model: str, revision: str | None, out: Path, chat_template: str | None = None, stage: str = "base_model"
) -> Job:
    """Bring the base model: a bundled one, a local folder, or a hub id, see :func:`finetune_pipeline.models.base.prepare_base`.
    `chat_template`: text of a template that takes the place of the model's own."""
    return _job("base_model", locals())


def kept_answers(*, folder: Path, key_file: Path, scope: str, limit_mib: int) -> dict[str, Any] | None:
    """Where a job that asks a model keeps answers (:mod:`finetune_pipeline.evaluation.answer_cache`); None: nowhere.
    key_file: the store's key. scope: only jobs with the same one find the answers."""
    if not limit_mib:
        return None
    return dict(_plain(locals()))


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
    limit: int | None = None,
    answers: Mapping[str, Any] | None = None,
    simple: Mapping[str, Any] | None = None,
    restricted: Mapping[str, Any] | None = None,
    precision: str = "serving",
    stage: str = "few_shot_baseline",
) -> Job:
    """Prompt the base model in every way of :func:`finetune_pipeline.evaluation.prompts.prompts_to_try`, on `examples`
    (the validation split).

    `train`: where shots and nearest examples are drawn from. `documents`: folder with the task's documents, of which
    `shown_documents` passages are shown. `prompts`: other system prompts, tried in place of `system_prompt`. `limit`: only the
    first rows in order of id. restricted: as of :func:`prompt_set`, for every prompt. answers: of :func:`kept_answers`.
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
    """Train by ``settings["method"]``, from scratch or (low-rank adapters) on from the adapter folder `start_from`.

    `settings` is ``spec.training.model_dump()``; `train` and `validation` are examples files.

    Writes out/adapter (see training.model.save_trained), out/history.jsonl (one line per logged step), out/audit.json and
    out/audit.html. While running, work/history.jsonl grows (with `seconds` since the start), work/checkpoints holds what a
    rerun takes up, and work/audit.html is there even when the audit stops the job.
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
    """Make `adapter` (what training left, of any kind) the model that is served, and compare the two.

    Low-rank: merged into the unquantized base; full: taken over; prompt: a plain model with added tokens. These write
    out/model (safetensors, config, tokenizer) and out/model.json. A prefix is copied to out/adapter. The comparison runs on
    the first `parity_rows` of `examples` in order of id. Facts: see models.merging.merge_and_compare.
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
    """One model prompted in one way: `name` is the predictions' model column ("base", "candidate", "champion").

    `adapter`: a prefix in front of `model`. `prompt`: one of prompts.json, None for the task's own without examples; one
    that retrieves wants `train` in :func:`predict_job`. `served`: its name at the job's endpoint, where it has one.
    `hosted`: the fields of models.hosted.HostedModel where its trainer serves it; `model` then lends its tokenizer.
    `restricted`: a JSON schema. The predictions then also hold the model's answers decoded under it, with the model name
    of evaluation.predictions.restricted_name: a finished answer that complies is taken as it is, every other is made anew.
    Where the schema or an endpoint does not allow it, there are no such rows.
    """
    given = {key: _plain(value) for key, value in locals().items() if value is not None}
    return {"prompt": {}, **given}


def perturbed_set(prompted: Mapping[str, Any], kind: str, rows: int, seed: int) -> dict[str, Any]:
    """The same model and prompt, asked `rows` of the job's examples that the perturbation can change, as one of
    :mod:`finetune_pipeline.data.perturbations` writes them. No label's likelihood is scored."""
    perturbed = {"kind": kind, "rows": rows, "seed": seed}
    return {**prompted, "name": set_name(prompted["name"], kind), "perturbed": perturbed, "likelihoods": False}


def other_rows_set(prompted: Mapping[str, Any], name: str, examples: Path) -> dict[str, Any]:
    """The same model and prompt, asked the rows of another file; its name gets `name` behind it. No label's likelihood is
    scored."""
    asked = {key: value for key, value in prompted.items() if key != "restricted"}
    return {**asked, "name": set_name(prompted["name"], name), "examples": _plain(examples), "likelihoods": False}


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

    endpoint: None answers with transformers; otherwise the fields of spec.evaluation.ServedModelsSpec: then no label is scored.
    `train`: where prompts that retrieve find their examples, and what the simple models are fitted on; `passages`: those of
    the documents. `simple` {output, seed}: let evaluation.simple_models answer, too, as models `simple_NAME`. `labels`: empty
    for free text; otherwise each label's log-likelihood (end-of-turn token included) is scored too.
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
    """Time single calls of a model under each of the `prompts` (prompts.json), one row after the other, none from a cache."""
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
    harness: Mapping[str, Any] | None = None,
) -> Job:
    """Score a model (with a prefix `adapter` in front of it, or None) on items of general ability.

    files: JSON Lines of benchmarks, at most `limit` rows of each; suite: with the items that ship.
    harness: tasks of lm-evaluation-harness {folder (of the task), tasks (globs in it), limit, chat}; None: none.
    Writes out/ability.jsonl (evaluation.ability.scoring.score_items).
    """
    return _job("ability", locals())
