"""EVALUATION: base and candidate compared by a judge that must first agree with people, and by embeddings."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.evaluation.openai_endpoint import Endpoint, EndpointError
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.preferences.judge import Judge
from finetune_pipeline.evaluation.preferences.pairs import prediction_pairs
from finetune_pipeline.evaluation.preferences.qualify import Standards, judged_pairs, people_choices, similar
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.engines import JudgeSpec
from finetune_pipeline.steps.kept_answers import api_answers


def make_judge_review(work: StepContext) -> dict[str, Any]:
    """{judge, similarity}: see evaluation.preferences.compared; each None where the spec asks for none.

    Raises FindingsError where the judge's endpoint or the model of embeddings cannot be used.
    """
    told, predictions = work.spec.evaluation, work.inputs["test_predictions"]
    if told.judge is None and told.similarity is None:
        return {"judge": None, "similarity": None}
    rows = read_predictions(predictions.path("predictions.parquet"))
    texts = read_json(predictions.path("texts.json"))
    pairs = prediction_pairs(of_model(rows, "base"), of_model(rows, "candidate"), texts)
    people = people_choices(work.inputs["human_review"].facts["items"])
    judge = similarity = None
    if told.judge is not None:
        try:
            judge = judged_pairs(_judge(work, told.judge), pairs, people, told.judge.rows, standards_of(told.judge))
        except (EndpointError, ValueError) as error:
            fix = "look at the endpoint and its key, and run again: replies that came are kept; or remove evaluation.judge"
            raise _problem("judge", error, fix) from error
    if told.similarity is not None:
        try:
            similarity = similar(pairs, people, told.similarity, work.spec.gates.confidence)
        except (FileNotFoundError, ValueError) as error:
            raise _problem("similarity", error, "correct it, or use: hashed") from error
    return {"judge": judge, "similarity": similarity}


def standards_of(told: JudgeSpec) -> Standards:
    """What the spec asks of a judge."""
    return Standards(told.min_rated, told.min_kappa, told.min_kappa_bound, told.min_consistent)


def _judge(work: StepContext, told: JudgeSpec) -> Judge:
    return Judge(Endpoint.of(told, told.model), cache=api_answers(work, test=True), max_tokens=told.max_tokens)


def _problem(key: str, error: Exception, fix: str) -> FindingsError:
    return FindingsError([Finding(f"evaluation.{key}", "error", f"task.yaml: evaluation.{key}", str(error), fix)])
