"""Scored rows: what each says of an answer, and that an answer is parsed and judged once however many read it."""

import json
from collections import Counter

import pytest

from finetune_pipeline.evaluation import scored_rows
from finetune_pipeline.evaluation.correctness import JsonRow, Row, read_json
from finetune_pipeline.evaluation.gates import decide
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.spec.outputs import JsonOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation_and_rows
from finetune_pipeline_tests.unit.evaluation.rows import OUTPUT, json_spec, row

GOLD = json.dumps({"city": "Rome", "guests": 2})


def test_a_scored_row_says_what_was_judged_and_reads_like_its_prediction() -> None:
    prediction = row(1, "bug", "billing", label_scores=[-0.1, -2.0, -3.0])
    (other_label,) = scored([prediction], OUTPUT)
    assert other_label == prediction and (other_label["gold"], len(other_label)) == ("bug", len(prediction))
    assert (other_label.right, other_label.valid, other_label.label) == (False, True, "billing")
    assert (other_label.likeliest.right, other_label.likeliest["text"]) == (True, "bug")
    assert ScoredRow(row(1, "bug", "Bug!"), OUTPUT).broken_rules == ["not_a_label"]
    cut = ScoredRow(row(1, "bug", "bug", status="truncated"), OUTPUT)
    assert (cut.right, cut.valid, cut.label, cut.broken_rules) == (False, False, None, [])
    output = json_spec().output
    assert isinstance(output, JsonOutput)
    fenced = ScoredRow(row(1, GOLD, f"```json\n{GOLD}\n```"), output)
    assert (fenced.right, fenced.valid, fenced.json.parse, fenced.json.same) == (False, False, "repaired", True)
    accepting = output.model_copy(update={"accept_repaired": True})
    (accepted,) = scored([fenced], accepting)
    assert accepted.right and not fenced.right, "judged anew by another output"
    assert scored([fenced], output) == [fenced] and scored([fenced], output)[0] is fenced


def test_a_metric_scores_a_row_once() -> None:
    (answer,) = scored([row(1, "it is late by 2 days", "it is late by 3 days")], TextOutput())
    first = {name: METRICS[name].value([answer], TextOutput()) for name in ("facts", "rouge1")}
    assert first == answer.scores == {"facts": 0.5, "rouge1": pytest.approx(5 / 6)}
    answer.scores["facts"] = 0.25
    assert METRICS["facts"].value([answer], TextOutput()) == 0.25, "the kept score is read"


def test_every_json_answer_is_parsed_once_for_scores_comparisons_gates_failures_and_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: Counter[tuple[str, str]] = Counter()

    def counting(answer: Row, output: JsonOutput) -> JsonRow:
        parsed[answer["model"], answer["example_id"]] += 1
        return read_json(answer, output)

    monkeypatch.setattr(scored_rows, "read_json", counting)
    gold = [json.dumps({"city": "Oslo", "guests": i}) for i in range(30)]
    sets = {"base": "people", "candidate": "guests", "base_restricted": "guests", "champion": "people"}
    answers = [row(i, g, g.replace("guests", key), model) for model, key in sets.items() for i, g in enumerate(gold)]
    spec = json_spec(robustness={"rows": 0}, gates={"more_metrics": ["micro_f1"]})
    answers[31] |= {"text": gold[2]}  # a mistake of the candidate
    rows = scored(answers, spec.output)
    baseline = {
        "prompts": {},
        "simple": {},
        "best": "",
        "best_mode": "free",
        "metric": "exact",
        "confidence": 0.95,
        "n": 30,
    }
    evaluation, shown = evaluation_and_rows(
        spec=spec, predictions=rows, baseline=baseline, versions={"adapter": "c1", "champion": "1"}
    )
    decide(spec, evaluation)
    assert evaluation.scores["candidate"].correct == 29 and not shown.tested["e0001"].right
    assert set(parsed) == {(model, f"e{i:04d}") for model in sets for i in range(30)} and set(parsed.values()) == {1}
