"""BASELINE: the base model, its scores with prompting only, and whether training is worth it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from finetune_pipeline.baseline.decision import DECISIONS, Advised, advise
from finetune_pipeline.baseline.good_enough import worth_training
from finetune_pipeline.baseline.input_evidence import learnable, validation_evidence
from finetune_pipeline.baseline.simple_export import SimpleSource
from finetune_pipeline.data.answer_rules import schema_of
from finetune_pipeline.data.documents import FOLDER, PASSAGES, documents_digest, read_passages
from finetune_pipeline.data.examples import Example, examples_of, read_examples
from finetune_pipeline.data.split.splitting import SplitFacts
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.compare import shared_sources
from finetune_pipeline.evaluation.costs import SimpleCost
from finetune_pipeline.evaluation.endpoint_answers import ask_endpoint
from finetune_pipeline.evaluation.prediction_facts import AnsweredPrompts, ApiUsage
from finetune_pipeline.evaluation.predictions import (
    API,
    SIMPLE,
    PredictionRow,
    by_model,
    in_order,
    read_by_model,
    read_predictions,
    write_predictions,
)
from finetune_pipeline.evaluation.prompts import WITHOUT_LABELS, prompt_without_labels, read_prompts, write_prompts
from finetune_pipeline.evaluation.rivals import Baseline, BaselineScores, rivals_of, score_baselines, strongest_rival
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.simple_models import FITTED, SimpleModel, load_simple_model
from finetune_pipeline.evaluation.simple_models.encoders import encoder_files
from finetune_pipeline.evaluation.simple_models.text_encoder import files_digest
from finetune_pipeline.jobs import BaseJob, BaselineJob, ModelSet, PredictJob, Prompt, SimpleSettings
from finetune_pipeline.models.chat_templates import read_chat_template, template_identity
from finetune_pipeline.models.facts import PreparedBase
from finetune_pipeline.models.identity import model_record
from finetune_pipeline.planning.coverage import surest_rival
from finetune_pipeline.planning.gate_needs import obstacles
from finetune_pipeline.planning.power import power_plan
from finetune_pipeline.report.page import plain
from finetune_pipeline.report.stored import Evaluated
from finetune_pipeline.spec.baseline import PATIENCE
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.earlier_runs import answers_of


def make_base_model(context: StepContext) -> PreparedBase:
    """Prepare the base model, with the task's chat template, if set. Tasks with the same template text share the result."""
    spec, folder = context.spec, context.task.folder
    template = read_chat_template(spec.chat_template, folder)
    current = template_identity(spec.chat_template, folder).get("chat_template")
    context.refuse_changed(str(spec.chat_template), current, context.run_inputs.base.get("chat_template"))
    job = BaseJob(base_model=spec.base_model, revision=spec.base_revision, out=context.out, chat_template=template)
    facts, place = PreparedBase.of(context.launch(job)), model_record(context.out).path
    for name, digest in facts.files.items():
        path = Path(place, name)
        if place == "model":  # the artifact's own folder
            if not (context.out / path).is_symlink():
                continue  # a file of the artifact itself, which its manifest lists
            path = path.parent / (context.out / path).readlink()
        # links in the user's own folder, as in caches, are kept as they are and followed at every check
        context.builder.outside[os.path.normpath(path)] = digest
    return facts


def make_few_shot_baseline(context: StepContext) -> Baseline:
    """Run every prompt of the spec on the validation split; `best` names the one fine-tuning must beat."""
    spec = context.spec
    train, validation = split_file(context, "train"), split_file(context, "validation")
    documents = context.run_inputs.documents
    answered = context.launch(
        BaselineJob(
            base=context.inputs["base_model"].folder,
            examples=validation,
            train=train,
            shots=spec.baseline.shots,
            retrieved=spec.baseline.retrieved,
            embeddings=spec.baseline.embeddings,
            documents=context.task.folder / FOLDER if documents else None,
            shown_documents=spec.baseline.documents,
            system_prompt=spec.system_prompt,
            prompts=spec.baseline.prompts,
            without_labels=prompt_without_labels(spec),
            limit=spec.baseline.rows,
            seed=spec.baseline.seed,
            labels=spec.labels,
            max_new_tokens=spec.answer_length,
            batch_size=spec.baseline.batch_size,
            answers=answers_of(context.store),
            simple=simple_settings(context),
            precision=spec.evaluation.precision,
            restricted=json_schema(spec),
            out=context.out,
        )
    )
    context.refuse_changed("documents", documents_digest(context.task.folder), documents)
    rows = read_predictions(context.out / "predictions.parquet")
    api_usage = None
    examples = read_examples(validation)
    if spec.baseline.endpoint is not None:
        rows, api_usage = _add_api_answers(context, rows, read_examples(train), examples)
    facts = AnsweredPrompts.of(answered)
    scores = score_baselines(spec, by_model(in_order(rows)), {e.id: e.made_from for e in examples})
    return Baseline(
        **asdict(scores),
        rows=facts.rows,
        passages=facts.passages,
        documents_left_out=facts.documents_left_out,
        vectors=facts.vectors,
        left_out=facts.left_out,
        prompt_details={**facts.prompts, **(api_usage.prompts if api_usage else {})},
        api=api_usage,
    )


