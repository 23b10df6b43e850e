"""EVALUATION: predictions of all models on the sealed test, and the report with its gates."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from finetune_pipeline.baseline.decision import Advised
from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.data.dedup.row_table import prompt_hash
from finetune_pipeline.data.examples import examples_of, read_examples, stream_examples, write_examples
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.split.ledger import ENTRY, LEDGER, SPLITS, read_ledger
from finetune_pipeline.engine.files import digest_json, read_json, write_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.calibration import ReleasedProbability, released_probability
from finetune_pipeline.evaluation.decisions import Promoted
from finetune_pipeline.evaluation.evaluate_run import MODELS, evaluate_task
from finetune_pipeline.evaluation.failures.atlas import failure_atlas, shown_rows
from finetune_pipeline.evaluation.finalists import contenders, with_candidate
from finetune_pipeline.evaluation.gates import GateResult, decide, decide_finalists, held_back_by_defaults
from finetune_pipeline.evaluation.prediction_facts import Predicted
from finetune_pipeline.evaluation.predictions import (
    SIMPLE,
    PredictionRow,
    by_model,
    in_order,
    of_model,
    read_predictions,
    read_test_rows,
    restricted_name,
    write_test_rows,
)
from finetune_pipeline.evaluation.preferences.judge import JudgeReview
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION
from finetune_pipeline.evaluation.production_rows import (
    PRODUCTION_SET,
    RecentRows,
    as_examples,
    read_logged_rows,
    sources_of,
    unseen_rows,
)
from finetune_pipeline.evaluation.prompts import Neighbours, TrainingRow
from finetune_pipeline.evaluation.regression_ledger import outcomes_of, record, recorded
from finetune_pipeline.evaluation.result import EvaluationResult, StepFacts
from finetune_pipeline.evaluation.rivals import Baseline, simple_rows
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.sealed import Judgement, open_sealed, openings, record_judgement
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.evaluation.simple_models import FITTED
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher, teacher_file
from finetune_pipeline.evaluation.winner import gates_of, row_of, winner_of
from finetune_pipeline.jobs import FittedSet
from finetune_pipeline.models.facts import MergedModel
from finetune_pipeline.production.used_rows import judging_rows, learned_by
from finetune_pipeline.report.evaluation_page import evaluation_page, evaluation_plots
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.report.stored import REPORT, SHOWN_ROWS, Evaluated, Report
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.asked_models import (
    add_answers,
    add_api_answers,
    base_set,
    champion_set,
    endpoint_of,
    first_stage_sets,
    perturbed_sets,
    trained_set,
    while_served,
)
from finetune_pipeline.steps.baseline import best_prompt, prediction_job, simple_settings
from finetune_pipeline.steps.data import DATA_STEPS, sealing_key, split_file
from finetune_pipeline.steps.earlier_runs import RECORD, answers_of, champion_release
from finetune_pipeline.steps.evaluation_costs import cost_of
from finetune_pipeline.steps.teacher_rival import ask_about_test
from finetune_pipeline.training.audit import SplitAudit
from finetune_pipeline.training.facts import training_of

PLOTS = "plots"
_PLANNING_KEYS = {"worth_training", "learnable", "wanted_gain", "power", "enough_test_rows"}
"""Keys of gates that are judged before training."""
_ASKING_KEYS = {"batch_size", "max_new_tokens"}
"""Keys of baseline that say how models are asked."""
RECENT, RECENT_FACTS = "recent_rows.jsonl", "production.json"
"""Recent production rows that the models answer (a temporary file), and facts about them (kept)."""


def make_test_predictions(context: StepContext) -> SealedAnswers:
    """Let base (best prompt), candidate, champion and simple models answer the same sealed rows, in the same order. There is no
    candidate where nothing was trained. If it is a second stage's model, the first stage's answers, too.

    A model set is one of these models with its prompt (jobs.ModelSet); perturbed and production rows get further sets.
    """
    spec = context.spec
    candidate, base = context.inputs["merged_model"], context.inputs["base_model"]
    sealed = context.inputs["test_split"]
    best, model_sets = best_prompt(context), []
    if not best.api:
        model_sets.append(base_set(spec, "base", base, best))
    kinds: dict[str, str] = {}
    if not candidate.skipped:
        model_sets.append(trained_set(spec, "candidate", candidate, base, spec.decoded_schema))
        kinds["candidate"] = candidate.read(MergedModel).kind
        if spec.automation.max_error is not None:  # they calibrate, and say with which threshold to begin
            validation = split_file(context, "validation")
            model_sets.append(replace(model_sets[-1], name=ON_VALIDATION, examples=validation))
    fitted: list[FittedSet] = []  # the champion, if it is a simple model
    if context.run_inputs.champion:
        champion, kinds["champion"] = champion_set(context)
        if isinstance(champion, FittedSet):
            fitted.append(champion)
        else:
            model_sets.append(champion)
    model_sets = [each for model_set in model_sets for each in (model_set, *perturbed_sets(spec, model_set))]
    first_stage = first_stage_sets(context, context.builder.work / "first_stage")
    opened = open_sealed(
        examples_of(sealed.folder, "test"),
        context.store.state_folder(context.task.name),
        context.builder.work,
        sealing_key(context),
        test=sealed.version,
        judgement=_judgement(context),
        reason="evaluation of a candidate" if not candidate.skipped else "evaluation without training",
    )
    with opened as test_file, ExitStack() as services:
        if recent := None if candidate.skipped else _recent_rows_file(context, test_file):
            model_sets += [each.on_file(PRODUCTION_SET, recent) for each in model_sets if each.name in MODELS]
            fitted += [each.on_file(PRODUCTION_SET, recent) for each in fitted if each.name in MODELS]
        asked = while_served(context, model_sets, services)
        kept, endpoint = answers_of(context.store, context.task.name), endpoint_of(spec)
        kept, endpoint = answers_of(context.store, context.task.name), endpoint_of(spec)
        asked = [*while_served(context, model_sets, services), *([] if endpoint else first_stage)]
        job = prediction_job(
            context,
            asked,
            test_file,
            context.out,
            answers=kept,
            endpoint=endpoint,
            simple=simple_settings(context, context.inputs["few_shot_baseline"].path(FITTED)),
            fitted=fitted,
        )
        facts = Predicted.of(context.launch(job))
        if endpoint and first_stage:
            job = prediction_job(context, first_stage, test_file, context.builder.work, answers=kept)
            facts = replace(facts, sets={**facts.sets, **add_answers(context, job)})
        api = add_api_answers(context, test_file)
        teacher = ask_about_test(context, test_file)
        write_test_rows(test_file, context.out)
    (context.builder.work / RECENT).unlink(missing_ok=True)
    return SealedAnswers(
        rows=facts.rows,
        sets=facts.sets,
        vectors=facts.vectors,
        left_out=facts.left_out,
        kinds=kinds,
        champion=dict(context.run_inputs.champion or {}),
        api=api,
        teacher=teacher,
        untrained=candidate.skipped,
    )


def _judgement(context: StepContext) -> Judgement:
    """Return how the candidate is judged. Settings of how models are asked are no part of it: they make no new chance."""
    spec, run_inputs = context.spec, context.run_inputs
    rules: dict[str, object] = {
        "gates": spec.gates.model_dump(exclude_defaults=True, exclude={*_PLANNING_KEYS, "metric", "never_break"}),
        "robustness": spec.robustness.model_dump(exclude_defaults=True),
        "rivals": spec.baseline.model_dump(exclude_defaults=True, exclude={*_ASKING_KEYS, "ceiling", "endpoint"}),
        "api": spec.baseline.endpoint.model if spec.baseline.endpoint else None,
        "judge": spec.evaluation.judge.settings() if spec.evaluation.judge else None,
        "champion": [run_inputs.champion["adapter"], run_inputs.champion_forgotten] if run_inputs.champion else None,
        "output": spec.output.model_dump(),
        "never_break": run_inputs.never_break,
    }
    if spec.teacher is not None:
        rules["teacher"] = spec.teacher.name
    if promised := spec.automation.promised():
        rules["automation"] = promised
    trained = context.inputs["merged_model"].inputs["adapter"]
    return Judgement(trained, spec.judged_metric, None if run_inputs.promoted else digest_json(rules)[:16])


def _recent_rows_file(context: StepContext, test_file: Path) -> Path | None:
    """Write the recent production rows that the models answer, and production.json about them. Returns the file, or None if
    there are no such rows."""
    champion_trained_on = learned_by(context.store, context.task.name, context.run_inputs.champion)
    logged_rows = read_logged_rows(context.inputs["production_logs"].path("judging.jsonl"))
    rows = judging_rows(context.spec, logged_rows, champion_trained_on)
    if not rows:
        return None
    known_files = [*(split_file(context, name) for name in ("train", "validation")), test_file]
    chosen = unseen_rows(context.spec, rows, known_files)
    examples, path = as_examples(context.spec, chosen), context.builder.work / RECENT
    ids, sources = [row["id"] for row in chosen.rows], sources_of(chosen, examples)
    write_json(context.out / RECENT_FACTS, RecentRows(rows=chosen.facts(), sources=sources, ids=ids).to_json())
    if not examples:
        return None
    write_examples(path, examples)
    return path


def make_evaluation_report(context: StepContext) -> Evaluated:
    """Compute scores, comparisons, gates and pages from the predictions and earlier steps' facts, without a model.

    Also record in the task's state which test rows the candidate has right, for the reports of later candidates.
    """
    predictions = context.inputs["test_predictions"]
    production_facts = predictions.folder / RECENT_FACTS
    state, judgement = context.store.state_folder(context.task.name), _judgement(context)
    candidate, champion = judgement.candidate, context.run_inputs.champion
    test_rows, output = read_test_rows(predictions.folder), context.spec.output
    answers = rows = scored(read_predictions(predictions.path("predictions.parquet")), output)
    untrained, without_training = "", []
    answered = predictions.read(SealedAnswers)
    if answered.untrained:
        untrained = context.inputs["advice"].read(Advised).worth_training.reason
        by_name = by_model(in_order(answers))
        baseline = context.inputs["few_shot_baseline"].read(Baseline)
        without_training = list(contenders(context.spec, baseline, by_name, simple_rows(by_name)))
        rows = with_candidate(answers, without_training[0])
    record_judgement(
        state,
        sorted(test_rows.texts),
        test=context.inputs["splits"].version,
        judgement=judgement,
        reason="judged again by other rules",
    )
    openings_so_far = openings(state, context.inputs["splits"].version)
    # in the order of their first opening
    candidates = dict.fromkeys(entry["candidate"] for entry in openings_so_far)
    train, validation = (
        read_examples(examples_of(context.inputs["splits"].folder, name)) for name in ("train", "validation")
    )
    training = [TrainingRow(e.id, e.user_text, e.answer) for e in train]
    evaluate = partial(
        evaluate_task,
        facts=_step_facts(context, answers),
        openings=openings_so_far,
        rules=judgement.rules,
        champion_forgotten=context.run_inputs.champion_forgotten,
        champion_kind=context.run_inputs.champion_kind if champion else None,
        champion_name=champion.get("name") if champion else None,
        champion_learned=_learned_by_champion(context, test_rows.texts),
        champion_probability=_champion_probability(context) if context.spec.by_coverage else None,
        promoted=Promoted(**context.run_inputs.promoted) if context.run_inputs.promoted else None,
        untrained=untrained,
        sources=test_rows.sources,
        files=test_rows.files,
        validation=on_validation(context.inputs["few_shot_baseline"]),
        validation_sources={example.id: example.made_from for example in validation},
        never_break=context.run_inputs.never_break,
        earlier=recorded(state, list(takewhile(lambda name: name != candidate, candidates))),
        production_rows=RecentRows.read(production_facts) if production_facts.exists() else None,
        teacher=_teacher(predictions),
        versions={
            **{name: artifact.version for name, artifact in context.inputs.items()},
            "champion": str(champion["model_version"]) if champion else None,
        },
    )

    def evaluated(spec: TaskSpec, rows: Sequence[ScoredRow]) -> EvaluationResult:
        atlas = failure_atlas(of_model(rows, "candidate"), output, test_rows.texts, Neighbours(training))
        return decide_finalists(spec, evaluate(spec, predictions=rows, atlas=atlas))

    evaluation = evaluated(context.spec, rows)
    gates = decide(context.spec, evaluation)
    winner = winner_of(evaluation, gates)
    for contender in without_training[1:]:
        if (contender.kind, contender.name) == (winner.kind, winner.name):  # the report is about what is shipped
            rows = with_candidate(answers, contender)
            evaluation = evaluated(context.spec, rows)
    record(state, candidate, outcomes_of(of_model(rows, "candidate"), output))
    winner_gates = gates_of(winner, evaluation, gates)
    if evaluation.loosened.thresholds:

        def judge(spec: TaskSpec) -> Sequence[GateResult]:
            judged = evaluated(spec, rows)
            return gates_of(winner, judged, decide(spec, judged))

        held_back = held_back_by_defaults(context.spec, winner_gates, judge)
        loosened = evaluation.loosened.model_copy(update={"held_back_by": held_back})
        evaluation = evaluation.model_copy(update={"loosened": loosened})
    report = Report.of(evaluation, gates)
    shown = shown_rows(evaluation, rows, output, test_rows.texts, training)
    stored, page = report.to_json(), evaluation_page(evaluation, gates, shown, _current_ladder(context))
    (context.out / SHOWN_ROWS).write_text(shown.model_dump_json(), "utf-8")
    write_json(context.out / REPORT, stored)
    write_json(context.out / "gates.json", stored["gates"])
    (context.out / "report.html").write_text(page_html(page), "utf-8")
    (context.out / "report.md").write_text(page_markdown(page), "utf-8")
    for name, plot in evaluation_plots(evaluation, row_of(winner)).items():
        (context.out / PLOTS).mkdir(exist_ok=True)
        (context.out / PLOTS / f"{name}.svg").write_text(plot, "utf-8")
    return Evaluated.from_report(report, winner_gates)


def on_validation(baseline: Artifact) -> list[PredictionRow]:
    """Return the answers of the best prompt and of the simple models to validation rows, under the names of the test's."""
    best = baseline.read(Baseline).best
    names = {best: "base", restricted_name(best): restricted_name("base")}
    rows = read_predictions(baseline.path("predictions.parquet"))
    kept = [row for row in rows if row["model"] in names or row["model"].startswith(SIMPLE)]
    return [{**row, "model": names.get(row["model"], row["model"])} for row in kept]


