"""Finds suspected label errors with confident learning (Northcutt, Jiang and Chuang 2021, Journal of AI Research 70).

For each label j the threshold t_j is the mean predicted probability of j over the rows labelled j. A row labelled i counts
for the likeliest label j among those with p_j >= t_j. These counts, scaled to sum to the labels' row counts, estimate how many
rows labelled i are truly j. For each such pair that many rows are suspects: those with the largest p_j - p_i. Suspects are
ranked by the normalised margin (p_i - max other + 1) / 2, lowest first.

People review the suspects. The share of wrong labels is estimated on the rows that the model is surest of, if the model has
learned the task. Errors of a model that has not say nothing about the labels.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.linear_model import OutOfFold, order_features, out_of_fold
from finetune_pipeline.data.quality.parts import Part, Place, named, sample_note
from finetune_pipeline.data.quality.triggers import Trigger, find_triggers
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, Severity, listed
from finetune_pipeline.spec.model import TaskSpec

FEWEST = 0.01
OF_ERRORS = 0.3
"""The check fails if suspects are more than 1% of the rows and more than 30% of those the model gets wrong.

If the labels are correct, most errors of a linear model are near ties and no suspects: in five clean sets (error .4% to
15%), 0 to 22% of the errors were suspects; in the same sets with 5% of the labels flipped, 37 to 78%.
"""
OF_SUSPECTS = 0.5
"""If the estimated wrong labels are fewer than this share of the suspects, most of these are the model's own errors."""
SUREST = 0.2
"""Wrong labels are counted on this share of the rows predicted to have a label: those with the largest probability."""
LEARNED = 0.2
"""A model has learned the task if it gets at least this share right of the rows that always answering the commonest label gets
wrong."""
OWN_ERRORS = 1.5
"""The model's own errors among the surest rows are assumed to be at most this times what the error rate grows from these to as
many next ones. Wrong labels are as frequent in both; the model's own errors grow. In 28 samples of 11 public sets none is then
above data.max_label_noise (benchmarks/label_noise.py, table `clean`).
"""
CONFIDENCE = 0.95
ENOUGH, ENOUGH_OF_A_LABEL = 400, 20
"""With fewer rows, in total or per label on average, no label is claimed to be wrong: a model of so few rows is often wrong even
on the rows it is surest of."""
FEWEST_OF_A_FILE = 20
"""Files with fewer rows are not judged."""
LISTED = 200
"""Number of suspects in the report."""
_SHOWN = 300
"""Number of characters shown of a suspect's text."""


class Suspect(Facts, frozen=True, kw_only=True):
    """A row whose label may be wrong. confidence: probability of the suggested label. self_confidence: of the given one."""

    id: str
    place: str
    given: str
    suggested: str
    confidence: float
    self_confidence: float
    margin: float
    text: str


class LabelPair(Facts, frozen=True, kw_only=True):
    """How many suspects have a given label and a suggested one."""

    given: str
    suggested: str
    rows: int


class TriggerRows(Facts, frozen=True, kw_only=True):
    """A phrase that decides the label, and all rows that hold it (see :class:`.triggers.Trigger`)."""

    phrase: str
    label: str
    rows: list[Place]
    contradicted: int
    reads_like: str


