"""What the pages say of a judge: first whether it is believed and why, and its opinion only then."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.report.html import render_html
from finetune_pipeline.report.markdown import render_markdown
from finetune_pipeline.report.preferences import judge_sentences, judge_table, similarity_sentences
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation

TEST = {"wins": 3, "losses": 1, "ties": 0, "n": 4, "share": 0.75, "interval": [0.3, 0.95], "p": 0.625}
BELIEVED: dict[str, Any] = {
    "name": "m <b> at h",
    "believed": True,
    "refused": [],
    "rated": 40,
    "kappa": 0.8,
    "interval": [0.62, 0.93],
    "agreement": 0.9,
    "consistent": 0.95,
    **dict.fromkeys(("place", "length", "padding"), TEST),
    "verdict": {**TEST, "wins": 30, "losses": 10, "failed": 2, "equal": 7},
}
SIMILAR = {
    "model": "hashed",
    "n": 50,
    "base": 0.41,
    "candidate": 0.52,
    "gain": 0.11,
    "interval": [0.05, 0.17],
    "rated": 0,
    "kappa": None,
    "kappa_interval": None,
}


def test_a_believed_judge_is_told_with_its_kappa_before_its_verdict() -> None:
    told = judge_sentences(BELIEVED)
    assert told[0] == "m <b> at h is believed: it agrees with people."
    assert "40 pairs of different answers: Cohen's kappa 0.80 (0.62 to 0.93)" in told[1]
    assert "Of 40 decided pairs of the test it prefers the fine-tuned answer in 75.0%" in told[2]
    assert "7 equal answers, 2 not judged" in told[2]
    table = judge_table(BELIEVED)
    assert table is not None and [row[1:3] for row in table.rows] == [["3", "1"]] * 3


def test_a_refused_judge_is_told_with_its_faults_and_without_an_opinion() -> None:
    refused = {**BELIEVED, "believed": False, "refused": ["it prefers whatever stands first"], "verdict": None}
    told = judge_sentences(refused)
    assert told[0] == "m <b> at h is not believed, and its opinion does not count: it prefers whatever stands first."
    assert not any("prefers the fine-tuned" in sentence for sentence in told)
    unasked = {**refused, "rated": 0}
    assert len(judge_sentences(unasked)) == 1 and judge_table(unasked) is None
    undefined = judge_sentences({**refused, "kappa": None, "interval": None})
    assert "kappa undefined" in undefined[1]


def test_likeness_is_told_with_what_it_does_not_know() -> None:
    told = similarity_sentences(SIMILAR)
    assert "base 0.410, fine-tuned 0.520, gain +0.110 (+0.050 to +0.170)" in told[0] and "nothing of facts" in told[0]
    assert told[1].startswith("Nobody has rated")
    assert "kappa 0.40" in similarity_sentences({**SIMILAR, "rated": 9, "kappa": 0.4})[1]


def test_the_pages_hold_it_escaped_and_say_nothing_where_nothing_was_asked() -> None:
    of = evaluation(judge_facts={"judge": BELIEVED, "similarity": SIMILAR})
    page, text = render_html(of, []), render_markdown(of, [])
    assert "Judgement by a model" in page and "m &lt;b&gt; at h is believed" in page
    assert "## Judgement by a model" in text and "+0.110" in text
    silent = evaluation()
    assert "Judgement by a model" not in render_html(silent, []) + render_markdown(silent, [])
    assert silent["judge"] is None and silent["similarity"] is None
