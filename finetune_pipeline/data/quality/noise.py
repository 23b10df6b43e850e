"""Wrong labels, suspected by confident learning (Northcutt, Jiang and Chuang 2021, Journal of AI Research 70).

For each label j the threshold t_j is the mean probability that rows labelled j are given for j. A row labelled i is
counted for the label j it is confident of: the likeliest among those with p_j >= t_j. These counts, made to sum to the
labels' row counts, estimate how many rows labelled i are truly j; of each such pair that many rows are suspects, those
with the largest p_j - p_i. Ranked by the normalised margin (p_i - max other + 1) / 2, lowest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.linear_model import OutOfFold, out_of_fold
from finetune_pipeline.data.quality.sample import part, sampled
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec.model import TaskSpec

FEWEST = 0.01
OF_ERRORS = 0.3
"""The check fails when suspects are more than 1% of the rows and more than 30% of those the model gets wrong.

Where labels are right, most errors of a linear model are near ties and no suspects: five clean sets measured (error .4% to
15%) have 0 to 22% suspects among the errors; the same sets with 5% of the labels flipped have 37 to 78%.
"""
FEWEST_OF_A_FILE = 20
LISTED = 200
_SHOWN = 300


def confident_joint(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (given label x confident label), rows scaled to the number of rows with that label."""
    classes = probabilities.shape[1]
    labelled = np.bincount(given, minlength=classes)
    thresholds = np.array([probabilities[given == j, j].mean() if labelled[j] else 1.0 for j in range(classes)])
    confident = probabilities >= thresholds - 1e-6
    some = confident.any(axis=1)
    likeliest = np.where(confident, probabilities, -1.0).argmax(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[some], likeliest[some]), 1)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1  # nobody is confident of anything: taken as labelled right
    scaled: np.ndarray = joint / joint.sum(axis=1, keepdims=True) * labelled[:, None]
    return scaled


def _whole(counts: np.ndarray) -> np.ndarray:
    """Counts rounded so that each row keeps its sum (largest remainders go up)."""
    down = np.floor(counts + 1e-9).astype(int)
    for row, (exact, whole) in enumerate(zip(counts, down, strict=True)):
        missing = round(float(exact.sum())) - int(whole.sum())
        down[row, np.argsort(-(exact - whole), kind="stable")[:missing]] += 1
    return down


def suspect_rows(given: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether each row is a suspect (bool). A row whose given label is the likeliest never is."""
    expected = _whole(confident_joint(given, probabilities))
    found = np.zeros(len(given), bool)
    for i, j in zip(*np.nonzero(expected), strict=True):
        if i != j:
            members = np.flatnonzero(given == i)
            margin = probabilities[members, j] - probabilities[members, i]
            found[members[np.argsort(-margin, kind="stable")[: expected[i, j]]]] = True
    return found & (probabilities.argmax(axis=1) != given)


def contradicted_files(
    rows: Sequence[Example], suspects: Sequence[int] | np.ndarray, limit: float
) -> list[tuple[str, int, int]]:
    """(file, suspects, rows) of every raw file of whose labels more than `limit` are suspects, and more than twice the share
    of the other files: there labels were exchanged, rather than hard to tell. Files with fewer than 20 rows are not judged.

    suspects: places in `rows`. Sets that are hard but right have up to a third of their labels suspected, in every file alike
    (questions of gsm8k by whether the answer is large, of dolly by whether it is long).
    """
    many = Counter(str(e.source.get("file")) for e in rows)
    bad = Counter(str(rows[i].source.get("file")) for i in suspects)
    found = []
    for file, n in sorted(many.items()):
        others, share = len(rows) - n, bad[file] / n
        if n < FEWEST_OF_A_FILE or others < FEWEST_OF_A_FILE or share <= limit:
            continue
        if share > 2 * (len(suspects) - bad[file]) / others:
            found.append((file, bad[file], n))
    return found


def label_noise(
    examples: Sequence[Example],
    clusters: Mapping[str, str],
    spec: TaskSpec,
    opinion: OutOfFold | None = None,
    of: int | None = None,
) -> dict[str, Any]:
    """The label-noise part of the report.

    opinion: of linear_model.out_of_fold on the same rows, when it is there; of: how many rows there are, when `examples`
    are a sample already.

    suspects: up to 200 of {id, place, given, suggested, confidence (probability of the suggested label),
    self_confidence (of the given one), margin, text (cut)}, most suspicious first; suspected: how many there are; share;
    pairs: the most frequent (given, suggested, rows); accuracy: of the linear model on rows it has not seen. It stops
    training (`blocking`) when it fails and :func:`contradicted_files` finds a file: the test has such labels, too.
    """
    if not spec.labels:
        return part(True, "not asked: the answers are no labels", applies=False, suspects=[])
    opinion = opinion or out_of_fold(examples, clusters)
    if opinion is None:
        return part(True, "not asked: too few rows to train a model on", applies=False, suspects=[])
    given, told = opinion.given, opinion.probabilities
    margins = opinion.margins
    suspects = np.flatnonzero(suspect_rows(given, told))
    suspects = suspects[np.argsort(margins[suspects], kind="stable")]
    likeliest = told.argmax(axis=1)
    share = len(suspects) / len(given)
    pairs: dict[tuple[str, str], int] = {}
    for i in suspects:
        pair = (opinion.classes[given[i]], opinion.classes[likeliest[i]])
        pairs[pair] = pairs.get(pair, 0) + 1
    listed = [
        {
            "id": opinion.rows[i].id,
            "place": opinion.rows[i].place,
            "given": opinion.classes[given[i]],
            "suggested": opinion.classes[likeliest[i]],
            "confidence": round(float(told[i, likeliest[i]]), 4),
            "self_confidence": round(float(told[i, given[i]]), 4),
            "margin": round((float(margins[i]) + 1) / 2, 4),
            "text": _cut(opinion.rows[i].user_text),
        }
        for i in suspects[:LISTED]
    ]
    errors = int((likeliest != given).sum())
    passed = share <= FEWEST or len(suspects) <= OF_ERRORS * errors
    message = f"{len(suspects):,} of {len(given):,} labels are suspected to be wrong ({share:.1%})"
    message += f"; a linear model differs from {errors:,} labels ({errors / len(given):.1%})"
    found = []
    against = contradicted_files(opinion.rows, suspects, spec.data.max_suspects_of_a_file)
    if not passed:
        message += ", and is confident of too many of these"
        fix = "look through the suspects, most suspicious first, and write decisions (relabel, drop or keep) into reviews/"
        if against:
            told_of = ", ".join(f"{bad:,} of {n:,} labels of {file}" for file, bad, n in against)
            message += f"; the other files contradict {told_of}: were labels exchanged there?"
            fix = "correct that file or take it out; where its labels are right, raise data.max_suspects_of_a_file"
        severity: Severity = "error" if against else "warning"
        found.append(Finding("quality.label_noise", severity, listed[0]["place"], message, fix))
    stops = not passed and bool(against)
    return part(
        passed,
        message,
        blocking=stops,
        findings=found,
        applies=True,
        suspected=len(suspects),
        share=round(share, 6),
        accuracy=round(float((likeliest == given).mean()), 4),
        suspects=listed,
        pairs=[
            {"given": a, "suggested": b, "rows": n}
            for (a, b), n in sorted(pairs.items(), key=lambda kv: (-kv[1], kv[0]))[:20]
        ],
        left_out=opinion.left_out,
        **sampled(len(given), of or len(examples)),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
