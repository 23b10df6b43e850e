"""EVALUATION: people's ratings of the answers, and a judge model that must first agree with them."""

from msgspec.structs import replace

from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import EndpointError
from finetune_pipeline.evaluation.predictions import PredictionRow, of_model, read_predictions, read_test_rows
from finetune_pipeline.evaluation.preferences.judge import Judge, JudgeReview, prediction_pairs
from finetune_pipeline.evaluation.preferences.people import People, people_choices
from finetune_pipeline.evaluation.preferences.qualify import judged_pairs, similar
from finetune_pipeline.evaluation.regression_ledger import outcomes_of
from finetune_pipeline.evaluation.sealed_answers import SealedAnswers
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding, FindingsError, as_rows, count_by_rule
from finetune_pipeline.review.ratings import ratings_digest, read_ratings, summarise
from finetune_pipeline.review.sheet import SheetItem, draw, make_sheet, read_sheet_name, sheet_name
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import answers_of

KEY_FILE = "review.key"


def secret_of(store: ArtifactStore) -> bytes:
    return load_key(store.root / KEY_FILE)


def both_answers(predictions: Artifact) -> tuple[list[PredictionRow], list[PredictionRow]]:
    rows = read_predictions(predictions.path("predictions.parquet"))
    return of_model(rows, "base"), of_model(rows, "candidate")


def drawn_items(predictions: Artifact, task: Task, items: int, secret: bytes) -> dict[str, str]:
    """Return the examples of a sheet on these predictions, and how each was drawn."""
    base, candidate = both_answers(predictions)
    return draw(base, candidate, outcomes_of(candidate, task.spec.output), items, secret)


def output_sheet(predictions: Artifact, task: Task, items: int, secret: bytes) -> tuple[str, list[SheetItem]]:
    """Return (name, items) of the sheet on these predictions. Raises OutsideError if they are of a run that trained nothing."""
    if reason := predictions.read(SealedAnswers).untrained:
        raise OutsideError(f"there are no two models whose answers could be rated blindly: {reason}")
    drawn = drawn_items(predictions, task, items, secret)
    name, texts = sheet_name(predictions.version, len(drawn)), read_test_rows(predictions.folder).texts
    return name, make_sheet(name, drawn, *both_answers(predictions), texts, secret)


def make_human_review(context: StepContext) -> People:
    """Summarise ratings of the current candidate's answers; ratings of earlier ones are only counted."""
    reviews = context.task.folder / "reviews"
    ratings, findings = read_ratings(reviews)
    predictions, secret = context.inputs["test_predictions"], secret_of(context.store)
    sheets = {r.sheet: name for r in ratings if (name := read_sheet_name(r.sheet)) and name[0] == predictions.version}
    current_ratings = [r for r in ratings if r.sheet in sheets]
    drawn = {sheet: drawn_items(predictions, context.task, sheets[sheet][1], secret) for sheet in sorted(sheets)}
    sources = read_test_rows(predictions.folder).sources
    people = summarise(current_ratings, drawn, secret, context.spec.gates.confidence, sources)
    write_rows(context.out / "findings.jsonl", as_rows(findings))
    context.refuse_changed("ratings", ratings_digest(reviews), context.run_inputs.ratings)
    earlier = len(ratings) - len(current_ratings)
    return replace(people, of_earlier_candidates=earlier, by_rule=count_by_rule(findings))


def make_judge_review(context: StepContext) -> JudgeReview:
    """Ask the judge and the embedding model of the spec. Raises FindingsError if the judge's endpoint or the embedding model
    cannot be used."""
    settings, predictions = context.spec.evaluation, context.inputs["test_predictions"]
    if settings.judge is None and settings.similarity is None:
        return JudgeReview(judge=None, similarity=None)
    if reason := predictions.read(SealedAnswers).untrained:
        return JudgeReview(judge=None, similarity=None, not_made=reason)
    test = read_test_rows(predictions.folder)
    pairs = prediction_pairs(*both_answers(predictions), test.texts)
    people = people_choices(context.inputs["human_review"].read(People).items)
    judge = similarity = None
    if settings.judge is not None:
        try:
            model = Judge.of(settings.judge, AnswerCache.of(answers_of(context.store, context.task.name)))
            judge = judged_pairs(model, pairs, people, settings.judge, context.spec.gates.confidence, test.sources)
        except (EndpointError, ValueError) as error:
            fix = "check the endpoint and its key, and run again (received replies are cached); or remove evaluation.judge"
            raise _problem("judge", error, fix) from error
    if settings.similarity is not None:
        try:
            similarity = similar(pairs, people, settings.similarity, context.spec.gates.confidence, test.sources)
        except (FileNotFoundError, ValueError) as error:
            raise _problem("similarity", error, "correct it, or use: hashed") from error
    return JudgeReview(judge=judge, similarity=similarity)


def _problem(key: str, error: Exception, fix: str) -> FindingsError:
    return FindingsError([Finding(f"evaluation.{key}", "error", f"task.yaml: evaluation.{key}", str(error), fix)])
