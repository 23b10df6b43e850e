"""What single sections say: the evidence, earlier versions, ability, people, judges, perturbed rows."""

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import asdict

from finetune_pipeline.evaluation.ability.drop import Ability, ability_drop
from finetune_pipeline.evaluation.failures import atlas
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.robustness import robustness
from finetune_pipeline.report.blocks import Section, Table
from finetune_pipeline.report.comparison import sources_sentence
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.failures import history_sentences, history_table
from finetune_pipeline.report.judgements import ability_sentences, judge_sentences, people_sentences
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.review.ratings import summarise
from finetune_pipeline_tests.trainings import SECOND_STAGE
from finetune_pipeline_tests.unit.evaluation.ability.test_drop import choice, text
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    TRAINING,
    arguments,
    changed,
    evaluation,
    evaluation_and_rows,
    json_evaluation_and_rows,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import paired, spec
from finetune_pipeline_tests.unit.evaluation.test_robustness import predicted
from finetune_pipeline_tests.unit.review.test_ratings import SECRET, SHEET, said


def section(name: str, result: EvaluationResult, rows: ShownRows | None = None) -> Section:
    """One section of the report."""
    return next(candidate for candidate in evaluation_page(result, [], rows).sections if candidate.id == name)


def tables(section_: Section) -> list[Table]:
    return [block for block in section_.blocks if isinstance(block, Table)]


def words(section_: Section) -> str:
    return " ".join(getattr(block, "text", "") for block in section_.blocks)


def test_rows_over_all_versions() -> None:
    ids = [r["example_id"] for r in arguments()["predictions"] if r["model"] == "candidate"]
    earlier = {"v1": dict.fromkeys(ids, True), "v2": {i: n < 50 for n, i in enumerate(ids)}}
    result = evaluation(earlier=earlier)
    assert history_table(result).cells == [
        ["v1", "200", "0", "40", "160", "0", "-20.0"],
        ["v2", "200", "110", "0", "50", "40", "+55.0"],
    ]
    (only,) = history_sentences(result)
    assert "50 rows were always right, 0 never" in only and "150 sometimes" in only
    lost = history_sentences(evaluation(earlier={"v1": dict.fromkeys(ids, True)}))[1]
    assert lost.startswith("40 rows that every earlier version had right are wrong now")
    assert lost.endswith(" and 20 more.")
    assert not history_table(usual()) and history_sentences(usual()) == []


def test_the_rows_are_one_table_by_what_became_of_them() -> None:
    texts = {"e0100": "<b>pay & go</b>"}
    result, rows = evaluation_and_rows(never_break=["e0000", "e0100", "nowhere"], texts=texts)
    rows_section = section("rows", result, rows)
    (table,) = tables(rows_section)
    assert table.audience == "page" and [table.headers[j] for j in table.filters] == ["Outcome", "Right", "Fine-tuned"]
    outcomes = Counter(row[0] for row in table.rows)
    assert outcomes == {"must not break": 1, "regression": 4, "wrong": 35, "fixed": 60, "right": 100}
    assert table.cells[0][:2] == ["must not break", "<b>pay & go</b>"] and table.cells[0][-1] == "e0100"
    for sentence in (
        "wrong on 40 rows of 200 (20.0%)",
        "sealed test: nowhere.",
    ):
        assert sentence in words(rows_section)
    page = evaluation_page(result, [], rows)
    assert "&lt;b&gt;pay &amp; go&lt;/b&gt;" in page_html(page) and "pay" not in page_markdown(page)
    assert "Not shown" not in words(rows_section)
    assert not tables(section("rows", evaluation(never_break=["e0000"])))


