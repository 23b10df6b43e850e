"""What the evidence rests on, as the pages say it."""

from __future__ import annotations

from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.report import evidence
from finetune_pipeline.report.html import render_html
from finetune_pipeline.report.markdown import render_markdown
from finetune_pipeline_tests.unit.evaluation.fake_run import OPENINGS, arguments, evaluation
from finetune_pipeline_tests.unit.evaluation.rows import spec


def _pages(told):
    gates = decide(spec(), told)
    return render_html(told, gates), render_markdown(told, gates)


def test_the_level_of_this_look_is_told():
    told = evaluation(openings=[OPENINGS[0] | {"candidate": "c0"}, *OPENINGS])
    (sentence,) = evidence.level_sentences(told)
    assert "candidate 2 that the test judges; its gains are judged by 98.33% intervals" in sentence
    assert "one of the 2 was promoted without being better is at most 3.3%, and stays under 5.0%" in sentence
    assert all("98.33% intervals" in page for page in _pages(told))
    assert evidence.level_sentences({"seal": {"level": {"look": None}}}) == []


def test_rows_over_all_versions():
    made = arguments()
    ids = [r["example_id"] for r in made["predictions"] if r["model"] == "candidate"]
    earlier = {"v1": dict.fromkeys(ids, True), "v2": {i: n < 50 for n, i in enumerate(ids)}}
    told = evaluation(earlier=earlier)
    table = evidence.history_table(told)
    assert [row[:6] for row in table.rows] == [
        ["v1", "200", "0", "40", "160", "0"],
        ["v2", "200", "110", "0", "50", "40"],
    ]
    assert [row[6] for row in table.rows] == ["-20.0", "+55.0"]
    first, *more = evidence.history_sentences(told)
    assert "50 rows were always right, 0 never" in first and "150 sometimes" in first
    assert more == []
    lost = evaluation(earlier={"v1": dict.fromkeys(ids, True)})
    assert evidence.history_sentences(lost)[1].startswith("40 rows that every earlier version had right this one gets")
    assert evidence.history_sentences(lost)[1].endswith(" and 20 more.")
    for page in _pages(told):
        assert "were always right" in page and "Both right" in page
    assert evidence.history_table(evaluation()) is None and evidence.history_sentences(evaluation()) == []


def test_listed_examples_that_broke_are_shown_escaped():
    texts = {"e0100": "<b>pay & go</b>"}
    told = evaluation(never_break=["e0000", "e0100", "nowhere"], texts=texts)
    table = evidence.never_break_table(told)
    assert [row[0] for row in table.rows] == ["e0100", "nowhere"]
    page, text = _pages(told)
    assert "&lt;b&gt;pay &amp; go&lt;/b&gt;" in page and "<b>pay" not in page
    assert "not in the sealed test" in text
    assert evidence.never_break_table(evaluation(never_break=["e0000"])) is None


def test_shared_sources_and_the_plan_are_told():
    made = arguments()
    sources = {r["example_id"]: f"d{int(r['example_id'][1:]) // 4}" for r in made["predictions"]}
    facts = made["baseline_facts"] | {"power": {"sentence": "You have 200 test rows."}}
    told = evaluation(sources=sources, baseline_facts=facts)
    first, second = evidence.design_sentences(told)
    assert first == "Before training: You have 200 test rows."
    assert "200 rows come from 50 sources, the largest with 4 rows" in second
    assert f"worth {int(200 / told['comparison']['design_effect'])} independent ones" in second
    assert all("come from 50 sources" in page for page in _pages(told))
    assert evidence.design_sentences(evaluation()) == []
