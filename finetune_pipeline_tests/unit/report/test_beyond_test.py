from __future__ import annotations

from typing import Any

from finetune_pipeline.evaluation.ability.drop import ability_drop
from finetune_pipeline.people.summary import summarise
from finetune_pipeline.report.besides_task import ability_sentences, ability_table, comments_table, people_sentences
from finetune_pipeline_tests.unit.evaluation.ability.test_drop import choice, text
from finetune_pipeline_tests.unit.people.test_summary import SECRET, SHEET, said


def ability() -> dict[str, Any]:
    before = [choice(i, i < 60) for i in range(100)] + [text(200, 1.0), text(201, 1.0)]
    after = [choice(i, 10 <= i < 64) for i in range(100)] + [text(200, 1.2), text(201, 1.3)]
    return {"items": 102, **ability_drop(before, after)}


def test_the_loss_is_told_with_its_interval() -> None:
    told = " ".join(ability_sentences(ability()))
    assert "the base model has 60.0% right and the fine-tuned one 54.0%: 6.0 points lost" in told
    assert "10 lost, 4 gained" in told
    assert "1.000 bits a byte before and 1.250 after" in told
    table = ability_table(ability())
    assert table is not None
    assert ["text", "2", "1.000 bits a byte", "1.250 bits a byte", "+0.250 (+0.200 to +0.300)"] in [
        list(r) for r in table.rows
    ]


def test_nothing_asked_is_said() -> None:
    assert "was not measured" in ability_sentences({"items": 0})[0]
    assert ability_table({"items": 0}) is None
    assert ability_sentences(None) == []


def test_ratings_are_told_and_their_absence_too() -> None:
    drawn = {SHEET: {f"e{i}": "random" if i < 10 else "selected" for i in range(14)}}
    ratings = [said(f"e{i}", candidate=i < 8, base=i < 2) for i in range(14)]
    told = " ".join(people_sentences(summarise(ratings, drawn, SECRET), "demo"))
    assert "Of 10 answers drawn at random people accept 80.0% of the fine-tuned model's" in told
    assert "gain +60.0 points" in told
    assert "4 from neither" in told
    assert "Raters: Ada (14)." in told
    nobody = people_sentences({**summarise([], {}, SECRET), "of_earlier_candidates": 3}, "demo")
    assert "finetune review demo" in nobody[0]
    assert "3 ratings of earlier candidates" in nobody[0]
    assert comments_table(summarise(ratings, drawn, SECRET)) is None