class NoisePart(Part, frozen=True, kw_only=True, omit_defaults=False):
    """Labels that may be wrong; only the fields of a part where it does not apply.

    Attributes:
        suspected: Number of suspects; suspects: the first of them.
        share, interval: Of wrong labels (0 to 1); None where nothing can be said.
        accuracy: Of the model of words.
        pairs: The most frequent pairs of labels among the suspects.
        left_out: Labels with too few rows to test.
        sampled, of_rows: How many of the rows were examined, if not all.
    """

    suspected: int = 0
    share: float | None = None
    interval: tuple[float, float] | None = None
    accuracy: float | None = None
    suspects: list[Suspect] = []
    pairs: list[LabelPair] = []
    triggers: list[TriggerRows] = []
    left_out: list[str] = []
    sampled: int | None = None
    of_rows: int | None = msgspec.field(default=None, name="of")


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the counts (given label x confident label), each row scaled to the number of examples with that label."""
    classes = probabilities.shape[1]
    labelled = np.bincount(labels, minlength=classes)
    thresholds = np.array([probabilities[labels == j, j].mean() if labelled[j] else 1.0 for j in range(classes)])
    confident = probabilities >= thresholds - 1e-6  # a mean may be rounded up
    is_confident = confident.any(axis=1)
    likeliest = np.where(confident, probabilities, -1.0).argmax(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[is_confident], likeliest[is_confident]), 1)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1  # no row is confident: assume that the labels are correct
    scaled: np.ndarray = joint / joint.sum(axis=1, keepdims=True) * labelled[:, None]
    return scaled


def suspect_rows(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return whether each row is a suspect (bool). A row whose given label is the likeliest never is."""
    expected = np.rint(confident_joint(labels, probabilities)).astype(int)
    suspected = np.zeros(len(labels), bool)
    for i, j in zip(*np.nonzero(expected), strict=True):
        if i != j:
            members = np.flatnonzero(labels == i)
            margin = probabilities[members, j] - probabilities[members, i]
            suspected[members[np.argsort(-margin, kind="stable")[: expected[i, j]]]] = True
    suspected &= probabilities.argmax(axis=1) != labels
    return suspected


def contradicted_files(
    rows: Sequence[Example], suspects: Sequence[int] | np.ndarray, limit: float
) -> list[tuple[str, int, int]]:
    """Return (file, suspects, rows) of every raw file whose share of suspects is above `limit` and more than twice that of the
    other files. In such a file labels were probably exchanged. In a hard but correct set up to a third of the labels are
    suspects, equally in every file. suspects: indices in `rows`."""
    row_counts = Counter(str(e.source.get("file")) for e in rows)
    suspect_counts = Counter(str(rows[i].source.get("file")) for i in suspects)
    contradicted = []
    for file, row_count in sorted(row_counts.items()):
        other_rows, share = len(rows) - row_count, suspect_counts[file] / row_count
        if row_count < FEWEST_OF_A_FILE or other_rows < FEWEST_OF_A_FILE or share <= limit:
            continue
        if share > 2 * (len(suspects) - suspect_counts[file]) / other_rows:
            contradicted.append((file, suspect_counts[file], row_count))
    return contradicted


class NoiseEstimate(NamedTuple):
    """Share of wrong labels (0 to 1): an upper estimate, what is surely wrong (low), and what is at most wrong (high)."""

    share: float
    low: float
    high: float


def has_learned(opinion: OutOfFold) -> bool:
    """Whether a model gets enough rows right (LEARNED) for its errors to say something about the labels."""
    commonest = float(np.bincount(opinion.given).max()) / len(opinion.given)
    return opinion.accuracy - commonest >= LEARNED * (1 - commonest)


def has_enough_rows(opinion: OutOfFold) -> bool:
    """Whether there are enough rows, in total and per label, to claim that labels are wrong."""
    return len(opinion.given) >= max(ENOUGH, ENOUGH_OF_A_LABEL * len(opinion.classes))


def estimate_noise(opinion: OutOfFold) -> NoiseEstimate:
    """Estimate the share of wrong labels by the model's errors on the rows it is surest of.

    On these rows a model that has learned the task is hardly ever wrong itself. If wrong labels depend on the true label and not
    on the text (the assumption of Northcutt et al. 2021), their share there is that of the whole set. The model's own errors
    raise it: so the share and `high`, the end of its 95% interval (Wilson), are upper limits. `low` is the other end less what
    the model's own errors explain (OWN_ERRORS), and zero with too few rows (ENOUGH). The rows are drawn from each predicted
    label in proportion to its rows. The interval covers the sampling error, not an error of the assumptions.
    """
    from scipy.stats import binomtest

    predicted, probability = opinion.probabilities.argmax(axis=1), opinion.probabilities.max(axis=1)
    surest, next_surest = [], []
    for label in np.unique(predicted):
        rows = np.flatnonzero(predicted == label)
        rows, size = rows[np.argsort(-probability[rows], kind="stable")], math.ceil(SUREST * len(rows))
        surest.append(rows[:size])
        next_surest.append(rows[size : 2 * size])
    is_wrong = predicted != opinion.given
    counted = is_wrong[np.concatenate(surest)]
    wrong = binomtest(int(counted.sum()), len(counted))
    interval = wrong.proportion_ci(CONFIDENCE, "wilson")
    growth = (
        float(is_wrong[np.concatenate(next_surest)].mean()) - float(wrong.statistic)
        if any(map(len, next_surest))
        else 0.0
    )
    low = max(0.0, float(interval.low) - OWN_ERRORS * max(0.0, growth))
    return NoiseEstimate(float(wrong.statistic), low if has_enough_rows(opinion) else 0.0, float(interval.high))


