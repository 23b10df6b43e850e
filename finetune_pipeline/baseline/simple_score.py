"""Cross-validated score of the simplest model with its interval, in seconds, before any language model runs."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from finetune_pipeline import __version__
from finetune_pipeline.baseline.input_evidence import LABEL_MODELS, Evidence, Learnable, answer_text, decide
from finetune_pipeline.data.examples import Example, hash_order, sample_examples
from finetune_pipeline.data.quality.noise import NoisePart
from finetune_pipeline.engine.files import DamagedFile, digest_json, read_json, write_json
from finetune_pipeline.evaluation.metrics import METRICS, metric_title
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS, fit_simple_models
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.statistics.proportions import effective_sources, wilson_interval
from finetune_pipeline.evaluation.wording import inside, percent
from finetune_pipeline.spec.model import TaskSpec

ROWS = 4_000
"""Sampled rows of a text or JSON task."""
_FOLDS = 4
_LEAST = 20


@dataclass(frozen=True)
class SimpleScore:
    """A simple model's score on `rows` rows that it was not fitted on, worth at least `worth` independent ones; reference: the
    score of a model that ignores the input."""

    title: str
    metric: str
    value: float
    interval: tuple[float, float]
    rows: int
    worth: int
    reference_title: str | None = None
    reference: float | None = None

    @property
    def sentence(self) -> str:
        low, high = self.interval
        beside = "" if self.reference is None else f"; {self.reference_title}: {percent(self.reference)}"
        return (
            f"{self.title}: {self.metric} {percent(self.value)} ({percent(low)} to {percent(high)}) on {self.rows:,} rows it "
            f"has not seen{beside}"
        )


@dataclass(frozen=True)
class _Kept:
    """A score, and the digest of what it depends on."""

    key: str
    score: SimpleScore | None


def kept_score(
    file: Path, version: str, spec: TaskSpec, rows: Sequence[Example], noise: NoisePart
) -> SimpleScore | None:
    """Return :func:`simple_score` from a file if that has the score of the same rows and settings; else measure and write it.

    version: of the rows.
    """
    settings = {"output": spec.output.model_dump(), "metric": spec.metric, "confidence": spec.gates.confidence}
    key = digest_json([__version__, version, settings])
    with contextlib.suppress(OSError, DamagedFile):
        kept = msgspec.convert(read_json(file, _Kept), _Kept)
        if kept.key == key:
            return kept.score
    score = simple_score(spec, rows, noise)
    write_json(file, msgspec.to_builtins(_Kept(key, score)))
    return score


def simple_score(spec: TaskSpec, rows: Sequence[Example], noise: NoisePart) -> SimpleScore | None:
    """Score TF-IDF and logistic regression for labels, else the best of the simple models that need no encoder, with an interval
    that is corrected for their number. None if there are too few rows.

    Args:
        rows: Clean rows without near-duplicates.
        noise: The part of the data report whose cross-validation is used.
    """
    if spec.labels:
        return _label_score(spec, rows, noise)
    rows = sample_examples(rows, ROWS, "simple")
    test_rows = [e for e in rows if hash_order(e.made_from, "simple") % _FOLDS == 0]
    train_rows = [e for e in rows if hash_order(e.made_from, "simple") % _FOLDS]
    if len(test_rows) < _LEAST or len(train_rows) < _LEAST:
        return None
    try:
        models = fit_simple_models([e.user_text for e in train_rows], [answer_text(e) for e in train_rows], spec.output)
    except ValueError:  # no text has features
        return None
    metric, texts = METRICS[spec.metric], [e.user_text for e in test_rows]
    answers = {
        name: [
            {"example_id": e.id, "gold": answer_text(e), "text": text, "status": "ok"}
            for e, text in zip(test_rows, model.predict(texts), strict=True)
        ]
        for name, model in models.items()
    }
    values = {name: metric.score(answered, spec.output) for name, answered in answers.items()}
    blind, seeing = [name for name in values if name in BLIND], [name for name in values if name not in BLIND]
    best = max(seeing, key=lambda name: metric.rank(values[name]))
    clusters, confidence = [e.made_from for e in test_rows], shared_confidence(spec.gates.confidence, len(seeing))
    interval = metric.interval(answers[best], spec.output, confidence, clusters)
    if interval is None:
        return None
    title, worth = metric_title(spec.metric), int(effective_sources(clusters))
    score = SimpleScore(models[best].title, title, values[best], interval, len(test_rows), worth)
    if blind:
        reference = max(blind, key=lambda name: metric.rank(values[name]))
        score = replace(score, reference_title=inside(models[reference].title), reference=values[reference])
    return score


def _label_score(spec: TaskSpec, rows: Sequence[Example], noise: NoisePart) -> SimpleScore | None:
    """The score of the linear model behind the label noise: each row by a model that has not seen its near-duplicates."""
    if noise.accuracy is None:
        return None
    counts = Counter(str(e.label) for e in rows if e.label not in noise.left_out)
    n, (commonest, commonest_count) = noise.sampled or counts.total(), counts.most_common(1)[0]
    accuracy, share = noise.accuracy, commonest_count / counts.total()
    worth = min(n, int(effective_sources([e.made_from for e in rows])))  # which rows were right is unknown
    interval = wilson_interval(accuracy * worth, worth, spec.gates.confidence)
    answer = f"always answering {commonest}"
    return SimpleScore(SIMPLE_MODELS["linear"].title, "accuracy", accuracy, interval, n, worth, answer, share)


def learnable_by_score(spec: TaskSpec, score: SimpleScore | None) -> Learnable | None:
    """Decide from the score of labels alone that the inputs predict the answers; None if it does not show that and
    :func:`.input_evidence.learnable` must decide. The level is that of each of its comparisons."""
    from scipy.stats import binomtest  # slow to import

    if not spec.labels or score is None or score.reference is None:
        return None
    p = float(binomtest(round(score.value * score.worth), score.worth, score.reference).pvalue)
    if score.value <= score.reference or p > (1 - spec.gates.confidence) / LABEL_MODELS:
        return None
    value, reference, title = score.value, score.reference, score.reference_title or ""
    interval = score.interval[0] - reference, score.interval[1] - reference
    evidence = Evidence("linear", score.title, value, title, reference, value - reference, interval, p)
    return decide([evidence], score.rows, None, 1 - spec.gates.confidence)
