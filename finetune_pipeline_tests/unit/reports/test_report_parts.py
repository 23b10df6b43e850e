"""What to do next, the background of a report, its JSON, and its plots."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from finetune_pipeline.evaluation.gate_result import GateResult
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.reports.html import render_html
from finetune_pipeline.reports.json_report import SCHEMA_VERSION, render_json
from finetune_pipeline.reports.markdown import render_markdown
from finetune_pipeline.reports.next_steps import next_steps
from finetune_pipeline.reports.plots import Dot, dot_plot
from finetune_pipeline.reports.report_plots import report_plots
from finetune_pipeline.reports.sentences import verdict_sentences
from finetune_pipeline.reports.tables import gates_table
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    TRAINING,
    evaluation,
    json_evaluation,
    text_evaluation,
)
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, spec, text_spec


def steps(told: dict, of=None) -> str:
    return "\n".join(next_steps(told, decide(of or spec(), told)))


def test_a_passed_candidate_is_to_be_served_and_looked_at() -> None:
    told = steps(evaluation())
    assert told.startswith("Serve it: no gate said no")
    assert "`finetune review triage`" in told
    page = render_html(evaluation(), decide(spec(), evaluation()))
    assert "<code>finetune review triage</code>" in page


def test_a_long_name_moves_the_scale_and_is_not_written_into_it() -> None:
    def scale_begins(label: str) -> float:
        svg = dot_plot([Dot(label, 0.0, 0.0, 5.0, "0.0"), Dot("short", 50.0, 40.0, 60.0, "50.0")], "t", "a", (0, 100))
        return min(float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="grid"', svg))

    long = "Base, 3 nearest examples (best prompt), validation"
    assert scale_begins("Base") == 330 and 6.6 * len(long) < scale_begins(long) < 400
    assert scale_begins(long * 9) == 490, "the scale keeps its room"


def test_a_warning_is_no_yes() -> None:
    gates = [
        GateResult("robust", "warned", 0.4, 0.1, "Another case -40 points.", "Add such rows."),
        GateResult("format_compliance", "passed", 1.0, 0.9, "All in form."),
        GateResult("judge", "not_asked", None, 0.0, "The spec lets no judge decide."),
    ]
    assert [row[1] for row in gates_table(gates).rows] == ["warns", "yes", "not asked"]
    page = render_html(evaluation(), gates)
    assert '<td class="look-answer nowrap">warns</td>' in page and '<td class="yes nowrap">yes</td>' in page
    assert '<td class="not-asked nowrap">not asked</td>' in page and "1 passed, 1 warned, 1 not asked" in page
    told = next_steps(evaluation(), gates)
    assert told[0].startswith("Serve it") and told[1] == "robust (a warning): Add such rows."


def test_a_refused_candidate_is_told_what_every_gate_asks_for_and_what_is_cheaper() -> None:
    base, candidate = paired(both=100, only_base=30, only_candidate=30, neither=40)
    linear = {r["example_id"]: r["gold"] for r in base}
    made = evaluation(predictions=[*base, *candidate], simple={"linear": linear})
    told, gates = steps(made), decide(spec(), made)
    assert "Serve it" not in told
    for gate in gates:
        assert (f"{gate.name}: " in told) is not gate.passed
    assert "export TASK --simple" in told


def test_a_candidate_beaten_by_a_simple_model_alone_is_told_to_use_that() -> None:
    base, candidate = paired(both=100, only_base=5, only_candidate=60, neither=35)
    gold = {r["example_id"]: r["gold"] for r in base}
    useless = dict.fromkeys(gold, "no label")
    simple = {"commonest": useless, "nearest": useless | dict(list(gold.items())[:165]), "linear": gold}
    made = evaluation(simple=simple)
    gates = decide(spec(), made)
    first, *others = next_steps(made, gates)
    assert first.startswith("Use TF-IDF and logistic regression: `finetune export triage --simple --to DIR` writes it")
    assert not [step for step in (first, *others) if step.startswith(("Serve it", "beats_simple:"))]
    page, card = render_html(made, gates), render_markdown(made, gates)
    assert "Better than prompting, not surely better than the nearest training row's answer and TF-IDF" in card
    assert 'class="verdict simple"' in page and "is surely better" in page


def test_a_tie_that_the_spec_takes_is_said() -> None:
    base, _ = paired(both=100, only_base=5, only_candidate=60, neither=35)
    of = spec(gates={"simple": "not_worse", "simple_margin": 0.2})
    linear = {r["example_id"]: r["gold"] if i < 160 else "no label" for i, r in enumerate(base)}
    commonest = dict.fromkeys(linear, base[0]["gold"])
    made = evaluation(spec=of, simple={"commonest": commonest, "linear": linear})
    answer, _ = verdict_sentences(made, decide(of, made))
    assert answer.startswith("Passed: ") and "It is a tie with TF-IDF and logistic regression" in answer


def test_a_training_that_stopped_too_early_or_too_late_is_told() -> None:
    falling = [{"step": i, "eval_loss": 2.0 - i / 100} for i in (0, 20, 40)]
    early = evaluation(training_facts={**TRAINING, "best_step": 40, "steps": 40, "history": falling})
    assert "Train longer" in steps(early)
    for verdict, rise, said in (
        ("overfitted", 0.1, "Train less or on more rows: the validation loss rose by 10.0% after step 20"),
        ("unstable", 0.3, "Lower training.learning_rate: the validation loss rose by 30.0% after step 20"),
    ):
        fit = {"verdict": verdict, "best_step": 20, "rise": rise}
        assert said in steps(evaluation(training_facts={**TRAINING, "overfitting": fit}))
    for verdict, rise in (("turning", 0.005), ("unstable", 0.09), ("none", 0.0)):
        fit = {"verdict": verdict, "best_step": 20, "rise": rise}
        told = steps(evaluation(training_facts={**TRAINING, "overfitting": fit}))
        assert "validation loss" not in told, "the check not_overfitted passes such a rise, and so does the advice"
    assert "Train l" not in steps(evaluation())


def test_mistakes_and_rows_to_collect_are_not_mistaken_for_each_other() -> None:
    made = evaluation()
    made["atlas"]["groups"][0] |= {"count": 4, "collect": 24}
    assert "(4 mistakes: collect 24 rows like these)" in steps(made)


def test_the_page_tells_data_supervision_and_cost() -> None:
    told = evaluation()
    page, markdown = render_html(told, decide(spec(), told)), render_markdown(told, decide(spec(), told))
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for fact in (
        "raw/a&lt;b&gt;.jsonl 1,042 text label ab12ab12ab12ab12",
        "No test row repeats or resembles a training row.",
        "Found over all rows (balance): the largest label is 12 times the smallest.",
        "2,000 of 50,000 tokens (4.0%) carry loss",
        "Examples with a cut user text 3",
        "&lt;b&gt;hi",
        "Training 1 min 15 s 1 min 14 s 1,234 MiB",
        "took 1 min 10 s; the plan had said 1 min 0 s to 1 min 40 s",
        "A request takes 75.0% fewer tokens",
        "Fine-tuned 200 1.0 201",
        "rented 8B $0.50 to $1.50 2026-05-31",
    ):
        assert fact in words, fact
    assert "<b>hi" not in page
    for title in ("What to do next", "Learning curve", "Data card", "Supervision", "Cost", "Lineage and hashes"):
        assert f"## {title}\n" in markdown, title
    assert "| 20 | 0.500 |" in markdown


def test_the_parts_are_left_out_where_nothing_is_known() -> None:
    told = evaluation(supervision=None, cost=None, quality_facts=None)
    page = render_html(told, decide(spec(), told))
    assert 'id="supervision"' not in page
    assert 'id="cost"' not in page
    assert "## Cost" not in render_markdown(told, decide(spec(), told))


@pytest.mark.parametrize("kind", ["labels", "json", "text"])
def test_the_json_report_has_the_same_keys_for_every_kind_of_task(kind: str) -> None:
    told, of = {
        "labels": (evaluation(), spec()),
        "json": (json_evaluation(), json_spec()),
        "text": (text_evaluation(), text_spec()),
    }[kind]
    gates = decide(of, told)
    made = render_json(told, gates)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["schema_version"] == SCHEMA_VERSION == 2
    assert (
        list(made)
        == (
            "schema_version task verdict gates next_steps metric confidence n models scores restricted "
            "base_at_its_best decisions format_gap comparisons regressions fixes wrong_answers atlas history never_break "
            "robustness production ability people judge similarity data quality supervision cost seal parity learning_curve "
            "training lineage"
        ).split()
    )
    assert made["verdict"]["passed"] is all(g.passed for g in gates) is (made["verdict"]["decision"] == "promote")
    assert made["verdict"]["sentence"] in render_markdown(told, gates).replace("\\", "")
    assert [g["name"] for g in made["gates"]] == [g.name for g in gates]


def test_every_key_of_the_json_report_is_documented() -> None:
    from pathlib import Path

    told = evaluation()
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text("utf-8")
    missing = [key for key in render_json(told, decide(spec(), told)) if f"`{key}`" not in text]
    assert not missing


def test_plots_are_documents_of_their_own() -> None:
    made = report_plots(evaluation())
    assert list(made) == ["models", "gains", "learning_curve"]
    for text in made.values():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "script" not in text
    assert "Fine-tuned (qlora)" in made["models"]
    assert list(report_plots(evaluation(training_facts={}))) == ["models", "gains"]


def test_plots_have_a_narrow_twin_with_the_same_values() -> None:
    told = evaluation()
    page = render_html(told, decide(spec(), told))
    broad = page.split('class="wide broad">')[1].split("</svg>")[0]
    narrow = page.split('class="narrow">')[1].split("</svg>")[0]
    values = re.findall(r">([^<>]*\([^<>]* to [^<>]*\))</text>", broad)
    assert len(values) == len(told["models"])
    assert re.findall(r">([^<>]*\([^<>]* to [^<>]*\))</text>", narrow) == values
    assert 'viewBox="0 0 440' in narrow
