"""Scores of extractions and of texts, against reference implementations and by hand."""

from __future__ import annotations

import json

import pytest
import sacrebleu
from rouge_score import rouge_scorer
from sklearn.metrics import f1_score, precision_score, recall_score

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.metrics.overlap import sentence_scores
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.spec.outputs import JsonOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import row

FLAGS = ["a", "b", "c"]
SCHEMA = JsonOutput(json_schema={"type": "object", "properties": {f: {"enum": ["x"]} for f in FLAGS}})


def extraction(i: int, gold: set[str], said: set[str], **changes) -> dict:
    return row(i, *(json.dumps(dict.fromkeys(sorted(of), "x")) for of in (gold, said)), **changes)


GIVEN = [({"a", "b"}, {"a"}), ({"b"}, {"b", "c"}), ({"a", "c"}, {"a", "c"}), (set(), {"a"}), ({"c"}, set())]


def test_field_scores_equal_scikit_learn_on_a_multilabel_problem() -> None:
    scores = score([extraction(i, *pair) for i, pair in enumerate(GIVEN)], SCHEMA)
    gold, said = ([[int(f in pair[side]) for f in FLAGS] for pair in GIVEN] for side in (0, 1))
    assert scores["micro_f1"] == pytest.approx(f1_score(gold, said, average="micro"))
    for metric, of in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = of(gold, said, average=None)
        assert [scores["fields"][f][metric] for f in FLAGS] == pytest.approx(list(expected))
    assert (scores["correct"], scores["exact"]) == (1, 0.2)
    low, high = scores["micro_f1_interval"]
    assert 0 <= low < scores["micro_f1"] < high <= 1


def test_repaired_and_failed_answers_are_counted_apart() -> None:
    given = [extraction(i, {"a"}, {"a"}) for i in range(5)]
    given[1]["text"] = "Here you are: {'a': 'x'}"
    given[2] |= {"text": "", "status": "empty"}
    given[3] |= {"text": '{"a": "x"', "status": "truncated"}
    given[4]["text"] = '{"a": "y"}'
    scores = score(given, SCHEMA)
    assert scores["correct"] == 1
    assert (scores["strict"]["k"], scores["repaired"]["k"], scores["repaired"]["right_if_repaired"]) == (2, 2, 1)
    assert (scores["schema"]["k"], scores["valid"]["valid"]) == (1, 1)
    assert scores["form"] == {"empty": 1, "not_json": 1, "schema": 1, "truncated": 1}
    assert 0 < scores["schema"]["interval"][0] < 0.2 < scores["schema"]["interval"][1]


def test_an_extraction_is_compared_by_exact_answers_or_by_micro_f1() -> None:
    base = [extraction(i, {"a", "b"}, {"a"}) for i in range(40)]
    candidate = [extraction(i, {"a", "b"}, {"a", "b"} if i < 30 else set()) for i in range(40)]
    told = compare(base, candidate, SCHEMA)
    assert (told.metric, told.gain, told.c, told.b) == ("exact", 0.75, 30, 0)
    by_fields = compare(base, candidate, SCHEMA, metric="micro_f1")
    assert by_fields.gain == pytest.approx(2 * 60 / (60 + 80) - 2 * 40 / (40 + 80))
    low, high = by_fields.interval
    assert low < by_fields.gain < high


TEXTS = [
    ("The parcel was sent on Monday.", "The parcel was sent on Tuesday morning."),
    ("We will refund you.", "You will get your money back soon."),
    ("Yes, that is possible.", "Yes, that is possible."),
]


def test_overlap_equals_the_reference_implementations() -> None:
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    for said, gold in TEXTS:
        found = sentence_scores(said, gold)
        for name, expected in rouge.score(gold, said).items():
            assert found[name] == pytest.approx(expected.fmeasure)
        assert found["chrf"] == pytest.approx(sacrebleu.sentence_chrf(said, [gold]).score / 100)
        assert found["bleu"] == pytest.approx(sacrebleu.sentence_bleu(said, [gold]).score / 100)
    scores = score([row(i, gold, said) for i, (said, gold) in enumerate(TEXTS)], TextOutput())
    said, gold = zip(*TEXTS, strict=True)
    assert scores["corpus"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [gold]).score / 100)
    assert scores["corpus"]["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [gold]).score / 100)
    assert scores["exact"] == pytest.approx(1 / 3)


def test_rates_of_text_and_the_metric_that_decides() -> None:
    given = [
        row(1, "Your order 1234 ships on 3 May.", "I'm sorry, but I can't help with that."),
        row(2, "Fine.", "it is good and " * 12),
        row(3, "#### 4", "so\n#### 4"),
    ]
    scores = score(given, TextOutput(extract=r"#### (\d+)"))
    assert (scores["refusal"]["k"], scores["repetition"]["k"], scores["extracted"]["k"]) == (1, 1, 1)
    assert scores["primary"] == {"name": "exact", "value": pytest.approx(1 / 3), "interval": scores["interval"]}
    by_facts = score(given, TextOutput(), metric="facts")["primary"]
    assert by_facts["name"] == "facts" and by_facts["interval"][0] <= by_facts["value"] <= by_facts["interval"][1]
