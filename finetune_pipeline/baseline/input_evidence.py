"""Decides whether the inputs predict the answers at all, on training rows. Shuffled columns and wrong joins fail all comparisons.

Labels: simple models on rows they have not seen, against always the commonest answer. Text and JSON: does the nearest row's
answer fit a row better than it fits another row, and does an answer share more with its own input than with another row's?
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune_pipeline.data.examples import Example, sample_examples
from finetune_pipeline.data.quality.linear_model import features, order_features, out_of_fold
from finetune_pipeline.evaluation.compare import SourceOf, compare
from finetune_pipeline.evaluation.correctness import read_json
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.metrics.base import f1_of
from finetune_pipeline.evaluation.metrics.chrf import ChrF
from finetune_pipeline.evaluation.predictions import SIMPLE, same_rows
from finetune_pipeline.evaluation.rivals import MODE_TITLES, base_at_its_best, simple_rows
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.simple_models.commonest import CommonestAnswer
from finetune_pipeline.evaluation.statistics.multiple_testing import holm
from finetune_pipeline.evaluation.statistics.power import rows_needed_for_gain, rows_needed_for_mean
from finetune_pipeline.evaluation.statistics.proportions import (
    cluster_sign_flip,
    clustered_tango_interval,
    design_effect,
)
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean
from finetune_pipeline.evaluation.wording import counted, cut, inside, percent, prompt_name
from finetune_pipeline.planning.power import expected_disagreement
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput, default_metric

LABEL_ROWS = 4_000
"""Sampled rows of a label task, by hash; more only if these could not show the gain."""
TITLES = {
    "linear": "TF-IDF and logistic regression",
    "order": "logistic regression on word order",
    "nearest": "the nearest row's answer",
}
"""Titles of what is compared with the commonest label, by name."""
LABEL_MODELS = len(TITLES)
WRITTEN_ROWS = 2_000
"""Sampled rows of a text or JSON task, by hash."""
WORTH_GAIN = 0.1
"""The gain over the commonest answer that the rows must be able to show before the result can be "not shown"; or half of the
possible gain, if that is less."""
WORTH_FIT, WORTH_FIELDS = 0.02, 0.05
"""The same for text and JSON: how much better an answer fits its own row than another's, in chrF and in F1 of the fields.
With 300 rows, the nearest answers of four public and shipped data sets reach .02 to .2."""
SCORED_CHARS = 2_000
"""Characters of a text that are compared."""
BATCH = 512


Status = Literal["shown", "not_shown", "too_few_rows"]
LOOK_AT = "Look for a join that went wrong, shuffled columns, or answers that depend on something not in the input."


@dataclass(frozen=True)
class Evidence:
    """One comparison with a reference that ignores the input.

    Attributes:
        title, reference_title: Display names.
        score, reference_score: Scores on the same rows, from 0 to 1.
        interval: Of the gain, at gates.confidence.
        p: Two-sided, that the gain is zero; not adjusted for the number of comparisons.
        measure: The unit of the scores: shares of correct answers, or a mean overlap of texts (chrF, or F1 of JSON fields).
    """

    name: str
    title: str
    score: float
    reference_title: str
    reference_score: float
    gain: float
    interval: tuple[float, float]
    p: float
    measure: Literal["right", "overlap"] = "right"


@dataclass(frozen=True)
class Learnable:
    """Whether the inputs predict the answers.

    Attributes:
        status: shown: something predicts them significantly better than chance. not_shown: nothing does, on rows that could have
            shown it. too_few_rows: nothing does, and these rows could not have shown it.
        rows: Number of training rows examined.
        rows_needed: Training rows needed to show a worthwhile gain; None if unknown.
    """

    status: Status
    evidence: list[Evidence]
    rows: int
    rows_needed: int | None
    sentence: str


def decide(evidence: Sequence[Evidence], rows: int, needed: int | None, level: float) -> Learnable:
    """Decide from comparisons; `level`: chance of a wrong "shown" over all of them together (Holm)."""
    adjusted = holm([e.p for e in evidence])
    significant = [e for e, p in zip(evidence, adjusted, strict=True) if e.gain > 0 and p <= level]
    best = max(significant or evidence, key=lambda e: e.gain, default=None)
    status: Status = "not_shown"
    if significant and best:
        status, sentence = "shown", f"The inputs predict the answers: {_scores(best)}."
    elif best is None or needed is None or rows < needed:
        requirement = "" if needed is None else f"; showing a gain worth having takes {needed:,}"
        so_far = f" So far: {_scores(best)}." if best else ""
        few = counted(rows, "training row")
        sentence = f"{few} cannot show that the inputs predict the answers{requirement}.{so_far}"
        status = "too_few_rows"
    else:
        sentence = f"The inputs do not predict the answers: {_scores(best)}. {LOOK_AT}"
    return Learnable(status, list(evidence), rows, needed, sentence)


def _scores(evidence: Evidence) -> str:
    predicate, preposition = ("right", "by") if evidence.measure == "right" else ("overlap", "of")
    return (
        f"{percent(evidence.score)} {predicate} {preposition} {evidence.title}, "
        f"{percent(evidence.reference_score)} {preposition} {evidence.reference_title}"
    )


def validation_evidence(
    spec: TaskSpec, best: str, rows: Mapping[str, Sequence[Mapping[str, object]]], sources: SourceOf = None
) -> list[Evidence]:
    """Compare with always giving the most common answer, on validation: the base model at its best, and the simple models that
    the training rows do not judge.

    Empty if the most common answer was not scored, or the metric is not a mean over rows.

    Args:
        best: The best prompt.
        rows: By prompt, by restricted_name(prompt), and by SIMPLE + name of a simple model.
        sources: What each row was made from, by id.
    """
    base = base_at_its_best(rows, spec.output, best)
    prompted = f"the base model, {prompt_name(best)}{MODE_TITLES[base.mode]}"
    compared = {"prompted": (prompted, base.answers[base.mode])} | {
        name: (inside(SIMPLE_MODELS[name].title), answers)
        for name, answers in simple_rows(rows).items()
        if name not in TITLES and name not in BLIND
    }
    evidence = (
        _over_commonest(spec, name, title, rows, answers, sources) for name, (title, answers) in compared.items()
    )
    return [each for each in evidence if each is not None]


def _over_commonest(
    spec: TaskSpec,
    name: str,
    title: str,
    rows: Mapping[str, Sequence[Mapping[str, object]]],
    answers: Sequence[Mapping[str, object]],
    sources: SourceOf,
) -> Evidence | None:
    before, after = same_rows(rows.get(SIMPLE + CommonestAnswer.name, ()), answers)
    if not before:
        return None
    # a metric of counts has no paired test, so right answers replace it
    metric = spec.metric if isinstance(METRICS[spec.metric], RowMetric) else default_metric(spec.output)
    compared = compare(before, after, spec.output, spec.gates.confidence, metric, sources)
    if compared.metric_p is None or compared.interval is None:
        return None
    return Evidence(
        name,
        f"{title}, on validation",
        float(compared.candidate or 0.0),
        "always the commonest answer",
        float(compared.base or 0.0),
        float(compared.gain or 0.0),
        (compared.interval[0], compared.interval[1]),
        float(compared.metric_p),
        "right" if METRICS[metric].right_or_wrong else "overlap",
    )


def learnable(spec: TaskSpec, train: Sequence[Example], validation: Sequence[Evidence] = ()) -> Learnable:
    """Decide whether the inputs predict the answers. Raises ValueError without rows.

    It makes several comparisons, each on rows that its model has not seen; rows of one source stay together. Holm's correction
    limits the chance of a wrong "shown" to 1 - gates.confidence over all of them. validation: further comparisons, of
    :func:`validation_evidence`.
    """
    if not train:
        raise ValueError("there are no training rows")
    answers = Counter(answer_text(example) for example in train)
    if len(answers) == 1:
        answer = cut(next(iter(answers)), 80)
        sentence = f"There is nothing to learn: every training row has the same answer, {answer}."
        return Learnable("not_shown", [], len(train), None, sentence)
    find_evidence = label_evidence if spec.labels else written_evidence
    evidence, rows, needed = find_evidence(spec, train)
    return decide([*evidence, *validation], rows, needed, 1 - spec.gates.confidence)


def answer_text(example: Example) -> str:
    """The text and tool calls of the last assistant turn."""
    calls = [call["function"] for call in example.messages[-1].get("tool_calls") or ()]
    return example.answer + (json.dumps(calls, ensure_ascii=False) if calls else "")


def label_evidence(spec: TaskSpec, train: Sequence[Example]) -> tuple[list[Evidence], int, int | None]:
    """Compare simple models with always giving the commonest label.

    Returns (the comparisons, the number of rows examined, the number of rows needed to show a worthwhile gain).
    """
    level = 1 - spec.gates.confidence
    last_of_source = {example.made_from: example.id for example in train}
    # these names determine the folds
    units = {example.id: f"cluster {last_of_source[example.made_from]}" for example in train}
    counts = Counter(str(example.label) for example in train)
    commonest, commonest_count = counts.most_common(1)[0]
    share = commonest_count / len(train)
    gain = min(WORTH_GAIN, (1 - share) / 2)
    needed = rows_needed_for_gain(gain, expected_disagreement(share, gain), spec.gates.power, level / LABEL_MODELS)
    rows = sample_examples(train, max(LABEL_ROWS, needed), "learnable")
    linear, word_order = out_of_fold(rows, units), out_of_fold(rows, units, features_of=order_features)
    if linear is None or word_order is None:
        return [], len(rows), needed
    rows = linear.rows
    labels, unit_of_row = [str(example.label) for example in rows], [units[example.id] for example in rows]
    guesses = {
        "linear": [linear.classes[i] for i in linear.probabilities.argmax(axis=1)],
        "order": [word_order.classes[i] for i in word_order.probabilities.argmax(axis=1)],
        "nearest": [labels[i] for i in _nearest_rows([example.user_text for example in rows], unit_of_row)],
    }
    commonest_right = [float(label == commonest) for label in labels]
    evidence = []
    for name, model_guesses in guesses.items():
        model_right = [float(guess == label) for guess, label in zip(model_guesses, labels, strict=True)]
        difference = np.subtract(model_right, commonest_right)
        evidence.append(
            Evidence(
                name=name,
                title=TITLES[name],
                score=float(np.mean(model_right)),
                reference_title=f"always answering {commonest}",
                reference_score=float(np.mean(commonest_right)),
                gain=float(difference.mean()),
                interval=clustered_tango_interval(commonest_right, model_right, unit_of_row, 1 - level),
                p=cluster_sign_flip(difference.tolist(), unit_of_row),
            )
        )
    return evidence, len(rows), math.ceil(needed * design_effect(commonest_right, unit_of_row))


def _nearest_rows(texts: Sequence[str], units: Sequence[str] | Sequence[int]) -> np.ndarray:
    """For each row the index of the most similar row of another unit (cosine of TF-IDF n-grams)."""
    matrix = features(texts)
    codes = np.unique(units, return_inverse=True)[1]
    nearest = []
    for start in range(0, len(texts), BATCH):
        similarity = (matrix[start : start + BATCH] @ matrix.T).toarray()
        similarity[codes[start : start + BATCH, None] == codes] = -1.0
        nearest.append(similarity.argmax(axis=1))
    return np.concatenate(nearest)


def written_evidence(spec: TaskSpec, train: Sequence[Example]) -> tuple[list[Evidence], int, int | None]:
    """As :func:`label_evidence`, for text and JSON: compare how well answers fit their own rows and other rows.

    Examines one row of each source, in random pairs: a model's guesses for the two rows are scored against their own answers,
    and against each other's. If answers were unrelated to inputs, the differences of pairs would have random signs, whatever
    their distribution. For this to hold for the nearest row's answer, that row comes from the other half, whose own guesses are
    not scored.
    """
    confidence, power = spec.gates.confidence, spec.gates.power
    one_of_each = {example.made_from: example for example in sample_examples(train, len(train))}
    rows = sample_examples(list(one_of_each.values()), WRITTEN_ROWS, "learnable")
    if len(rows) < 8:
        return [], len(rows), None
    answers, inputs = [answer_text(example) for example in rows], [example.user_text for example in rows]
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    pairs = list(zip(order[::2], order[1::2], strict=False))
    scored_pairs = pairs[: len(pairs) // 2]  # their nearest rows come from the other half
    scored_rows = {i for pair in scored_pairs for i in pair}
    units = [-1 if i in scored_rows else i for i in range(len(rows))]
    nearest = [answers[i] for i in _nearest_rows(inputs, units)]
    similarity: Callable[[str, str], float] = _chrf
    min_gain = WORTH_FIT
    if isinstance(spec.output, JsonOutput):
        similarity, min_gain = _field_f1(spec.output), WORTH_FIELDS
    by_nearest, nearest_spread = _fit(
        "nearest", TITLES["nearest"], nearest, answers, similarity, scored_pairs, confidence
    )
    by_copying, copy_spread = _fit("copy", "the input", inputs, answers, _chrf, pairs, confidence)
    needed = max(  # a quarter of the rows are scored pairs, and half of them are pairs
        4 * rows_needed_for_mean(min_gain, nearest_spread, power, (1 - confidence) / 2),
        2 * rows_needed_for_mean(WORTH_FIT, copy_spread, power, (1 - confidence) / 2),
    )
    return [by_nearest, by_copying], len(rows), needed


def _fit(
    name: str,
    title: str,
    guesses: Sequence[str],
    answers: Sequence[str],
    score: Callable[[str, str], float],
    pairs: Sequence[tuple[int, int]],
    confidence: float,
) -> tuple[Evidence, float]:
    """How much better guesses fit their own row's answer than that of the pair's other row; and the standard deviation of the
    difference."""
    own_scores = [(score(guesses[i], answers[i]) + score(guesses[j], answers[j])) / 2 for i, j in pairs]
    other_scores = [(score(guesses[i], answers[j]) + score(guesses[j], answers[i])) / 2 for i, j in pairs]
    difference = np.subtract(own_scores, other_scores)
    interval = paired_bootstrap_mean(other_scores, own_scores, confidence=confidence)
    assert interval is not None  # eight rows give at least two pairs
    evidence = Evidence(
        name=name,
        title=f"{title} with the right answer",
        score=float(np.mean(own_scores)),
        reference_title=f"{title} with another row's answer",
        reference_score=float(np.mean(other_scores)),
        gain=float(difference.mean()),
        interval=interval,
        p=cluster_sign_flip(difference.tolist(), range(len(pairs))),
        measure="overlap",
    )
    return evidence, float(difference.std(ddof=1))


def _chrf(guess: str, answer: str) -> float:
    return ChrF().overlap(guess[:SCORED_CHARS], answer[:SCORED_CHARS])


def _field_f1(output: JsonOutput) -> Callable[[str, str], float]:
    def f1(guess: str, answer: str) -> float:
        extraction = read_json({"example_id": "", "gold": answer, "text": guess, "status": "ok"}, output)
        claims_f1 = f1_of(*extraction.counts())
        return float(extraction.right) if claims_f1 is None else claims_f1

    return f1
