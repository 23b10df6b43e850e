"""Fits the simple models or loads them, lets them answer a job's examples, and measures what they cost."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.costs import SimpleCost
from finetune_pipeline.evaluation.predictions import SIMPLE, PredictionRow, prediction_rows
from finetune_pipeline.evaluation.simple_models import (
    FITTED,
    Shared,
    SimpleModel,
    fit_simple_models,
    load_simple_model,
    load_simple_models,
)
from finetune_pipeline.evaluation.simple_models.encoders import (
    BASE,
    ENCODER,
    StoredEncoder,
    base_encoder,
    sentence_encoder,
)
from finetune_pipeline.evaluation.simple_models.fitted import likeliest
from finetune_pipeline.evaluation.simple_models.vector_regression import encoded_rows
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import PredictJob, SimpleSettings
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.outputs import AnyOutput

ENCODED_EXAMPLES = 2_000
"""Maximum examples outside the sealed test that models with an encoder answer, the first by id."""
TIMED_CALLS = 20


@dataclass(frozen=True)
class SimpleAnswers:
    """What the simple models answered.

    Attributes:
        rows: Of predictions.parquet.
        costs: By model that was fitted.
        vectors: By encoder: its identity, training_rows that were turned into vectors, and cut, the number of texts of which
            only the beginning was read. Empty if no model reads vectors.
        left_out: Why a simple model was not fitted, by name.
    """

    rows: list[PredictionRow]
    costs: dict[str, SimpleCost]
    vectors: dict[str, dict[str, Any]]
    left_out: dict[str, str]


NONE_ASKED = SimpleAnswers([], {}, {}, {})
"""Where no simple model is asked."""


def run_simple_models(
    job: PredictJob, base: Answerer | None, cache: AnswerCache | None, gold: Callable[[Example], str]
) -> SimpleAnswers:
    """Let every simple model of the job, and its other fitted models, answer their examples.

    Args:
        base: The base model of the job's simple models, which is loaded only if one of them needs it.
        gold: Returns an example's answer as text.
    """
    answers = SimpleAnswers([], {}, {}, {})
    encoders: dict[str, StoredEncoder] = {}
    if job.simple and base:
        encoders = _encoders(job.stage, job.simple, base, cache)
        _run_fitted_here(job, job.simple, encoders, gold, answers)
    for other in job.fitted:
        model = load_simple_model(other.folder, encoders)
        answers.rows.extend(rows_of(model, other.name, read_examples(other.examples or job.examples), gold, job.labels))
    return answers


def _run_fitted_here(
    job: PredictJob,
    settings: SimpleSettings,
    encoders: Mapping[str, StoredEncoder],
    gold: Callable[[Example], str],
    answers: SimpleAnswers,
) -> None:
    """Add the answers, costs and vectors of the models that the baseline fits."""
    examples, train = read_examples(job.examples), []
    if settings.fitted:
        models = load_simple_models(settings.fitted, encoders)
    else:
        assert job.train is not None
        train = read_examples(job.train)
        texts, right = [example.user_text for example in train], [gold(example) for example in train]
        output: AnyOutput = TypeAdapter(AnyOutput).validate_python(settings.output)
        shared = Shared(encoders, left_out=answers.left_out)
        models = fit_simple_models(texts, right, output, settings.seed, shared)
        for name, reason in shared.left_out.items():
            say(f"{job.stage}: no model {name!r}: {reason}")
        for name, model in models.items():
            model.save(job.out / FITTED / name)
    for name, model in models.items():
        asked = _first_by_id(examples) if model.encodings and not settings.fitted else examples
        answers.rows.extend(rows_of(model, SIMPLE + name, asked, gold, job.labels))
        if not settings.fitted:
            answers.costs[name] = _cost(model, job.out / FITTED, asked, encoders)
    read = [*(train[i] for i in encoded_rows(len(train))), *examples]
    for source in sorted({encoding.source for model in models.values() for encoding in model.encodings.values()}):
        answers.vectors[source] = {
            **encoders[source].identity,
            "training_rows": None if settings.fitted else len(encoded_rows(len(train))),
            "cut": encoders[source].cut([example.user_text for example in read]),
        }


def log_shares(table: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """Log-probabilities of the labels in the order of task.yaml; minus infinity of one that no training row has."""
    return [math.log(share) if (share := table.get(label, 0.0)) > 0 else -math.inf for label in labels]


def rows_of(
    model: SimpleModel, name: str, examples: Sequence[Example], gold: Callable[[Example], str], labels: Sequence[str]
) -> list[PredictionRow]:
    """Return the rows of a simple model's answers."""
    texts = [example.user_text for example in examples]
    tables = model.probabilities(texts) if labels else None
    if tables is None:
        fields = model.field_probabilities(texts) or [{}] * len(texts)
        predictions = [
            Answer(text=text, status="ok" if text.strip() else "empty", field_shares=shares)
            for text, shares in zip(model.predict(texts), fields, strict=True)
        ]
    else:
        predictions = [Answer(text=likeliest(table), label_scores=log_shares(table, labels)) for table in tables]
    return prediction_rows(examples, name, predictions, [gold(example) for example in examples])


def _first_by_id(examples: Sequence[Example]) -> list[Example]:
    chosen = {example.id for example in sorted(examples, key=lambda example: example.id)[:ENCODED_EXAMPLES]}
    return [example for example in examples if example.id in chosen]


def _encoders(
    stage: str, settings: SimpleSettings, base: Answerer, cache: AnswerCache | None
) -> dict[str, StoredEncoder]:
    if settings.output["kind"] != "labels":
        return {}

    def load() -> Any:
        say(f"{stage}: the base model is loaded to read texts for its hidden states")
        return base.model

    encoders = {BASE: base_encoder(base.folder, base.dtype, load, cache)}
    if settings.encoder:
        try:
            encoders[ENCODER] = sentence_encoder(settings.encoder, "float32", cache)
        except (FileNotFoundError, ValueError) as error:
            raise JobError(f"baseline.encoder: {error}") from error
    return encoders


def _cost(
    model: SimpleModel, folder: Path, examples: Sequence[Example], encoders: Mapping[str, StoredEncoder]
) -> SimpleCost:
    """Time calls of one text each, without stored vectors."""
    sources = {encoding.source for encoding in model.encodings.values()}
    alone = replace(model, encoders={source: encoders[source].fresh for source in sources})
    texts = [example.user_text for example in examples[: TIMED_CALLS + 1]]
    times = []
    for text in texts:
        began = time.perf_counter()
        alone.predict([text])
        times.append(1000 * (time.perf_counter() - began))
    p50, p95 = np.quantile(times[1:] or times, (0.5, 0.95))  # the first call warms up
    files = [path for path in (folder / model.name).iterdir()] + [
        path for source in sources for path in encoders[source].files
    ]
    return SimpleCost(
        fit_seconds=model.fit_seconds,
        p50=round(float(p50), 2),
        p95=round(float(p95), 2),
        megabytes=round(sum(path.stat().st_size for path in files) / 1e6, 1),
    )