def json_schema(spec: TaskSpec) -> dict[str, object] | None:
    """Return the schema that answers are restricted to; None for labels and text."""
    return schema_of(spec.output) if isinstance(spec.output, JsonOutput) else None


def simple_costs(baseline: Artifact) -> dict[str, SimpleCost]:
    """Return what each simple model costs, as the baseline's process measured it."""
    costs = read_json(baseline.path("measured.json")).get("simple", {})
    return {name: SimpleCost.of(cost) for name, cost in costs.items()}


def simple_settings(context: StepContext, fitted: Path | None = None) -> SimpleSettings:
    spec, base = context.spec, context.inputs["base_model"].folder
    output, encoder = spec.output.model_dump(mode="json"), spec.baseline.encoder
    return SimpleSettings(output=output, seed=spec.split.seed, base=base, encoder=encoder, fitted=fitted)


def _add_api_answers(
    context: StepContext, rows: list[PredictionRow], train: Sequence[Example], validation: Sequence[Example]
) -> tuple[list[PredictionRow], ApiUsage]:
    """Let the API model answer the same examples, and add its prompts and rows to the files. Returns all rows and its usage."""
    prompts = read_prompts(context.out)
    # an API model answers freely, and can only write labels that it was shown
    shown = {name: prompt for name, prompt in prompts.items() if name != WITHOUT_LABELS}
    api_prompts = {API + name: replace(prompt, api=True) for name, prompt in shown.items()}
    gold = {row["example_id"]: row["gold"] for row in rows}
    examples = [e for e in validation if e.id in gold]
    answers, usage = ask_api(context, api_prompts, examples, train, gold, stage="few_shot_baseline")
    write_prompts(context.out, prompts | api_prompts)
    all_rows = [*rows, *answers]
    write_predictions(context.out / "predictions.parquet", all_rows)
    return all_rows, usage


def ask_api(
    context: StepContext,
    prompts: Mapping[str, Prompt],
    examples: Sequence[Example],
    train: Sequence[Example],
    gold: Mapping[str, str],
    test: bool = False,
    **options: Any,
) -> tuple[list[PredictionRow], ApiUsage]:
    """Get answers from the spec's API model, using the answer cache. options: more arguments of endpoint_answers.ask_endpoint.

    test: whether the examples are the sealed test, whose answers are cached apart from all others.
    """
    endpoint, length = context.spec.baseline.endpoint, context.spec.answer_length
    if endpoint is None:
        raise RuntimeError("the best prompt belongs to an API model, but baseline.endpoint was removed from task.yaml")
    cache = AnswerCache.of(answers_of(context.store, context.task.name if test else None))
    options |= {"cache": cache, "passages": read_passages(passages_file(context))}
    # called in this process, not in a child, so that the API key stays here
    return ask_endpoint(endpoint, prompts, examples, train, length, gold, **options)


def prediction_job(
    context: StepContext, sets: Sequence[ModelSet], examples: Path, out: Path, **options: Any
) -> PredictJob:
    """Return a job in which these models with their prompts (`sets`) answer a file of examples, with the spec's settings.

    options: more arguments of PredictJob.
    """
    spec = context.spec
    return PredictJob(
        sets=sets,
        examples=examples,
        labels=spec.labels,
        train=split_file(context, "train"),
        passages=passages_file(context),
        out=out,
        **answering_settings(spec),
        **options,
    )


def passages_file(context: StepContext) -> Path:
    """Return the file of the documents' passages: the baseline's, also while the baseline itself is made."""
    folder = context.inputs["few_shot_baseline"].folder if "few_shot_baseline" in context.inputs else context.out
    return folder / PASSAGES


def make_advice(context: StepContext) -> Advised:
    """Interpret the baseline: are the answers learnable, is training worth it, and can the test show the gain?"""
    spec, baseline = context.spec, context.inputs["few_shot_baseline"]
    rows = {n: scored(r, spec.output) for n, r in read_by_model(baseline.path("predictions.parquet")).items()}
    train, validation = (read_examples(split_file(context, name)) for name in ("train", "validation"))
    sources = {e.id: e.made_from for e in validation}
    rival = strongest_rival(spec, rows)
    counts = context.inputs["train_split"].read(SplitFacts).counts
    rivals = rivals_of(spec, rows)
    hindering = obstacles(spec, counts["test"], [*train, *validation], rivals)
    strongest = surest_rival(spec, rivals, sources, counts["test"]) if spec.by_coverage else rival
    power = power_plan(spec, counts["test"], strongest, shared_sources(strongest.rows, sources), hindering)
    facts = baseline.read(Baseline)
    signal = learnable(spec, train, validation_evidence(spec, facts.best, rows, sources))
    advice = advise(spec, facts, power, rows, counts, rival, signal, sources)
    reasons = [f"- {plain(reason)}" for reason in advice.reasons]
    return Advised(
        learnable=signal,
        worth_training=worth_training(spec, facts, rows, sources),
        power=power,
        advice=advice,
        advice_markdown="\n".join([f"**{plain(DECISIONS[advice.decision])}**", "", *reasons]),
    )