def _teacher(predictions: Artifact) -> tuple[Sequence[Mapping[str, object]], AskedTeacher] | None:
    """Return the teacher's answers to the sealed rows and facts about them; None if it was not asked."""
    asked = predictions.read(SealedAnswers).teacher
    return (read_predictions(teacher_file(predictions.folder)), asked) if asked else None


def _learned_by_champion(context: StepContext, texts: Mapping[str, str]) -> set[str]:
    """Return the ids of test rows with a prompt that the champion was trained on, or chosen by. texts: of the test rows, by id.

    `finetune forget` may have removed its splits: then every row counts that was ever for training or validation.
    """
    store, task, champion = context.store, context.task.name, context.run_inputs.champion
    if champion is None:
        return set()
    adapter = store.find(task, "adapter", champion["adapter"])
    splits = store.find(task, "splits", adapter.inputs["train_split"]) if adapter else None
    if splits is None:
        ledgers = [read_ledger(folder) for folder in store.state_folder(task).glob(f"{LEDGER}*") if folder.is_dir()]
        entries = np.concatenate([np.zeros(0, ENTRY), *ledgers])
        learned = set(entries["key"][entries["split"] != SPLITS.index("test")].tolist())
    else:
        files = (examples_of(splits.folder, name) for name in ("train", "validation"))
        learned = {prompt_hash(example.user_text) for file in files for example in stream_examples(file)}
    return {row_id for row_id, text in texts.items() if prompt_hash(text) in learned}


