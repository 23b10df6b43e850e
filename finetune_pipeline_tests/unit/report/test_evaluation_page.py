"""The report on a candidate: complete, in order, safe, and the same in all forms."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetune_pipeline.evaluation.gates import GateResult, decide, decide_finalists
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.report.blocks import Table
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.failures import group_title
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.page import page_html, page_markdown, plain
from finetune_pipeline.report.stored import SCHEMA_VERSION, Report
from finetune_pipeline.report.verdict import caveats
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.trainings import HOSTED
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    NOT_COMPARED,
    TRAINING,
    arguments,
    changed,
    evaluation,
    evaluation_and_rows,
    json_evaluation,
    text_evaluation,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, spec, text_spec
from finetune_pipeline_tests.unit.report.parsed import HOSTILE, Parsed

SHIPPED = "Ship the fine-tuned model: wrong in 20 of 100 answers."


def pages(
    result: EvaluationResult, task: TaskSpec | None = None, gates: Any = None, rows: Any = None
) -> tuple[str, str]:
    """HTML and Markdown."""
    page = evaluation_page(result, decide(task or spec(), result) if gates is None else gates, rows)
    return page_html(page), page_markdown(page)


def counted_gates(gates: Sequence[GateResult], *passed: str) -> str:
    """`8 passed, 10 not asked`: of gates of which none failed or warns, and these passed."""
    counts = Counter(gate.status for gate in gates)
    assert set(counts) == {"passed", "not_asked"} and {*passed} <= {g.name for g in gates if g.status == "passed"}
    return f"{counts['passed']} passed, {counts['not_asked']} not asked"


def tables_of(result: EvaluationResult, gates: Any, anchor: str) -> list[Table]:
    section = next(section for section in evaluation_page(result, gates).sections if section.id == anchor)
    return [block for block in section.blocks if isinstance(block, Table)]


@pytest.fixture(scope="module")
def good() -> tuple[str, str]:
    result, rows = evaluation_and_rows()
    return pages(result, rows=rows)


def test_sections_in_order_and_nothing_loaded(good: tuple[str, str]) -> None:
    page = Parsed(good[0])
    page.assert_inert()
    titles = (
        "gates models rows atlas prompts form paired confusion labels likelihoods learning robustness ability people data "
        "training supervision cost seal versions"
    ).split()
    assert re.findall(r'<h2 id="(\w+)">', good[0]) == titles
    assert re.findall(r'<section><h2 id="(\w+)">', good[0]) == ["gates", "models"], "the rest is folded"


def test_the_verdict_comes_first_with_its_interval(good: tuple[str, str]) -> None:
    low, high = usual().comparison.interval or (0.0, 0.0)
    sentence = (
        "The fine-tuned model is right on 80.0% of 200 sealed rows, 27.5 points more than the base model with "
        f"its best prompt (8-shot); the 95% interval of the gain is +{100 * low:.1f} to +{100 * high:.1f} points."
    )
    words = Parsed(good[0]).words
    counts = counted_gates(decide(spec(), usual()), "beats_baseline", "format_compliance", "merge_parity")
    assert words.index(f"{SHIPPED} No gate failed: {counts}. {sentence}") < words.index("beats_baseline")
    assert f"**{SHIPPED}** No gate failed: {counts}. {plain(sentence)}" in good[1]


def test_hostile_texts_are_shown_and_do_nothing() -> None:
    facts = arguments()
    for row in facts["predictions"]:
        if row["model"] == "candidate" and row["text"] != row["gold"]:
            row["text"] = HOSTILE
    task = spec(description=HOSTILE)
    result, rows = evaluation_and_rows(
        spec=task, predictions=facts["predictions"],
        texts={row["example_id"]: HOSTILE for row in facts["predictions"]},
        versions={HOSTILE: HOSTILE},
        openings=[dict.fromkeys(("test", "candidate", "metric", "rules", "reason", "who", "time"), HOSTILE)],
        data={HOSTILE: {"rows_in": 1, "by_rule": {HOSTILE: 1}}},
        training=HOSTED | dict.fromkeys(("service", "service_base_model", "method"), HOSTILE),
    )  # fmt: skip
    page, markdown = pages(result, task, rows=rows)
    Parsed(page).assert_inert()
    assert Parsed(page).text.count("<script>alert(1)</script>") >= 10
    assert markdown.count(r"\<script\>alert(1)\</script\>") >= 4
    assert not re.search(r"(?<!\\)<(script|img)", markdown) and not re.search(r"(?<!\\)\]\(javascript", markdown)


def test_facts_of_data_training_and_cost(good: tuple[str, str]) -> None:
    words = Parsed(good[0]).words
    for fact in (
        "Cleaned 1,019 16 31 21 951", "all 700 80 171 bug 300 0 0 billing 300 0 0", "scrubbed: email 14",
        "raw/a<b>.jsonl ab12ab12ab12ab12", "No test row repeats or resembles a training row.",
        "Found over all rows (balance): the largest label is 12 times the smallest.",
        "Trainable parameters 1,000 (1.0% of all)", "fell from 2.000 before training to 0.500 at step 20",
        "2,000 of 50,000 tokens (4.0%) have loss", "Examples with truncated user text 3",
        "Training 1 min 15 s 1 min 14 s 1,234 MiB",
        "A request takes 75.0% fewer tokens", "Resumed from checkpoint-20",
    ):  # fmt: skip
        assert fact in words, fact
    assert "iban" not in good[0], "nothing of that kind was found"


def test_markdown_holds_the_same_sections_without_texts_of_rows(good: tuple[str, str]) -> None:
    for title in ("What to do next", "Learning curves", "Data card", "Supervision", "Cost", "Lineage and hashes"):
        assert f"## {title}\n" in good[1], title
    assert "| Cleaned | 1,019 | 16 | 31 | 21 | 951 |" in good[1]
    assert "text of e0100" in good[0] and "text of" not in good[1]


@pytest.mark.parametrize("metric", ["exact", "micro_f1", "text"])
def test_tasks_of_other_kinds_have_pages_too(metric: str) -> None:
    if metric == "text":
        page, markdown = pages(text_evaluation(), text_spec())
        Parsed(page).assert_inert()
        assert "ROUGE-L 100.0 on 40 sealed rows, 33.3 points more" in page
        assert 'id="confusion"' not in page and 'id="form"' not in page and "## Labels" not in markdown
        lengths = "Length, relative to the reference Mean Base, best prompt 0.482 Fine-tuned 1.000"
        assert lengths in Parsed(page).words, "the base model answers the first three words of six"
        return
    page, markdown = pages(json_evaluation(gates={"metric": metric}), json_spec(gates={"metric": metric}))
    words = Parsed(page).words
    if metric == "exact":
        assert "The fine-tuned model is right on 90.0% of 60 sealed rows, 90.0 points more than" in words
    else:
        assert "The fine-tuned model reaches micro-F1 of the fields 95.0 on 60 sealed rows" in words
    assert "city 90.0% 90.0% 90.0% 66.7%" in words and "a field has a wrong value: city 6" in words
    assert "JSON only after repair Base, best prompt 30 50.0%" in words
    assert "| city | 90.0% |" in markdown and 'id="confusion"' not in page and "ROUGE" not in page


def test_what_is_missing_is_shown_as_missing_or_left_out() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("supervision", "cost", "quality", "ability", "people"))
    page, markdown = pages(evaluation(training=HOSTED | {"measured": {}}, data={}, openings=[], versions={}, **nothing))
    assert "No validation loss was recorded." in page and "No validation loss was recorded." in markdown
    assert "No opening of the sealed test is on record." in page and "Billed n/a" in Parsed(page).words
    assert not {"supervision", "cost", "ability", "people"} & set(re.findall(r'<h2 id="(\w+)">', page))
    assert "## Cost" not in markdown


def test_a_warning_is_no_yes() -> None:
    gates = [
        GateResult(
            name="robust", status="warned", measured=0.4, threshold=0.1, message="-40", what_to_do="Add such rows."
        ),
        GateResult(name="format_compliance", status="passed", measured=1.0, threshold=0.9, message="All in form."),
        GateResult(name="judge", status="not_asked", measured=None, threshold=0.0, message="There is no judge."),
    ]
    page, _ = pages(usual(), gates=gates)
    for status, answer in (("warned", "warns"), ("passed", "yes"), ("not_asked", "not asked")):
        assert f'<td class="{status} nowrap">{answer}</td>' in page
    assert "1 passed, 1 warned, 1 not asked" in page
    steps = next_steps(usual(), gates)
    assert steps[0].startswith("Serve it") and steps[1] == "robust (a warning): Add such rows."


def test_failed_gates_come_first_then_those_passed_narrowly() -> None:
    def result(name: str, status: Any, measured: float | None, threshold: float = 0.0) -> GateResult:
        return GateResult(name=name, status=status, measured=measured, threshold=threshold, message="Measured.")

    gates = [
        result("never_break", "passed", 0.0),  # a count at its limit is no near miss
        result("beats_champion", "not_asked", None),
        result("beats_simple", "passed", 0.004),
        result("beats_commonest", "passed", 0.3),
        result("robust", "warned", 0.2, 0.1),
        result("format_compliance", "failed", 0.979, 0.98),
    ]
    page, _ = pages(usual(), gates=gates)
    shown = re.findall(r"<code>(\w+)</code></td><td class=\"(\w+) nowrap\">([\w ]+)</td>", page)
    assert shown == [
        ("format_compliance", "failed", "no"),
        ("robust", "warned", "warns"),
        ("beats_simple", "passed", "narrowly"),
        ("never_break", "passed", "yes"),
        ("beats_commonest", "passed", "yes"),
        ("beats_champion", "not_asked", "not asked"),
    ]


def picture_titles(page: str, style: str = "") -> list[str]:
    """Names of models in the picture beside the verdict, from top to bottom."""
    picture = page[page.index("<figure>") : page.index("</figure>")]
    return re.findall(rf"<text[^>]*{style}[^>]*>([A-Z][^<]*)</text>", picture)


def test_the_picture_of_all_models_stands_beside_the_verdict_best_first(good: tuple[str, str]) -> None:
    page = good[0]
    assert page.index('class="beside"') < page.index('class="answer"') < page.index(">Gates<")
    assert page.count('aria-label="Scores of all models') == 1
    titles = picture_titles(page)
    assert titles[0] == "Fine-tuned (qlora)" and titles[-1] == "The nearest training row's answer" and len(titles) == 7
    assert picture_titles(page, "weight: 700") == ["Fine-tuned (qlora)"]


def test_the_largest_group_of_mistakes_is_named_first_though_rows_would_not_help() -> None:
    result, rows = evaluation_and_rows()
    largest, *others = result.atlas.groups
    assert [group.count for group in result.atlas.groups] == sorted(
        (g.count for g in result.atlas.groups), reverse=True
    )
    wanted = changed(result, {"atlas.groups.0.collect": 0, "atlas.groups.1.collect": 24})
    advice = steps(wanted)
    first, second = (f"({counted(group.count, 'mistake')}" for group in (largest, others[0]))
    assert f"Work on the largest groups of the 40 mistakes: {group_title(largest)} {first});" in advice
    assert f"{second}: collect 24 rows like these)" in advice and "--ask-data" in advice
    assert "--ask-data" not in steps(result)
    table = pages(wanted, rows=rows)[0].partition('id="atlas"')[2]
    assert table.index(largest.detail) < table.index(others[0].detail)


def steps(result: EvaluationResult, task: TaskSpec | None = None) -> str:
    return "\n".join(next_steps(result, decide(task or spec(), result)))


def test_a_refused_candidate_is_told_what_every_gate_asks_for_and_what_is_cheaper() -> None:
    base, candidate = paired(both=100, only_base=30, only_candidate=30, neither=40)
    linear = {row["example_id"]: row["gold"] for row in base}
    result = evaluation(predictions=[*base, *candidate], simple={"linear": linear})
    advice = steps(result)
    assert "Serve it" not in advice and "shipped instead where it passes its own gates" in advice
    for gate in decide(spec(), result):
        assert (f"{gate.name}: " in advice) is not gate.passed
    page, markdown = pages(changed(result, {"parity": NOT_COMPARED}))
    for words in (Parsed(page).words, markdown.replace("\\", "")):
        assert "Ship nothing." in words and "Refused by beats_baseline, " in words and "merge_parity: " in words
    form = changed(result, {"format_gap.closed_by_decoding": 0.7})
    assert "constraining the base model's answers to the labels instead: that brings 70.0% of the gain" in steps(form)


def test_a_simple_model_that_is_not_surely_beaten_is_shipped_and_the_report_says_why() -> None:
    base, _ = paired(both=100, only_base=5, only_candidate=60, neither=35)
    gold = {row["example_id"]: row["gold"] for row in base}
    useless = dict.fromkeys(gold, "no label")
    wrong = {i: "bug" if label != "bug" else "other" for i, label in gold.items()}
    nearest, linear = (wrong | dict(list(gold.items())[:n]) for n in (165, 180))
    result = evaluation(simple={"commonest": useless, "nearest": nearest, "linear": linear})
    result, gates = decide_finalists(spec(), result), decide(spec(), result)
    first, *later_steps = next_steps(result, gates)
    assert first.startswith("Serve it: `finetune serve triage`")
    assert not [step for step in later_steps if step.startswith("beats_simple:")]
    assert [step for step in later_steps if "gates.simple: not_worse" in step]
    page, markdown = pages(result)
    counts = counted_gates(result.finalists[0].gates, "beats_commonest", "format_compliance")
    for words in (Parsed(page).words, markdown.replace("\\", "")):
        for sentence in (
            "Ship TF-IDF and logistic regression: the fine-tuned model is not surely better. Wrong in 10 of 100 answers.",
            "The fine-tuned model does not pass beats_simple. Nothing is surely better than TF-IDF and logistic regression, which "
            f"passes its gates: {counts}.",
            "TF-IDF and logistic regression reaches accuracy 90.0%, +90.0 points over the commonest answer (+8",
        ):
            assert sentence in words
    assert 'class="verdict passed"' in page and "is significantly better" in page
    assert picture_titles(page, "weight: 700") == ["TF-IDF and logistic regression"], "what is shipped is highlighted"
    strong = [row[0] for table in tables_of(result, gates, "models") for row in (table.rows[i] for i in table.strong)]
    assert strong == ["TF-IDF and logistic regression"], "in the table, too"


def test_the_closest_simple_model_stands_beside_the_verdict_if_it_is_closer_than_the_best_prompt() -> None:
    """A large gain over a prompt says little where a model made in seconds is nearly as good."""
    base, candidate = paired(both=100, only_base=0, only_candidate=90, neither=10)
    answers = {row["example_id"]: "no label" for row in base}
    right = {row["example_id"]: row["gold"] for row in candidate if row["text"] == row["gold"]}
    close = answers | dict(list(right.items())[:150])
    predictions = [*base, *candidate]
    result = evaluation(predictions=predictions, simple={"nearest": answers, "linear": close})
    sentence = "Its closest rival is TF-IDF and logistic regression: +20.0 points (+1"
    assert sentence in "\n".join(caveats(result, [])) and sentence in pages(result)[1].replace("\\", "")
    for far in ({"nearest": answers}, {"linear": answers | right}, {}):
        assert "closest rival" not in "\n".join(caveats(evaluation(predictions=predictions, simple=far), []))


def test_a_training_that_stopped_too_early_or_too_late_is_told() -> None:
    def early(*losses: float) -> str:
        history = [{"step": 20 * i, "eval_loss": loss} for i, loss in enumerate(losses)]
        last = history[-1]["step"]
        return steps(evaluation(training={**TRAINING, "best_step": last, "steps": last, "history": history}))

    assert "still falling at the last of 3 measurements, from 1.6 to 1.4 (training.epochs)" in early(2.0, 1.8, 1.6, 1.4)
    assert "Train l" not in early(2.0, 1.8, 1.6), "two points after the start are no curve"
    assert "Train l" not in early(2.0, 1.4, 1.301, 1.3) + steps(usual())
    for verdict, rise, sentence in (
        ("overfitted", 0.1, "Train less or on more rows: the validation loss rose by 10.0% after step 20"),
        ("unstable", 0.3, "Lower training.learning_rate: the validation loss rose by 30.0% after step 20"),
        ("turning", 0.005, None),
        ("unstable", 0.09, None),  # the check not_overfitted passes such a rise, and so does the advice
    ):
        fit = TRAINING["overfitting"] | {"verdict": verdict, "rise": rise}
        advice = steps(evaluation(training={**TRAINING, "overfitting": fit}))
        assert sentence in advice if sentence else "validation loss" not in advice


@pytest.mark.parametrize("kind", ["labels", "json", "text"])
def test_the_json_report_has_the_same_documented_keys_for_every_kind_of_task(kind: str) -> None:
    makers = {"labels": (usual, spec), "json": (json_evaluation, json_spec), "text": (text_evaluation, text_spec)}
    result, task = (make() for make in makers[kind])
    gates = decide(task, result)
    report = Report.of(result, gates).to_json()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["schema_version"] == SCHEMA_VERSION == 6
    assert set(report) == set(Report.model_fields)
    assert Report.model_validate(report).to_json() == report, "it reads what it wrote"
    jsonschema.validate(report, Report.model_json_schema(mode="serialization"))
    documented = (Path(__file__).parents[3] / "docs" / "report.md").read_text("utf-8")
    assert not [key for key in report if f"`{key}`" not in documented]
    assert report["verdict"]["passed"] is all(g.passed for g in gates) is (report["verdict"]["decision"] == "promote")
    assert report["verdict"]["sentence"] in pages(result, task)[1].replace("\\", "")
    assert [g["name"] for g in report["gates"]] == [g.name for g in gates]