def best_simple_model(task: Task, store: ArtifactStore) -> tuple[SimpleModel, SimpleSource] | str:
    """Read the best fitted simple model, or return why there is none.

    The best is chosen by the score on the sealed test if the newest baseline was evaluated, else by that on validation.
    """
    spec = task.spec
    baseline = store.newest(task.name, "few_shot_baseline")
    if baseline is None or not (validation_scores := baseline.read(Baseline).simple):
        return f"{task.name} has no simple model yet: run `finetune advise {task.name}`"
    splits = store.find(task.name, "splits", baseline.inputs["train_split"])
    if splits is None:
        return f"the splits {baseline.inputs['train_split']} are missing from the artifact store: run `finetune run {task.name}`"
    train = read_examples(examples_of(store.check(splits).folder, "train"))
    if any(example.messages[-1].get("tool_calls") for example in train):
        return "answers with tool calls need a chat template, which a simple model does not have"
    report = store.newest(task.name, "evaluation_report", few_shot_baseline=baseline.version)
    tested = read_json(store.check(report).path("report.json"))["scores"] if report else {}
    test_scores = {
        name: BaselineScores.of(tested[SIMPLE + name]) for name in validation_scores if SIMPLE + name in tested
    }
    name = max(validation_scores, key=lambda name: test_scores.get(name, validation_scores[name]).rank)
    scores = {"validation": validation_scores[name]}
    if name in test_scores:
        scores["the sealed test"] = test_scores[name]
    model = load_simple_model(store.check(baseline).path(FITTED) / name)
    verdict = report.read(Evaluated).verdict if report else ""
    return model, SimpleSource(task.name, spec.description, splits.version, len(train), scores, verdict)


def baseline_settings(spec: TaskSpec) -> dict[str, object]:
    """Return the settings that affect the prompts' answers and scores, but not those that only later steps use."""
    return {
        **spec.baseline.model_dump(exclude={"ceiling": True, "endpoint": PATIENCE}),
        "system_prompt": spec.system_prompt if spec.baseline.prompts else None,
        "encoder_digest": _encoder_digest(spec),
        "without_labels": prompt_without_labels(spec),
        **output_settings(spec),
        "metric": spec.metric,
        "confidence": spec.gates.confidence,
        "precision": spec.evaluation.precision,
    }


def _encoder_digest(spec: TaskSpec) -> str | None:
    """Return the digest of the sentence encoder's files; None without one, or if it is missing, which `check` says."""
    try:
        return files_digest(encoder_files(spec.baseline.encoder)) if spec.baseline.encoder else None
    except (FileNotFoundError, ValueError):
        return None


def answering_settings(spec: TaskSpec) -> dict[str, Any]:
    return {
        "max_new_tokens": spec.answer_length,
        "batch_size": spec.baseline.batch_size,
        "precision": spec.evaluation.precision,
    }


def output_settings(spec: TaskSpec) -> dict[str, Any]:
    """Return the declared output, with the order of a JSON schema's keys, which digests ignore but constrained answers follow."""
    schema = json_schema(spec)
    return {"output": spec.output.model_dump(), "schema": json.dumps(schema) if schema is not None else None}


def advice_settings(spec: TaskSpec) -> dict[str, object]:
    """Return the settings that affect the interpretation of the baseline and the plan of the test."""
    gate_keys = {"confidence", "wanted_gain", "min_gain", "power", "enough_test_rows", "more_metrics", "parts"}
    gate_keys |= {
        "simple",
        "simple_margin",
        "min_valid_share",
        "min_rated",
        "min_accepted",
        "min_preferred",
        "min_score",
    }
    return {
        **spec.gates.model_dump(include=gate_keys),
        "judge_rows": spec.evaluation.judge.rows if spec.evaluation.judge else None,
        "test": spec.split.test,
        "ceiling": spec.baseline.ceiling,
        "advise": spec.advise.model_dump(),
        **({"coverage": spec.automation.promised()} if spec.by_coverage else {}),
    }


def best_prompt(context: StepContext) -> Prompt:
    baseline = context.inputs["few_shot_baseline"]
    return read_prompts(baseline.folder)[baseline.read(Baseline).best]