def test_both_stages_stand_side_by_side_with_their_intervals_and_every_changed_answer() -> None:
    base, candidate = paired(100, 5, 60, 35)
    first = [row | {"model": "supervised"} for row in candidate]
    for i in (0, 1, 2, *range(105, 125)):
        first[i] |= {"text": base[i]["text"] if i >= 105 else "nothing"}
    candidate[3] |= {"text": "no label"}
    two_stages = spec(training={"refine": {"method": "dpo"}})
    result, rows = evaluation_and_rows(
        spec=two_stages, predictions=[*base, *candidate, *first], training=TRAINING | {"refinement": SECOND_STAGE}
    )
    (models,) = tables(section("models", result))
    by_title = {row[0]: row[1:3] for row in models.cells}
    assert by_title["Fine-tuned, first stage alone"][0] == "68.5%" and by_title["Fine-tuned (qlora)"][0] == "79.5%"
    paired_section = section("paired", result)
    gains = next(table for table in tables(paired_section) if table.headers[0] == "Fine-tuned against")
    (row,) = (row for row in gains.cells if row[0] == "model of the first stage alone")
    assert row[1] == "+11.0" and row[3:5] == ["23", "1"]
    assert "Against the model of the first stage alone: of 200 rows" in words(paired_section)
    assert result.stages is not None and result.stages.sentence in words(paired_section)
    (table,) = tables(section("rows", result, rows))
    place = table.headers.index("First stage, if different")
    changed = {line[-1]: line[place] for line in table.cells if line[place]}
    assert len(changed) == result.stages.changed == 24 and changed["e0000"] == "nothing" and changed["e0003"] == "bug"


def test_a_page_of_very_many_rows_keeps_the_wrong_ones_and_says_how_many_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atlas, "MAX_ROWS", 120)
    result, rows = evaluation_and_rows()
    assert sum(not row.right for row in rows.tested.values()) == 40 and len(rows.tested) == 120
    assert "Not shown: 80 rows, all answered right. All answers" in words(section("rows", result, rows))


def test_wrong_answers_are_marked_where_they_differ_and_right_ones_nowhere() -> None:
    result, rows = json_evaluation_and_rows()
    (table,) = tables(section("rows", result, rows))
    (wrong, *_), (fixed, *_) = ([r for r in table.rows if r[0] == name] for name in ("wrong", "fixed"))
    place = table.headers.index
    marked = [[part.text for part in wrong[place(title)].parts if part.differs] for title in ("Fine-tuned", "Right")]
    assert marked == [['"Paris"'], ['"Rome"']]
    assert "<mark>&#34;Paris&#34;</mark>" in page_html(evaluation_page(result, [], rows))
    assert not hasattr(fixed[place("Fine-tuned")], "parts") and hasattr(fixed[place("Base")], "parts")


def test_a_matrix_of_hundreds_of_labels_is_told_and_left_out() -> None:
    many = changed(usual(), {"task.labels": [f"label {i}" for i in range(300)]})
    assert len(section("confusion", many).blocks) == 1
    assert "A matrix of 300 labels is too large" in words(section("confusion", many))


def test_shared_sources_are_told() -> None:
    sources = {r["example_id"]: f"d{int(r['example_id'][1:]) // 4}" for r in arguments()["predictions"]}
    result = evaluation(sources=sources)
    outcome = sources_sentence(result)
    assert "200 rows come from 50 sources, the largest with 4 rows" in outcome
    assert f"worth {int(200 / (result.comparison.design_effect or 0))} independent ones" in outcome
    assert sources_sentence(usual()) == ""


def test_the_loss_of_ability_is_told_with_its_interval() -> None:
    before = [choice(i, i < 60) for i in range(100)] + [text(200, 1.0), text(201, 1.0)]
    after = [choice(i, 10 <= i < 64) for i in range(100)] + [text(200, 1.2), text(201, 1.3)]
    result = evaluation(ability=Ability(items=102, **asdict(ability_drop(before, after))))
    sentences = words(section("ability", result))
    assert "the base model has 60.0% right and the fine-tuned one 54.0%: 6.0 points lost" in sentences
    assert "10 lost, 4 gained" in sentences and "1.000 bits per byte before and 1.250 after" in sentences
    row = ["text", "2", "1.000 bits a byte", "1.250 bits a byte", "+0.250 (-0.990 to +0.997)"]  # two texts show nothing
    assert row in tables(section("ability", result))[0].cells
    nothing = section("ability", evaluation(ability={"items": 0}))
    assert "was not measured" in words(nothing) and not tables(nothing)
    assert ability_sentences(Ability(items=1)), "facts that are missing are no reason to break"


