"""Scores of one model on one set of rows. Pure functions of prediction rows."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy

from finetune_pipeline.data.answer_rules import final_answer
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import (
    INVALID,
    Row,
    complies,
    likelihood_label,
    scored_text,
)
from finetune_pipeline.evaluation.failures.kinds import REPEATED, is_refusal, repetition
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.base import Clusters, f1_of, metrics_of
from finetune_pipeline.evaluation.metrics.macro_f1 import confusion
from finetune_pipeline.evaluation.metrics.overlap import corpus_scores
from finetune_pipeline.evaluation.predictions import count_statuses
from finetune_pipeline.evaluation.result_parts import (
    Bin,
    ClassScores,
    Confusion,
    FieldScores,
    JsonDetails,
    LabelCalibration,
    LabelDetails,
    Part,
    Rate,
    Scores,
    TextDetails,
    finite,
)
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.statistics.proportions import clustered_share
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput

BINS = 10
LEAST_PROBABILITY = math.exp(-50)
"""The log loss counts smaller probabilities as this one; a single 0 would make it infinite."""


def calibration(rows: Sequence[Row], labels: Sequence[str]) -> LabelCalibration | None:
    """Calibration of the label likelihoods; None if no row has any.

    `confidence`: mean probability of the predicted label; `ece`: expected calibration error, the mean distance of confidence and
    accuracy over BINS bins of equal width, weighted by their rows (Naeini et al. 2015); `brier`: mean squared distance of the
    probabilities from the truth, summed over the labels (0 to 2; Brier 1950); `log_loss` in nats; `reliability`: per bin that
    holds rows low, high, n, confidence, accuracy.
    """
    scored_rows = [row for row in rows if likelihood_label(row["label_scores"], labels) is not None]
    if not scored_rows:
        return None
    probabilities = scipy.special.softmax([row["label_scores"] for row in scored_rows], axis=1)
    n, gold = len(scored_rows), np.array([labels.index(row["gold"]) for row in scored_rows])
    predicted = probabilities.argmax(axis=1)
    confidence, gold_probability = probabilities[np.arange(n), predicted], probabilities[np.arange(n), gold]
    correct = (predicted == gold).astype(float)
    one_hot = np.eye(len(labels))[gold]
    bin_index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    reliability = [
        Bin(
            low=i / BINS,
            high=(i + 1) / BINS,
            n=int(in_bin.sum()),
            confidence=float(confidence[in_bin].mean()),
            accuracy=float(correct[in_bin].mean()),
        )
        for i in range(BINS)
        if (in_bin := bin_index == i).any()
    ]
    return LabelCalibration(
        n=n,
        confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
        ece=sum(abs(confidence[bin_index == i].sum() - correct[bin_index == i].sum()) for i in range(BINS)) / n,
        brier=float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        log_loss=float(-np.log(np.maximum(gold_probability, LEAST_PROBABILITY)).mean()),
        reliability=reliability,
    )


def score(predictions: Sequence[Row], spec: TaskSpec, sources: SourceOf = None) -> Scores:
    """Score the answers of one model.

    The scores are right answers, every metric that fits the output with its interval (`NAME_interval`), and further details:
    :func:`label_details`, :func:`json_details` or :func:`text_details`. Where rows share `sources`, intervals count these.
    """
    output, confidence, primary = spec.output, spec.gates.confidence, METRICS[spec.metric]
    rows = scored(predictions, output)
    clusters = shared_sources(rows, sources)
    correct = rate([row.right for row in rows], confidence, clusters)
    figures: dict[str, float | list[float] | None] = {}
    for metric in metrics_of(output):
        figures[metric.name] = finite(metric.value(rows, output))  # metrics of users may return numpy's numbers
        if not metric.right_or_wrong:
            interval = metric.interval(rows, output, confidence, clusters)
            figures[f"{metric.name}_interval"] = list(map(float, interval)) if interval else None
    if isinstance(output, LabelsOutput):
        details: Part = label_details(rows, output)
    elif isinstance(output, JsonOutput):
        details = json_details(rows, output, confidence, clusters)
    else:
        details = text_details(rows, output, confidence, clusters)
    deciding = correct.interval if primary.right_or_wrong else figures[f"{primary.name}_interval"]
    return Scores.model_validate(
        {
            **figures,
            **{name: getattr(details, name) for name in details.model_fields_set},
            "n": correct.n,
            "correct": correct.k,
            "accuracy": correct.share,
            "interval": correct.interval,
            "design_effect": correct.design_effect,
            "valid": valid_share(rows, output, confidence, clusters),
            "statuses": count_statuses(row["status"] for row in rows),
            "primary": {"name": primary.name, "value": figures[primary.name], "interval": deciding},
        }
    )


def label_details(rows: Sequence[ScoredRow], output: LabelsOutput) -> LabelDetails:
    """Return the scores of every label. An invalid answer counts against its right label and predicts none."""
    labels = list(output.labels)
    counts, per_class = confusion(rows, labels), {}
    for i, label in enumerate(labels):
        right, support, predicted = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        per_class[label] = ClassScores(
            precision=right / predicted if predicted else None,
            recall=right / support if support else None,
            f1=f1_of(right, predicted, support),
            support=support,
            predicted=predicted,
        )
    return LabelDetails(
        per_class=per_class,
        absent_labels=[label for label in labels if not per_class[label].support],
        confusion=Confusion(labels=labels, columns=[*labels, INVALID], counts=counts),
        calibration=calibration(rows, labels),
    )


def json_details(rows: Sequence[ScoredRow], output: JsonOutput, confidence: float, clusters: Clusters) -> JsonDetails:
    answers = [row.json for row in rows]
    fields: dict[str, Counter[str]] = {}
    for answer in answers:
        for field in {*answer.claimed, *answer.gold}:
            claimed, gold = answer.claimed.get(field, Counter()), answer.gold.get(field, Counter())
            fields.setdefault(field, Counter()).update(
                right=(claimed & gold).total(), claimed=claimed.total(), expected=gold.total()
            )
    repaired = rate([answer.parse == "repaired" for answer in answers], confidence, clusters)
    right_if_repaired = sum(
        answer.parse == "repaired" and answer.same and row["status"] == "ok"
        for answer, row in zip(answers, rows, strict=True)
    )
    return JsonDetails(
        fields={field or "(the value)": _field_scores(**counts) for field, counts in sorted(fields.items())},
        schema=rate([complies(answer, output) for answer in answers], confidence, clusters),
        strict=rate([answer.parse == "strict" for answer in answers], confidence, clusters),
        repaired=repaired.model_copy(update={"right_if_repaired": right_if_repaired}),
        form=form_counts(rows),
    )


def _field_scores(right: int, claimed: int, expected: int) -> FieldScores:
    return FieldScores(
        precision=right / claimed if claimed else None,
        recall=right / expected if expected else None,
        f1=f1_of(right, claimed, expected),
        right=right,
        claimed=claimed,
        expected=expected,
    )


def text_details(rows: Sequence[ScoredRow], output: TextOutput, confidence: float, clusters: Clusters) -> TextDetails:
    n, texts, gold = len(rows), [scored_text(row) for row in rows], [str(row["gold"]) for row in rows]
    ratios = [len(text.strip()) / max(1, len(reference.strip())) for text, reference in zip(texts, gold, strict=True)]
    extracted = None
    if output.extract:
        found = [row["status"] == "ok" and final_answer(row["text"], output.extract) is not None for row in rows]
        extracted = rate(found, confidence, clusters)
    return TextDetails(
        length_ratio=sum(ratios) / n if n else None,
        repetition=rate([repetition(text) >= REPEATED for text in texts], confidence, clusters),
        refusal=rate([is_refusal(text) for text in texts], confidence, clusters),
        form=form_counts(rows),
        corpus=corpus_scores(texts, gold) if n else None,
        extracted=extracted,
    )


def rate(hits: Sequence[bool], confidence: float, clusters: Clusters = None) -> Rate:
    k, n = sum(hits), len(hits)
    interval, effect = (0.0, 1.0), 1.0
    if n:
        units = range(n) if clusters is None else clusters
        interval, effect = clustered_share(list(map(float, hits)), units, confidence)
    return Rate(k=k, n=n, share=k / n if n else None, interval=interval, design_effect=effect)


def valid_share(rows: Sequence[Row], output: AnyOutput, confidence: float = 0.95, clusters: Clusters = None) -> Rate:
    """The :func:`rate` of finished answers in the declared form (answer_rules.form_problems)."""
    return rate([row.valid for row in scored(rows, output)], confidence, clusters)


def form_counts(rows: Sequence[ScoredRow]) -> dict[str, int]:
    """Number of answers that break each rule of form (an answer may break several), and of each status other than `ok`."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row["status"] != "ok":
            counts[row["status"]] += 1
        else:
            counts.update(set(row.broken_rules))
    return dict(sorted(counts.items()))