def label_noise(
    examples: Sequence[Example],
    clusters: Mapping[str, str],
    spec: TaskSpec,
    total: int | None = None,
    decisions: Mapping[str, str] | None = None,
) -> NoisePart:
    """Make the label-noise part of the report: how many labels are wrong, which are suspects, and whether training stops.

    Training stops (`blocking`) in three cases: :func:`contradicted_files` finds a file; a phrase decides the label against
    the rest of the text (:func:`find_triggers`) in rows that nobody has decided to keep, unless data.triggers is warn; or surely
    more labels are wrong than data.max_label_noise. The last means that the low end of :func:`estimate_noise` is above it for a
    model of n-grams and for one of ordered word pairs. If only the second has learned the task (labels may depend on word
    order), it alone counts. If neither has, nothing is said about the labels, and whether they can be learned at all is the
    question of `learnable`. The check warns if more than FEWEST labels are surely wrong, or if many of the model's errors are
    suspects (OF_ERRORS) and the estimate does not contradict them (OF_SUSPECTS). total: number of rows, if `examples` are a sample.
    """
    opinion = out_of_fold(examples, clusters) if spec.labels else None
    if opinion is None:
        why = "too few rows to train a model on" if spec.labels else "the answers are not labels"
        return NoisePart(passed=True, message=f"not asked: {why}", applies=False)
    accuracy, limit = opinion.accuracy, spec.data.max_label_noise
    noise = estimate_noise(opinion) if has_learned(opinion) else None
    if noise is None or noise.low > limit:
        word_order = out_of_fold(examples, clusters, features_of=order_features)
        if word_order is not None and has_learned(word_order):
            by_order = estimate_noise(word_order)
            if noise is None:
                opinion, noise = word_order, by_order
            else:
                noise = min(noise, by_order, key=lambda estimate: estimate.low)
    labels, margins, likeliest = opinion.given, opinion.margins, opinion.probabilities.argmax(axis=1)
    suspects = np.flatnonzero(suspect_rows(labels, opinion.probabilities))
    suspects = suspects[np.argsort(margins[suspects], kind="stable")]
    errors = int((likeliest != labels).sum())
    too_many = noise is not None and noise.low > limit
    has_too_many_suspects = len(suspects) > max(FEWEST * len(labels), OF_ERRORS * errors)
    bad_files: list[tuple[str, int, int]] = []
    if has_too_many_suspects:
        bad_files = contradicted_files(opinion.rows, suspects, spec.data.max_suspects_of_a_file)
    if noise is None and not bad_files:
        suspects = suspects[:0]
    triggers = _open_triggers(examples, decisions or {})
    stops = too_many or bool(bad_files) or (bool(triggers) and spec.data.triggers == "stop")
    suspicious = too_many or bool(bad_files)
    if noise is not None:
        mostly_wrong = (
            has_too_many_suspects
            and has_enough_rows(opinion)
            and noise.share * len(labels) >= OF_SUSPECTS * len(suspects)
        )
        suspicious = suspicious or mostly_wrong or noise.low > FEWEST
    shown = [_suspect(opinion, i, float(margins[i])) for i in suspects[:LISTED].tolist()]
    pairs = Counter((opinion.classes[labels[i]], opinion.classes[likeliest[i]]) for i in suspects.tolist())
    message = _in_words(opinion, noise) + (f"; {len(suspects):,} of {len(labels):,} are suspects" if noise else "")
    fix = f"`finetune review {spec.name} --what suspects` shows them, most suspicious first, and puts decisions into reviews/"
    if too_many:
        allowed = f"data.max_label_noise allows {limit:.0%}"
        message += f", and {allowed}: look through the suspects; if their labels are right, raise it"
        if_wrong = "look for the join or the column that went astray, or have the rows labelled again"
        if_right = "a model of words cannot tell them apart: raise data.max_label_noise"
        fix = f"look through the suspects: if their labels are wrong, {if_wrong}; if they are right, {if_right}"
    if bad_files:
        in_files = ", ".join(f"{suspected:,} of {n:,} labels of {file}" for file, suspected, n in bad_files)
        message += f"; the other files contradict {in_files}: were labels exchanged there?"
        fix = "correct or remove that file; if its labels are right, raise data.max_suspects_of_a_file"
    severity: Severity = "error" if too_many or bad_files else "warning"
    place = shown[0].place if shown else "data"
    findings = [Finding("quality.label_noise", severity, place, message, fix)] if suspicious else []
    advice = "look at these rows (quality.json lists all); drop, relabel or keep them by decisions in reviews/"
    advice += "; data.triggers: warn goes on without decisions" if spec.data.triggers == "stop" else ""
    for trigger, rows in triggers:
        severity = "error" if spec.data.triggers == "stop" else "warning"
        findings.append(Finding("quality.trigger", severity, rows[0].place, f"the {trigger}: was it planted?", advice))
    message = "; ".join([*(f"the {trigger}" for trigger, _ in triggers), message])
    if opinion.left_out:
        message += f"; labels with too few rows to test: {listed(opinion.left_out)}"
    untested = sum(str(e.label) in opinion.left_out for e in examples)
    examined, of = len(labels), (total or len(examples)) - untested
    return NoisePart(
        passed=not suspicious and not triggers,
        message=message + sample_note(examined, of),
        blocking=stops,
        findings=findings,
        suspected=len(suspects),
        share=None if noise is None else round(noise.share, 6),
        interval=None if noise is None else (round(noise.low, 6), round(noise.high, 6)),
        accuracy=round(accuracy, 4),
        suspects=shown,
        pairs=[LabelPair(given=a, suggested=b, rows=n) for (a, b), n in pairs.most_common(20)],
        triggers=[
            TriggerRows(
                phrase=trigger.phrase,
                label=trigger.label,
                rows=named(rows, limit=None),
                contradicted=trigger.contradicted,
                reads_like=trigger.reads_like,
            )
            for trigger, rows in triggers
        ],
        left_out=opinion.left_out,
        sampled=examined if examined < of else None,
        of_rows=of if examined < of else None,
    )