def test_ratings_are_told_and_their_absence_too() -> None:
    drawn = {SHEET: {f"e{i}": "random" if i < 10 else "selected" for i in range(14)}}
    ratings = [said(f"e{i}", candidate=i < 8, base=i < 2) for i in range(14)]
    people = section("people", evaluation(people=summarise(ratings, drawn, SECRET)))
    sentences = words(people)
    assert "Of 10 answers drawn at random, people accept 80.0% of the fine-tuned model's" in sentences
    assert "gain +60.0 points" in sentences and "4 from neither" in sentences and "Raters: Ada (14)." in sentences
    assert not tables(people) and "Ada" not in " ".join(getattr(block, "text", "") for block in people.public())
    nobody = people_sentences(People(rated=0, of_earlier_candidates=3), "demo")
    assert "finetune review demo" in nobody[0] and "3 ratings of earlier candidates" in nobody[0]


TEST = {"wins": 3, "losses": 1, "ties": 0, "n": 4, "share": 0.75, "interval": [0.3, 0.95], "p": 0.625}
BELIEVED: dict[str, Any] = {
    "name": "m <b> at h", "believed": True, "refused": [], "rated": 40, "kappa": 0.8, "interval": [0.62, 0.93],
    "agreement": 0.9, "consistent": 0.95, **dict.fromkeys(("place", "length", "padding"), TEST),
    "verdict": {**TEST, "wins": 30, "losses": 10, "failed": 2, "equal": 7, "choices": {}},
}  # fmt: skip


def test_a_judge_is_told_with_its_kappa_and_gives_an_opinion_only_where_it_is_believed() -> None:
    first, second, third = judge_sentences(JudgeFindings.of(BELIEVED))
    assert first == "m <b> at h is trusted: it agrees with people."
    assert "40 pairs of different answers: Cohen's kappa 0.80 (0.62 to 0.93)" in second
    assert "Of 40 decided pairs of the test it prefers the fine-tuned model's answer in 75.0%" in third
    assert "7 equal answers, 2 not judged" in third
    faulty: dict[str, Any] = {"believed": False, "refused": ["it prefers whatever comes first"], "verdict": None}
    refused = {**BELIEVED, **faulty, "kappa": None, "interval": None}
    first, second = judge_sentences(JudgeFindings.of(refused))
    assert first == "m <b> at h is not trusted, and its verdict is ignored: it prefers whatever comes first."
    assert "kappa is undefined" in second
    unasked = section("judge", evaluation(judge={**refused, "rated": 0}))
    assert len(unasked.blocks) == 1, "no table of biases"
    result = evaluation(judge=BELIEVED)
    assert tables(section("judge", result))[0].cells[0][1:3] == ["3", "1"]
    assert "m <b>" not in page_html(evaluation_page(result, [])) and not section("judge", usual()).blocks


def test_perturbed_rows_stand_beside_plain_ones_with_the_verdict() -> None:
    _, candidate = paired(both=80, only_base=0, only_candidate=0, neither=0)
    measured = robustness(spec(), predicted(candidate, typos=12))
    assert measured is not None
    robustness_section = section("robustness", changed(usual(), {"robustness": measured.model_dump(mode="json")}))
    (table,) = tables(robustness_section)
    assert table.cells[0][:4] == ["Typing errors", "60", "100%", "80.0%"] and table.cells[0][4].startswith("-20.0 (")
    assert [cells[-1] for cells in table.cells] == ["yes", "yes", "yes", "no, informs"]
    assert "Typing errors cost more than 10.0 points (robustness.max_drop), surely a loss" in measured.verdict.sentence
    assert "60 test rows per perturbation at most" in words(robustness_section)
    assert not section("robustness", changed(usual(), {"robustness": None})).blocks


def test_a_micro_batch_that_memory_halved_is_told() -> None:
    def rows_of_a_pass(**micro: int) -> list[list[str]]:
        result = changed(usual(), {"training.micro_batch": micro})
        return [row for row in tables(section("training", result))[0].cells if row[0] == "Rows of one pass"]

    ((_, halved),) = rows_of_a_pass(declared=8, used=2)
    assert halved.startswith("2: the 8 of training.micro_batch_size did not fit into memory")
    assert rows_of_a_pass(declared=8, used=8) == []
