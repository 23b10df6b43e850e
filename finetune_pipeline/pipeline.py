"""The pipeline: every step, top to bottom.

The versions of artifacts, Dagster's assets with their dependencies and checks, the jobs, the MLflow runs, the progress on the
command line and the reference page are derived from this table. To add a step, write its function and its row;
:class:`~.engine.step.Step` documents the fields.
In `settings`, `spec` is task.yaml, and `run` holds the inputs from outside the graph (:class:`~.engine.step.RunInputs`).
"""

from pathlib import Path

from finetune_pipeline.data.validate.validation import validation_settings
from finetune_pipeline.engine.graph import Graph
from finetune_pipeline.engine.step import SHARED, Step
from finetune_pipeline.engine.store import SKIPPED, ArtifactStore
from finetune_pipeline.evaluation.ability.drop import Scored
from finetune_pipeline.evaluation.prediction_facts import Predicted
from finetune_pipeline.evaluation.rivals import Baseline
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.plugins import plugin_versions
from finetune_pipeline.production.choosing import settings as log_settings
from finetune_pipeline.spec.model import Task
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.steps import (
    ability,
    baseline,
    data,
    evaluation,
    ladder,
    pilot,
    preferences,
    production,
    release,
    reviews,
    teacher,
    training,
)
from finetune_pipeline.steps import data_checks as data_check
from finetune_pipeline.steps import evaluation_checks as evaluation_check
from finetune_pipeline.steps import training_checks as training_check
from finetune_pipeline.steps.data import DATA_STEPS
from finetune_pipeline.steps.run_inputs import base_of
from finetune_pipeline.steps.rungs import ladder_settings
from finetune_pipeline.steps.training import class_settings

LOGS, DATA, BASELINE, TRAINING = "logs", "data", "baseline", "training"
EVALUATION, RELEASE, PRODUCTION = "evaluation", "release", "production"
GROUPS = (LOGS, DATA, BASELINE, TRAINING, EVALUATION, RELEASE, PRODUCTION)
"""Groups of steps, in order: no step needs a step of a later group."""
RUNG_INPUTS = ("train_split", "validation_split", "base_model", "few_shot_baseline")
"""What every rung of the ladder reads: rows, base model and prompts."""
RUN_METRICS = {
    "test_accuracy": "models.candidate.accuracy",
    "test_accuracy_base": "models.base.accuracy",
    "test_accuracy_linear": "models.simple_linear.accuracy",
    "test_accuracy_tagger": "models.simple_tagger.accuracy",
    "gain": "comparison.gain",
    "gain_low": "comparison.interval[0]",
    "gain_high": "comparison.interval[1]",
    "test_rows": "comparison.n",
}
"""Figures of an evaluation that the MLflow run of the whole graph shows: MLflow's name, and the place in the step's facts."""