def _in_words(opinion: OutOfFold, noise: NoiseEstimate | None) -> str:
    """How many labels are wrong, in a sentence."""
    if noise is None:
        commonest = float(np.bincount(opinion.given).max()) / len(opinion.given)
        figures = (
            f"a model of words gets {opinion.accuracy:.1%} right, always answering the commonest label {commonest:.1%}"
        )
        return f"nothing can be said about the labels: no simple model has learned the task ({figures})"
    if not noise.low:
        return f"at most {noise.high:.1%} of the labels are wrong"
    bounds = f"surely at least {noise.low:.1%}, if the model's own errors are as few as assumed, and at most {noise.high:.1%}"
    return f"an estimated {noise.share:.1%} of the labels are wrong ({bounds})"


def _open_triggers(examples: Sequence[Example], decisions: Mapping[str, str]) -> list[tuple[Trigger, list[Example]]]:
    """Return the triggers of labelled rows, each with its rows, unless reviewers have decided to keep all of these."""
    labelled = [e for e in examples if e.label is not None]
    triggers = find_triggers([e.user_text for e in labelled], [str(e.label) for e in labelled])
    with_rows = [(trigger, [labelled[i] for i in trigger.rows]) for trigger in triggers]
    return [(trigger, rows) for trigger, rows in with_rows if any(decisions.get(e.id) != "keep" for e in rows)]


def _suspect(opinion: OutOfFold, row: int, margin: float) -> Suspect:
    """Describe a suspect for the report."""
    example, label = opinion.rows[row], opinion.given[row]
    suggested = int(opinion.probabilities[row].argmax())
    text = example.user_text
    return Suspect(
        id=example.id,
        place=example.place,
        given=opinion.classes[label],
        suggested=opinion.classes[suggested],
        confidence=round(float(opinion.probabilities[row, suggested]), 4),
        self_confidence=round(float(opinion.probabilities[row, label]), 4),
        margin=round((margin + 1) / 2, 4),
        text=text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…",
    )
