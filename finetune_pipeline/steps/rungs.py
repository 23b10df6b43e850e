"""Functions shared by the rungs of the ladder: their rows and answers."""

from collections.abc import Sequence
from pathlib import Path

from finetune_pipeline.baseline.ladder import Answered, rung_answers
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.prediction_facts import SetFacts
from finetune_pipeline.evaluation.predictions import read_by_model
from finetune_pipeline.evaluation.rivals import Baseline
from finetune_pipeline.jobs import ModelSet, PredictJob
from finetune_pipeline.planning.serving_costs import Call
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.baseline import prediction_job
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.earlier_runs import answers_of

PREDICTIONS = "predictions.parquet"


def row_sources(context: StepContext) -> dict[str, str]:
    return {e.id: e.made_from for e in read_examples(split_file(context, "validation"))}


def answered_rungs(context: StepContext) -> list[Answered]:
    """Return the rungs below training with their answers."""
    baseline = context.inputs["few_shot_baseline"]
    rows = read_by_model(baseline.path(PREDICTIONS))
    tokens = {name: call_of(details) for name, details in baseline.read(Baseline).prompt_details.items()}
    return rung_answers(context.spec, rows, tokens, row_sources(context))


def call_of(answers: SetFacts) -> Call:
    return Call(answers.mean_prompt_tokens, answers.mean_new_tokens)


def answers_job(context: StepContext, sets: Sequence[ModelSet], examples: Path, out: Path, stage: str) -> PredictJob:
    """Return a job in which these sets answer the validation rows of a file, as in the baseline."""
    cache, limit = answers_of(context.store), context.spec.baseline.rows
    return prediction_job(context, sets, examples, out, answers=cache, limit=limit, stage=stage)


def ladder_settings(spec: TaskSpec) -> dict[str, object]:
    return {"ceiling": spec.baseline.ceiling, "limited": spec.advise.limited}