STEPS = [
    Step(
        "production_logs",
        LOGS,
        "Complete log lines, scrubbed, with hashed users. Corrections become examples.",
        production.make_production_logs,
        settings=lambda spec, run: {"logs": run.logs, **log_settings(spec)},
        code_version="13",
        checks=(data_check.nothing_held_back, data_check.logs_accounted),
        kinds=("jsonl",),
    ),
    Step(
        "unlabelled_rows",
        DATA,
        "Rows for the teacher to answer, or that it has answered in the logs: scrubbed, without repeats. None without `teacher`.",
        teacher.make_unlabelled,
        after=("production_logs",),
        settings=lambda spec, run: teacher.unlabelled_settings(spec, run.unlabelled),
        checks=(data_check.unlabelled_accounted,),
        kinds=("jsonl",),
    ),
    Step(
        "teacher_answers",
        DATA,
        "The teacher's answers that are in form and on which it agrees with itself, as synthetic examples. None without `teacher`.",
        teacher.make_teacher_answers,
        needs=("unlabelled_rows",),
        settings=lambda spec, run: teacher.teacher_settings(spec),
        checks=(data_check.answers_accounted,),
        kinds=("openai", "jsonl"),
    ),
    Step(
        "raw_examples",
        DATA,
        "Snapshot of the raw files, the corrected production rows and the teacher's rows, with digests.",
        data.make_raw,
        needs=("teacher_answers",),
        after=("production_logs",),
        settings=lambda spec, run: {
            "files": run.raw,
            "corrections": run.corrections,
            **spec.data.model_dump(include={"raw", "benchmarks", "fields", "csv", "sheet", "max_unpacked_gib"}),
        },
        code_version="9",
        kinds=("jsonl",),
    ),
    Step(
        "validated_examples",
        DATA,
        "Canonical examples as JSON Lines. Bad rows go to quarantine with file, line, rule and fix.",
        data.make_validated,
        needs=("raw_examples",),
        settings=lambda spec, run: {**validation_settings(spec), **plugin_versions("formats")},
        code_version="27",
        checks=(
            data_check.files_read,
            data_check.validated_accounted,
            data_check.quarantine_share,
            data_check.system_prompt_present,
        ),
        kinds=("jsonl", "python"),
    ),
    Step(
        "clean_examples",
        DATA,
        "Examples without personal data, secrets, duplicates and contradictions.",
        data.make_clean,
        needs=("validated_examples", "raw_examples"),
        settings=lambda spec, run: {
            "kind": spec.output.kind,
            **spec.data.model_dump(
                include={"near_duplicate_threshold", "scrub", "scrub_names", "scrub_region", "contradictions"}
            ),
        },
        code_version="18",
        checks=(data_check.clean_accounted, data_check.quarantine_share, data_check.no_personal_data),
        kinds=("jsonl", "python"),
    ),
    Step(
        "reviewed_examples",
        DATA,
        "Applies the reviewers' decisions in `reviews/`.",
        data.make_reviewed,
        needs=("clean_examples",),
        settings=lambda spec, run: {"reviews": run.reviews},
        code_version="6",
        checks=(data_check.enough_examples, data_check.enough_per_label, data_check.reviews_applied),
        kinds=("jsonl",),
    ),
    Step(
        "splits",
        DATA,
        "Train, validation and sealed test split by duplicate cluster, stratified by label. Rows never change their split.",
        data.make_splits,
        needs=("reviewed_examples", "clean_examples"),
        settings=lambda spec, run: {
            **spec.split.model_dump(exclude={"restart"}),
            "ledger": run.split_ledger,
            **spec.data.model_dump(include={"near_duplicate_threshold"}),
            **({"teacher": True} if spec.teacher else {}),
        },
        code_version="18",
        checks=(
            data_check.no_leakage,
            data_check.few_rows_left,
            data_check.time_decides,
            data_check.named_files_are_the_test,
            data_check.quarantine_share,
            data_check.splits_accounted,
            data_check.people_judge,
            data_check.split_sizes,
        ),
        kinds=("jsonl",),
        datasets=("train", "validation", "test"),
    ),
    *(
        Step(f"{split}_split", DATA, description, view_of="splits", split=split, kinds=("jsonl",))
        for split, description in {
            "train": "Rows for training and in-context examples.",
            "validation": "Rows that choose the best prompt and the best checkpoint.",
            "test": "Sealed: only `test_predictions` opens it, and records every opening.",
        }.items()
    ),
    Step(
        "base_model",
        BASELINE,
        "The untrained model: safetensors, tokenizer, chat template and digests.",
        baseline.make_base_model,
        settings=lambda spec, run: run.base,
        code_version="2",
        checks=(training_check.safe_weights,),
        kinds=("huggingface", "safetensors"),
        heavy=True,
        shared=True,
    ),
    Step(
        "data_quality",
        BASELINE,
        "Report on the whole data set: balance, wrong labels, labels in inputs, style of answers, synthetic rows, tokens, cost.",
        data.make_data_quality,
        needs=(*DATA_STEPS, "base_model"),
        settings=lambda spec, run: data.quality_settings(spec),
        code_version="13",
        checks=data_check.QUALITY_CHECKS,
        kinds=("html", "python"),
    ),
    Step(
        "few_shot_baseline",
        BASELINE,
        "Scores of the base model with every prompt of the spec, and of simple models, on validation.",
        baseline.make_few_shot_baseline,
        needs=("train_split", "validation_split", "base_model"),
        after=("data_quality",),
        settings=lambda spec, run: {
            **baseline.baseline_settings(spec),
            "passages": run.documents,
            **plugin_versions("metrics"),
        },
        code_version="24",
        checks=(training_check.baseline_answered,),
        kinds=("huggingface", "parquet"),
        heavy=True,
        failed=lambda artifact: artifact.read(Baseline).failed,
        metrics={"accuracy_linear": "simple.linear.accuracy", "accuracy_tagger": "simple.tagger.accuracy"},
        datasets=("validation",),
    ),
    # separate from the baseline, so that a changed gate or wanted gain is judged again without new answers
    Step(
        "advice",
        BASELINE,
        "Whether fine-tuning is worth it, and whether the test can show the gain. Nothing is trained if something simpler is "
        "good enough.",
        baseline.make_advice,
        needs=("train_split", "validation_split", "few_shot_baseline"),
        settings=lambda spec, run: {**baseline.advice_settings(spec), **plugin_versions("gates")},
        code_version="18",
        checks=(
            training_check.learnable,
            training_check.worth_training,
            training_check.advised,
            training_check.enough_test_rows,
        ),
        kinds=("python",),
    ),
    Step(
        "pilot",
        BASELINE,
        "Trainings on growing shares of the rows, and what all rows should reach; made only by `finetune advise --measure`.",
        pilot.make_pilot,
        needs=RUNG_INPUTS,
        settings=lambda spec, run: {
            "pilot": spec.ladder.pilot,
            "trainer": spec.training.trainer,
            **ladder_settings(spec),
            **decisive_settings(spec.training),
            **class_settings(spec),
            **baseline.answering_settings(spec),
        },
        code_version="8",
        kinds=("pytorch", "parquet"),
        heavy=True,
        asked_for=True,
    ),
    Step(
        "ladder",
        BASELINE,
        "No language model, prompt, retrieve, pilot: quality, cost and latency of each rung, the answer, and what would change it.",
        ladder.make_ladder,
        needs=(*RUNG_INPUTS, "pilot"),
        settings=lambda spec, run: {
            **baseline.advice_settings(spec),
            "seed": spec.split.seed,
            "description": spec.description,
            "promised": spec.automation.max_error is not None,
        },
        code_version="11",
        kinds=("html", "python"),
        heavy=True,
        asked_for=True,
        checks=(training_check.answered,),
    ),
    Step(
        "preference_rows",
        TRAINING,
        "What people like and dislike, from `preferences/` and the logs, without rows like those that judge. Only with "
        "training.refine.",
        preferences.make_preference_rows,
        needs=("reviewed_examples", "clean_examples", "train_split"),
        after=("production_logs",),
        skipped_by=("splits", preferences.why_no_preferences),
        settings=lambda spec, run: {
            "preferences": run.preferences,
            "method": spec.training.refine.method,
            **validation_settings(spec),
            **spec.data.model_dump(include={"near_duplicate_threshold", "scrub", "scrub_names", "scrub_region"}),
        },
        code_version="2",
        checks=(
            training_check.preferences_accounted,
            training_check.enough_preferences,
            training_check.not_swapped,
        ),
        kinds=("jsonl",),
    ),
    Step(
        "training_plan",
        TRAINING,
        "Token counts, steps, memory and cost; whether training fits, and the nearest plan that does.",
        training.make_training_plan,
        needs=("train_split", "validation_split", "base_model"),
        after=("preference_rows",),
        settings=training.plan_settings,
        code_version="18",
        checks=(training_check.plan_fits, training_check.no_truncation),
        shows=("plan.json",),
        kinds=("python",),
    ),
    Step(
        "supervised_adapter",
        TRAINING,
        "The first stage: the adapter trained on the training split. Only with training.refine; otherwise `adapter` is it.",
        training.make_supervised,
        needs=("train_split", "validation_split", "base_model"),
        after=("advice", "training_plan"),
        skipped_by=(
            "advice",
            lambda advice, spec: (
                training_check.why_untrained(advice, spec) or preferences.why_no_preferences(advice, spec)
            ),
        ),
        # without a second stage the same whether or not the advice is made
        settings=lambda spec, run: (
            {**decisive_settings(spec.training), **class_settings(spec)}
            if spec.training.refine.is_on
            else {SKIPPED: True}
        ),
        kinds=("pytorch", "huggingface"),
        heavy=True,
    ),
    Step(
        "refined_adapter",
        TRAINING,
        "The second stage: the first stage's adapter trained further on preferences, and compared with it on validation. Only with "
        "training.refine.",
        preferences.make_refined,
        needs=("validation_split", "base_model", "supervised_adapter", "preference_rows"),
        skipped_by=("supervised_adapter", lambda artifact, spec: artifact.skipped),
        # without a second stage the same whether or not the first one is skipped
        settings=lambda spec, run: (
            preferences.refined_settings(spec, run) if spec.training.refine.is_on else {SKIPPED: True}
        ),
        kinds=("pytorch", "huggingface"),
        heavy=True,
    ),
    Step(
        "adapter",
        TRAINING,
        "The trained adapter or weights: loss on the assistant's tokens only, best checkpoint kept. With training.refine: that of "
        "the second stage, if it is surely better.",
        preferences.make_adapter,
        needs=("train_split", "validation_split", "base_model", "supervised_adapter", "refined_adapter"),
        after=("advice", "training_plan"),
        skipped_by=("advice", training_check.why_untrained),
        settings=preferences.adapter_settings,
        code_version="10",
        checks=(
            training_check.supervision,
            training_check.loss_finite,
            training_check.learned,
            training_check.not_overfitted,
            training_check.only_adapter_tensors,
            training_check.four_bit,
        ),
        shows=("history.jsonl",),
        kinds=("pytorch", "huggingface"),
        heavy=True,
        run_metrics=("steps", "best_eval_loss", "last_train_loss", "trainable_parameters", "seconds"),
        datasets=("train", "validation"),
    ),
    Step(
        "merged_model",
        TRAINING,
        "The model to serve, compared with the trained one: merged (qlora, lora, classifier), unchanged (full), with added "
        "tokens (prompt), or base and adapter (prefix).",
        training.make_merged_model,
        needs=("adapter", "base_model", "validation_split"),
        skipped_by=("adapter", lambda artifact, spec: artifact.skipped),
        settings=lambda spec, run: {"labels": spec.labels, **baseline.answering_settings(spec)},
        code_version="10",
        checks=(training_check.merge_parity,),
        kinds=("safetensors", "huggingface"),
        heavy=True,
    ),
    Step(
        "tuned_rungs",
        EVALUATION,
        "The tuned model on the ladder's rows: plain, and with the nearest examples or passages.",
        ladder.make_tuned_rungs,
        needs=("ladder", "merged_model", *RUNG_INPUTS),
        skipped_by=("merged_model", lambda artifact, spec: artifact.skipped),
        settings=lambda spec, run: {
            **baseline.advice_settings(spec),
            "constrained": spec.decoded_schema is not None,
            "promised": spec.automation.max_error is not None,
        },
        code_version="9",
        kinds=("huggingface", "html"),
        heavy=True,
        asked_for=True,
    ),
    Step(
        "base_ability",
        EVALUATION,
        "General ability of the base model: multiple-choice items and plain text, scored by likelihood.",
        ability.make_base_ability,
        needs=("base_model",),
        settings=ability.ability_settings,
        code_version="5",
        checks=(evaluation_check.ability_scored,),
        kinds=("huggingface",),
        heavy=True,
        failed=lambda artifact: artifact.read(Scored).unscored,
    ),
    Step(
        "general_ability",
        EVALUATION,
        "The same items asked of the candidate: the loss of ability with its interval.",
        ability.make_general_ability,
        needs=("base_ability", "base_model", "merged_model"),
        settings=lambda spec, run: {
            **ability.ability_settings(spec, run),
            "confidence": spec.gates.confidence,
            "champion": run.champion_files if run.champion_kind == "tuned" else None,
        },
        code_version="9",
        checks=(evaluation_check.ability_kept,),
        kinds=("huggingface", "scipy"),
        heavy=True,
    ),
    Step(
        "test_predictions",
        EVALUATION,
        "Answers of base (best prompt), candidate and champion to the sealed test and to recent production rows. With "
        "training.refine: those of the first stage's model, too, if the second stage's is the candidate.",
        evaluation.make_test_predictions,
        needs=("test_split", "train_split", "base_model", "merged_model", "few_shot_baseline"),
        # the adapter's version contains that of the first stage
        after=("validation_split", "production_logs", "supervised_adapter", "adapter"),
        settings=lambda spec, run: {
            **baseline.output_settings(spec),
            **baseline.answering_settings(spec),
            "champion": run.champion_files,
            "served": spec.evaluation.settings(),
            "constrained": spec.decoded_schema is not None,
            "automation": spec.automation.max_error is not None,
            "perturbed": spec.robustness.asked(),
            "judging": [run.judging, spec.data.near_duplicate_threshold] if run.judging else None,
            "api_model": spec.baseline.endpoint is not None,
            **({"teacher": teacher.teacher_settings(spec)} if spec.teacher else {}),
            **({"stages": 2} if spec.training.refine.is_on else {}),
        },
        code_version="18",
        checks=(evaluation_check.all_predicted,),
        kinds=("parquet", "huggingface"),
        heavy=True,
        failed=lambda artifact: sum(artifact.read(Predicted).failed.values()),
        datasets=("test",),
    ),
    Step(
        "human_review",
        EVALUATION,
        "Blind ratings by people from `finetune review`, if there are any.",
        reviews.make_human_review,
        needs=("test_predictions",),
        settings=lambda spec, run: {
            "ratings": run.ratings,
            "confidence": spec.gates.confidence,
            "output": spec.output.model_dump(mode="json"),
        },
        code_version="3",
        checks=(evaluation_check.ratings_read,),
        kinds=("python",),
    ),
    Step(
        "judge_review",
        EVALUATION,
        "Base and candidate compared by a judge model that agrees with people, and by embeddings; off by default.",
        reviews.make_judge_review,
        needs=("test_predictions", "human_review"),
        settings=lambda spec, run: {
            "judge": spec.evaluation.judge.settings() if spec.evaluation.judge else None,
            "similarity": spec.evaluation.similarity,
            "confidence": spec.gates.confidence,
        },
        code_version="9",
        checks=(evaluation_check.judge_believed,),
        kinds=("openai",),
    ),
    Step(
        "evaluation_report",
        EVALUATION,
        "Scores with intervals, paired comparisons, gates and failures, as HTML, Markdown and JSON.",
        evaluation.make_evaluation_report,
        needs=(
            "test_predictions",
            "few_shot_baseline",
            "advice",
            "adapter",
            "merged_model",
            "general_ability",
            "human_review",
            "judge_review",
            *DATA_STEPS,
        ),
        after=("data_quality", "training_plan"),
        follows=("ladder",),
        settings=lambda spec, run: {
            "ladder": run.ladder,
            "gates": spec.gates.model_dump(),
            "robustness": spec.robustness.model_dump(),
            "automation": spec.automation.promised(),
            "output": spec.output.model_dump(),
            "ceiling": spec.baseline.ceiling,
            "calls_per_month": spec.advise.calls_per_month,
            "description": spec.description,
            "never_break": run.never_break,
            "promoted": run.promoted,
            "champion_forgotten": run.champion_forgotten,
            "agreement": run.agreement,
            **plugin_versions("metrics", "gates"),
        },
        code_version="40",
        checks=evaluation_check.GATE_CHECKS,
        metrics={**RUN_METRICS, "test_openings": "seal.count", "total_seconds": "cost.seconds"},
        run_metrics=tuple(RUN_METRICS),
        shows=("plots", "gates.json", "report.html"),
        kinds=("html", "markdown"),
    ),
    Step(
        "model_version",
        RELEASE,
        "Registers in MLflow what the evaluation ships, or else the trained model, as `candidate`. `champion` moves only to a "
        "model that is shipped.",
        release.make_model_version,
        needs=("evaluation_report", "adapter", "merged_model"),
        after=("base_model", "few_shot_baseline", "train_split"),
        settings=lambda spec, run: {
            "card": spec.card.model_dump(),
            "description": spec.description,
            **({"rollout": True} if spec.rollout else {}),
        },
        code_version="13",
        checks=(
            evaluation_check.nothing_forgotten,
            evaluation_check.aliases_consistent,
            evaluation_check.champion_serves_well,
        ),
        shows=("model_version.json",),
        kinds=("mlflow",),
    ),
    Step(
        "drift_report",
        PRODUCTION,
        "Whether production has drifted from the training data.",
        production.make_drift_report,
        needs=("production_logs",),
        follows=("train_split",),
        settings=lambda spec, run: {
            "output": spec.output.model_dump(),
            "drift": spec.drift.model_dump(exclude={"action"}),
            "rows_after_drift": spec.retraining.rows_after_drift,
            "trained_on": run.trained_on,
            "champion": run.champion,
            "promised": spec.automation.max_error is not None,
        },
        code_version="15",
        checks=(evaluation_check.drift,),
        kinds=("scipy",),
    ),
    Step(
        "retraining_decision",
        PRODUCTION,
        "Whether to train again or wait, with the reasons.",
        production.make_retraining_decision,
        needs=("drift_report", "production_logs"),
        follows=("model_version",),
        settings=lambda spec, run: {
            "min_new_rows": spec.logs.min_new_rows,
            **spec.retraining.model_dump(include={"min_gain", "rows_after_drift"}),
            "seed": spec.split.seed,
            "trained_on": run.trained_on,
            "champion": run.champion,
        },
        code_version="4",
        shows=("decision.json",),
        kinds=("python",),
    ),
]

PIPELINE = Graph(STEPS)
CHECKS = [(step.name, check) for step in STEPS for check in step.checks]
"""Every check, after the name of its step."""


def base_model_folder(task: Task, store: ArtifactStore) -> Path | None:
    """Return the folder of the task's base model if it is already made. Reads no other input from outside the graph."""
    step = PIPELINE.steps["base_model"]
    if not store.all_versions(SHARED, step.name):
        return None  # no base model was ever made: spare the digest of the weights
    try:
        identity = base_of(task)
    except (FindingsError, OSError, ValueError):
        return None
    base = store.find(SHARED, step.name, store.version(step.name, step.code_version, {}, identity))
    return base.folder if base else None
