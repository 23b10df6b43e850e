"""Scores against scikit-learn, sacrebleu and rouge-score, and the treatment of answers that are not in form."""

import json
import math
import random
import socket

import numpy as np
import pytest
import sacrebleu
import scipy
from rouge_score import rouge_scorer
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
)

from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.scores import calibration, score
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, OUTPUT, row, rows, spec

FLAGS = ["a", "b", "c"]
EXTRACTION = JsonOutput(json_schema={"type": "object", "properties": {f: {"enum": ["x"]} for f in FLAGS}})


def scores_of(rows: list[dict], output: AnyOutput, sources: dict[str, str] | None = None, **gates: str) -> dict:
    return score(rows, spec(output=output, gates=gates), sources).model_dump(by_alias=True)


def extraction(i: int, gold: set[str], answer: set[str]) -> dict:
    return row(i, *(json.dumps(dict.fromkeys(sorted(names), "x")) for names in (gold, answer)))


def test_scores_of_labels_equal_scikit_learn() -> None:
    chance = random.Random(0)
    answers = [*LABELS, "I am not sure"]
    pairs = [(g := chance.choice(LABELS), g if chance.random() < 0.6 else chance.choice(answers)) for _ in range(150)]
    gold, answers = [g for g, _ in pairs], [s if s in LABELS else "invalid" for _, s in pairs]
    scores = scores_of(rows(pairs), OUTPUT, metric="macro_f1")
    assert scores["accuracy"] == pytest.approx(accuracy_score(gold, answers))
    assert scores["macro_f1"] == pytest.approx(f1_score(gold, answers, labels=LABELS, average="macro"))
    assert scores["confusion"]["counts"] == confusion_matrix(gold, answers, labels=[*LABELS, "invalid"])[:3].tolist()
    assert scores["confusion"]["columns"] == [*LABELS, "invalid"]
    expected = precision_recall_fscore_support(gold, answers, labels=LABELS)
    for i, label in enumerate(LABELS):
        scored = scores["per_class"][label]
        assert [scored[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx([e[i] for e in expected])
    low, high = scores["primary"]["interval"]
    assert low < scores["primary"]["value"] < high and scores["primary"]["name"] == "macro_f1"


@pytest.mark.parametrize(
    ("output", "metric", "said"),
    [
        (OUTPUT, "macro_f1", None),
        (EXTRACTION, "micro_f1", ('{"a": "x"}', '{"b": "x"}', '{"a": "x"}')),
        (TextOutput(), "rougeLsum", ("one two", "one", "one two")),
        (TextOutput(), "exact", ("one two", "one", "one two")),
    ],
)
def test_every_interval_counts_sources_where_rows_share_them(output, metric, said) -> None:
    said_of_row = [said or (LABELS[i % 3], "no label", LABELS[i % 3]) for i in range(100)]
    predictions = [row(i, g, right if i // 5 % 2 else wrong) for i, (g, wrong, right) in enumerate(said_of_row)]
    fives = {r["example_id"]: str(i // 5) for i, r in enumerate(predictions)}
    naive, counted = (scores_of(predictions, output, sources, metric=metric)["primary"] for sources in (None, fives))
    assert counted["value"] == naive["value"]
    failed = [r | {"status": "empty", "text": ""} for r in predictions]
    gains = [METRICS[metric].gain(failed, predictions, output, 0.95, c) for c in (None, list(fives.values()))]
    assert gains[0].gain == gains[1].gain
    for alone, shared in ((naive["interval"], counted["interval"]), (gains[0].interval, gains[1].interval)):
        assert shared[1] - shared[0] > 1.6 * (alone[1] - alone[0])


def test_labels_without_rows_do_not_drag_macro_f1_and_nothing_is_measured_on_no_rows() -> None:
    scores = scores_of(rows([("bug", "bug"), ("billing", "billing")]), OUTPUT)
    assert scores["macro_f1"] == 1.0 and scores["absent_labels"] == ["other"]
    assert scores["per_class"]["other"] == {"precision": None, "recall": None, "f1": None, "support": 0, "predicted": 0}
    with pytest.raises(ValueError, match="'refund'"):
        scores_of(rows([("refund", "bug")]), OUTPUT)
    nothing = scores_of([], OUTPUT)
    assert (nothing["n"], nothing["accuracy"], nothing["macro_f1"]) == (0, None, None)
    assert scores_of([], EXTRACTION)["micro_f1"] is None and scores_of([], TextOutput())["rougeLsum"] is None


def test_scores_of_fields_equal_scikit_learn_on_a_multilabel_problem() -> None:
    pairs = [({"a", "b"}, {"a"}), ({"b"}, {"b", "c"}), ({"a", "c"}, {"a", "c"}), (set(), {"a"}), ({"c"}, set())]
    scores = scores_of([extraction(i, *pair) for i, pair in enumerate(pairs)], EXTRACTION)
    gold, answers = ([[int(f in pair[side]) for f in FLAGS] for pair in pairs] for side in (0, 1))
    assert scores["micro_f1"] == pytest.approx(f1_score(gold, answers, average="micro"))
    for metric, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert [scores["fields"][f][metric] for f in FLAGS] == pytest.approx(
            list(reference(gold, answers, average=None))
        )
    assert (scores["correct"], scores["exact"]) == (1, 0.2)
    low, high = scores["micro_f1_interval"]
    assert 0 <= low < scores["micro_f1"] < high <= 1


def test_repaired_and_failed_extractions_are_counted_apart() -> None:
    predictions = [extraction(i, {"a"}, {"a"}) for i in range(5)]
    predictions[1]["text"] = "Here you are: {'a': 'x'}"
    predictions[2] |= {"text": "", "status": "empty"}
    predictions[3] |= {"text": '{"a": "x"', "status": "truncated"}
    predictions[4]["text"] = '{"a": "y"}'
    scores = scores_of(predictions, EXTRACTION)
    assert scores["correct"] == 1
    assert (scores["strict"]["k"], scores["repaired"]["k"], scores["repaired"]["right_if_repaired"]) == (2, 2, 1)
    assert (scores["schema"]["k"], scores["valid"]["k"]) == (1, 1)
    assert scores["form"] == {"empty": 1, "not_json": 1, "schema": 1, "truncated": 1}


def test_overlap_equals_the_reference_implementations_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    texts = [
        ("The parcel was sent on Monday.", "The parcel was sent on Tuesday morning."),
        ("We will refund you.", "You will get your money back soon."),
        ("Yes, that is possible.", "Yes, that is possible."),
        ("Yes!", "Yes!"),
        ("可以", "可以"),
        ("", "No."),
    ]
    scores = scores_of([row(i, gold, answer) for i, (answer, gold) in enumerate(texts)], TextOutput())
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    expected = {
        name: [rouge.score(gold, answer)[name].fmeasure for answer, gold in texts] for name in rouge.rouge_types
    }
    expected["chrf"] = [sacrebleu.sentence_chrf(answer, [gold]).score / 100 for answer, gold in texts]
    expected["bleu"] = [sacrebleu.sentence_bleu(answer, [gold]).score / 100 for answer, gold in texts]
    for name, values in expected.items():
        assert scores[name] == pytest.approx(sum(values) / len(texts))
        assert scores[f"{name}_interval"][0] < scores[name] < scores[f"{name}_interval"][1]
    answer, gold = zip(*texts, strict=True)
    assert scores["corpus"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answer, [gold]).score / 100)
    assert scores["corpus"]["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answer, [gold]).score / 100)
    assert scores["exact"] == pytest.approx(3 / 6)


def test_rates_of_text_and_the_metric_that_decides() -> None:
    predictions = [
        row(1, "Your order 1234 ships on 3 May.", "I'm sorry, but I can't help with that."),
        row(2, "Fine.", "it is good and " * 12),
        row(3, "#### 4", "so\n#### 4"),
        row(4, "refund it", "refund it", status="error"),
    ]
    scores = scores_of(predictions, TextOutput(extract=r"#### (\d+)"))
    assert (scores["refusal"]["k"], scores["repetition"]["k"], scores["extracted"]["k"]) == (1, 1, 1)
    assert scores["primary"] == {"name": "exact", "value": 0.25, "interval": scores["interval"]}
    ratios = scores_of([row(1, "abcd", "ab"), row(2, "", " ab ")], TextOutput())
    assert ratios["length_ratio"] == (0.5 + 2.0) / 2, "of stripped texts; an empty reference counts as one character"
    by_facts = scores_of(predictions, TextOutput(), metric="facts")["primary"]
    assert by_facts["name"] == "facts" and by_facts["interval"][0] <= by_facts["value"] <= by_facts["interval"][1]
    failed = scores_of(predictions[3:] * 2, TextOutput())
    assert {failed[name] for name in ("correct", "rougeLsum", "chrf", "bleu", "facts")} == {0.0}


def test_calibration_equals_scikit_learn() -> None:
    chance = np.random.default_rng(1)
    true = chance.dirichlet([0.5, 0.5, 0.5], 500)
    gold = [chance.choice(3, p=p) for p in true]
    exaggerated = (1.5 * np.log(np.maximum(true, 1e-12)) - 7).tolist()
    predictions = [row(i, LABELS[g], "bug", label_scores=exaggerated[i]) for i, g in enumerate(gold)]
    figures = calibration(predictions, LABELS)
    shares = scipy.special.softmax(exaggerated, axis=1)
    assert figures is not None and figures.n == 500
    assert figures.brier == pytest.approx(brier_score_loss(gold, shares, labels=[0, 1, 2], scale_by_half=False))
    assert figures.log_loss == pytest.approx(log_loss(gold, shares, labels=[0, 1, 2]))
    correct = [p.argmax() == g for p, g in zip(shares, gold, strict=True)]
    expected = calibration_curve(correct, shares.max(axis=1), n_bins=10)
    assert [b.accuracy for b in figures.reliability] == pytest.approx(list(expected[0]))
    assert [b.confidence for b in figures.reliability] == pytest.approx(list(expected[1]))


def test_calibration_leaves_out_rows_without_usable_likelihoods() -> None:
    likelihoods = (np.log([0.8, 0.1, 0.1]), np.log([0.6, 0.2, 0.2]), [], [math.nan, 0.0, 0.0])
    predictions = [
        row(i, "other" if i == 1 else "bug", "bug", label_scores=[*scores_]) for i, scores_ in enumerate(likelihoods)
    ]
    figures = scores_of(predictions, OUTPUT)["calibration"]
    assert (figures["n"], figures["accuracy"], figures["ece"]) == (2, 0.5, pytest.approx((0.2 + 0.6) / 2))
    assert scores_of(predictions[2:3], OUTPUT)["calibration"] is None
