"""A metric and a gate are one file each: spec, decision, checks, report and reference page follow."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TOY_METRIC = """
import numpy as np

from finetune_pipeline.evaluation.metrics import RowMetric, register


@register
class WrongLetters(RowMetric):
    name, kinds, title = "wrong_letters", ("labels",), "wrong first letters"
    described = "the share of answers that begin with another letter than the right label"
    higher_is_better = False

    def row_score(self, row, output):
        return np.float32(row["text"][:1] != row["gold"][:1])
"""
TOY_GATE = """
from finetune_pipeline.evaluation.gates import Outcome, gate


@gate(
    order=55,
    needs="at most three tokens an answer",
    default="3",
    what_to_do="Add shorter answers to the training rows.",
    reads=lambda evaluation: evaluation.cost.tokens["candidate"].answer,
)
def toy_short_answers(spec, tokens):
    return Outcome(tokens <= 3, tokens, 3.0, f"{tokens:g} tokens an answer; at most 3 are allowed.")
"""
SCRIPT = """
import importlib, json, sys
from pathlib import Path

import finetune_pipeline.evaluation.gates as gates
import finetune_pipeline.evaluation.metrics as metrics

folder = Path(sys.argv[1])
for package, member in ((metrics, "wrong_letters"), (gates, "toy_short_answers")):
    package.__path__.append(str(folder))
    importlib.import_module(f"{package.__name__}.{member}")

from finetune_pipeline.evaluation.winner import winner_of
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.spec.loading import check_task, json_schema
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline_tests.unit.evaluation.fake_run import COST, evaluation

sys.path.insert(0, "tools")
from make_reference import render

task, findings = check_task(folder / "triage")
made = {}
for tokens in (1.0, 4.0):
    cost = COST | {"tokens": COST["tokens"] | {"candidate": {"prompt": 200.0, "answer": tokens}}}
    result = evaluation(spec=task.spec, cost=cost)
    answers = gates.decide(task.spec, result)
    made[winner_of(result, answers).kind or "nothing"] = [answer.name for answer in answers if not answer.passed]
gain = result.decisions.baseline.gains[0]
print(json.dumps({
    "findings": [finding.rule for finding in findings],
    "schema": "wrong_letters" in json.dumps(json_schema()),
    "decisions": made,
    "order": [answer.name for answer in answers],
    "gain": [gain.metric, gain.gain, list(gain.interval)],
    "candidate": result.to_json()["scores"]["candidate"]["wrong_letters"],
    "base": result.scores["base"].metric("wrong_letters"),
    "checks": [check.name for step, check in CHECKS if step == "evaluation_report"],
    "report": page_markdown(evaluation_page(result, answers)),
    "reference": render(),
}))
"""
TASK = """
name: triage
description: tickets
system_prompt: Answer with bug, billing or other.
output: {kind: labels, labels: [bug, billing, other]}
gates: {metric: wrong_letters}
"""


def test_a_toy_metric_and_a_toy_gate_in_one_file_each(tmp_path: Path) -> None:
    (tmp_path / "wrong_letters.py").write_text(TOY_METRIC, "utf-8")
    (tmp_path / "toy_short_answers.py").write_text(TOY_GATE, "utf-8")
    (tmp_path / "triage").mkdir()
    (tmp_path / "triage" / "task.yaml").write_text(TASK, "utf-8")
    process = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], text=True, capture_output=True, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    outcome = json.loads(process.stdout.splitlines()[-1])
    assert outcome["findings"] == [] and outcome["schema"]
    assert outcome["decisions"] == {"tuned": [], "nothing": ["toy_short_answers"]}
    assert outcome["order"].index("few_regressions") + 1 == outcome["order"].index("toy_short_answers")
    metric, gain, (low, high) = outcome["gain"]
    assert metric == "wrong_letters" and low > 0 and low < gain < high
    assert outcome["candidate"] < outcome["base"], "fewer wrong letters are a gain"
    assert "toy_short_answers" in outcome["checks"] and "beats_baseline" in outcome["checks"]
    for text in ("wrong first letters", "4 tokens an answer; at most 3 are allowed.", "Add shorter answers"):
        assert text in outcome["report"]
    for text in (
        "`wrong_letters` | labels | the share of",
        "`toy_short_answers` | at most three tokens an answer | 3 |",
    ):
        assert text in outcome["reference"]