def _champion_probability(context: StepContext) -> ReleasedProbability | None:
    """Return the probability that the champion was released with. Raises RuntimeError if its release is missing."""
    if context.run_inputs.champion is None:
        return None
    return released_probability(read_json(champion_release(context).path(RECORD)))


def _current_ladder(context: StepContext) -> Ladder | None:
    version, baseline = context.run_inputs.ladder, context.inputs["few_shot_baseline"].version
    ladder = context.store.find(context.task.name, "ladder", version) if version else None
    if ladder is None or ladder.inputs["few_shot_baseline"] != baseline:
        return None
    return ladder.read(Ladder)


def _step_facts(context: StepContext, rows: Sequence[Mapping[str, object]]) -> StepFacts:
    """Collect the facts of earlier steps. rows: predictions, for the tokens of a request."""
    inputs = context.inputs
    adapter, review = inputs["adapter"], inputs["judge_review"].read(JudgeReview)
    return StepFacts.model_validate(
        {
            "baseline": {**inputs["few_shot_baseline"].facts, **inputs["advice"].facts},
            "training": None if adapter.skipped else training_of(adapter),
            "data": {name: dict(inputs[name].facts) for name in DATA_STEPS},
            "parity": None if adapter.skipped else inputs["merged_model"].read(MergedModel).parity,
            "ability": inputs["general_ability"].read(Ability),
            "people": inputs["human_review"].read(People),
            "judge": review.judge,
            "similarity": review.similarity,
            "supervision": _supervision(adapter),
            "cost": cost_of(context, rows),
            "quality": inputs["data_quality"].read(QualityFacts),
            "agreement": context.run_inputs.agreement,
        }
    )


def _supervision(adapter: Artifact) -> dict[str, SplitAudit]:
    """Return the audit's counters per split, without its rows, which audit.html of the adapter shows."""
    audits = read_json(adapter.path("audit.json")) if (adapter.folder / "audit.json").exists() else {}
    return {split: replace(SplitAudit.of(audit), shown=[]) for split, audit in audits.items()}
