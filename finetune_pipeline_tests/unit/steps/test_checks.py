"""Every check: a planted fault makes it say no, a clean artifact makes it say yes, and missing facts never pass."""

import copy
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.engine.checks import Check
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.rivals import ScoredBaselines, score_baselines
from finetune_pipeline.pipeline import CHECKS, PIPELINE
from finetune_pipeline.spec import TaskSpec, parse_spec
from finetune_pipeline.training.audit import COUNTS
from finetune_pipeline_tests.model_facts import BASE, merged
from finetune_pipeline_tests.trainings import HOSTED, LOCAL
from finetune_pipeline_tests.unit.data.rows import write_clean, write_validated
from finetune_pipeline_tests.unit.evaluation.baselines import baseline_of
from finetune_pipeline_tests.unit.evaluation.fake_run import report_facts
from finetune_pipeline_tests.unit.evaluation.rows import row
from finetune_pipeline_tests.unit.evaluation.rows import spec as evaluation_spec
from finetune_pipeline_tests.unit.planning.plans import planned
from finetune_pipeline_tests.unit.production.releases import released_facts
from finetune_pipeline_tests.unit.production.streams import drift_of

LADDER = Ladder(
    metric="accuracy", rows=60, confidence=0.95, rungs=[], points=[], expected=None, stands="prompt",
    decision="larger_model", sentence="s", reasons=[], flips=[], skipped={},
).to_json()  # fmt: skip

SPEC = {
    "name": "demo", "description": "d", "system_prompt": "yes no",
    "output": {"kind": "labels", "labels": ["yes", "no"]}, "data": {"min_examples": 4, "min_per_label": 2},
}  # fmt: skip

AUDITS, FOUR_BIT = LOCAL["audit"], LOCAL["weights"]
GATE = {"name": "x", "status": "passed", "message": "m", "measured": 1.0, "threshold": 0.0, "what_to_do": ""}


def answers(**statuses: int) -> dict[str, Any]:
    """Facts of one model's answers that ended so."""
    return {"rows": sum(statuses.values()), "statuses": {"ok": 0, "error": 0, **statuses}}


def asked(**statuses: int) -> dict[str, Any]:
    """Facts of a baseline with one prompt whose answers ended so."""
    scores = score_baselines(evaluation_spec(), {"zero_shot": [row(0, "bug", "bug")]}).to_json()
    details = answers(**statuses)
    scores["prompts"]["zero_shot"]["statuses"] = details["statuses"]
    return baseline_of(ScoredBaselines.of(scores), {"zero_shot": details}).to_json()


RESTRICTED = {"asked": 1, "available": True, "why": "", "statuses": {"error": 1}}
POWER = {
    "enough": True, "sentence": "s", "test_rows": 400, "rows_needed": 340, "detectable_gain": 0.04, "wanted_gain": 0.05,
    "power_now": 0.85, "obstacles": [], "power": 0.8, "metric": "accuracy", "rival": "r", "before": 0.7, "must_reach": 0.8,
    "disagreement": 0.3, "design_effect": 1.0, "examples_needed": 3400,
}  # fmt: skip

WORTH = {"passed": True, "reason": "r", "best": "zero_shot", "enough": None}
ADVICE = {
    "decision": "fine_tune", "fine_tune": True, "sentence": "Yes.", "reasons": ["r"], "must_reach": 0.8,
    "failures": {"prompt": "zero_shot", "n": 9, "right": 5, "form": 1, "judgement": 3, "unnamed": 0, "knowledge": None,
                 "kinds": {}},
    "retrieval": None, "tokens": None,
}  # fmt: skip
SIGNAL = {"status": "shown", "evidence": [], "rows": 100, "rows_needed": 50, "sentence": "s"}
ADVISED = {"learnable": SIGNAL, "power": POWER, "worth_training": WORTH, "advice": ADVICE, "advice_markdown": "**Yes**"}
LOSSES = {
    "rows_read": 500, "stages": {"validation": 60, "cleaning": 40}, "labels": {"yes": 20, "no": 9},
    "label_rows": {"yes": 100, "no": 11},
}  # fmt: skip
_SIGN = {"wins": 2, "losses": 1, "ties": 0, "n": 3, "share": 2 / 3, "interval": [0.2, 0.9], "p": 1.0}
JUDGED = {
    "name": "m at h", "believed": True, "refused": [], "rated": 40, "kappa": 0.8, "interval": [0.6, 0.9],
    "agreement": 0.9, "consistent": 0.95, **dict.fromkeys(("place", "length", "padding"), _SIGN),
    "verdict": {**_SIGN, "failed": 0, "equal": 0, "choices": {}},
}  # fmt: skip


SPLIT = {
    "rows_in": 110, "kept": 110, "quarantined": 0, "counts": {"train": 80, "validation": 10, "test": 20}, "labels": {},
    "origins": {}, "shares": {}, "wanted_shares": {}, "clusters": 9, "by_rule": {}, "seed": 0, "left": {}, "leaks": {},
    "alike": {}, "ledger": "splits",
}  # fmt: skip
REVIEWED = {
    "rows_in": 4, "kept": 4, "dropped": 0, "relabelled": 0, "confirmed": 0, "decisions": 2, "overruled": 0, "by_rule": {},
    "reviewers": {}, "labels": {"yes": 2, "no": 2}, "origins": {},
}  # fmt: skip
CLEANED = {
    **dict.fromkeys(("rows_in", "kept", "quarantined", "exact_duplicates", "near_duplicates", "contradictions"), 0),
    **dict.fromkeys(("benchmark_rows", "scrubbed_rows", "boilerplate", "clusters", "prompts", "similar_pairs"), 0),
    **{key: {} for key in ("by_rule", "scrubbed", "labels", "labels_lost")}, "scrub": "replace",
}  # fmt: skip
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
NAMED = {"elsewhere": 0, "others": 0, "like_test": 3}
TIMES = {
    "newest_train": "2026-01-05T00:00:00+00:00", "oldest_test": "2026-01-02T00:00:00+00:00", "misplaced": 0, "not_human": 1,
    "later_rounds": 30, "undated": 2, "left": 4, "train": 90,
}  # fmt: skip

PARTS = {
    "synthetic_rows_reviewed": "synthetic", "class_balance": "balance", "labels_believable": "noise", "rows_fit": "tokens",
    "labels_not_in_inputs": "inputs", "answers_alike": "answers",
}  # fmt: skip
"""Checks of the data's quality, and the parts of the report they read."""


def _part(name: str, passed: bool) -> dict[str, Any]:
    return {"passed": passed, "parts": {name: {"passed": passed, "message": "m", "blocking": True}}}


def _unread(about: str, severity: str) -> dict[str, str]:
    return {"about": about, "rule": "r", "severity": severity, "place": "raw/a.csv", "message": "m", "fix": "f"}


PREFERENCES = {
    "of_files": 150, "logged": 60, "compared": 20, "refused": 0, "left_out": {"equal_pair": 10}, "by_rule": {}, "kept": 200,
    "pairs": 120, "liked": 160, "disliked": 160, "held": 0, "unused": {}, "against_training": 6, "comparable": 12, "too_few": "",
}  # fmt: skip


LOGS = {
    "lines": 8, "rows": 3, "quarantined": 1, "duplicates": 1, "feedback": 1, "unmatched": 0, "shadows": 2, "by_rule": {},
    "corrections": 3, "judging": 0, "held": 0, "held_by_rule": {}, "queue": {}, "left_out": 0, "flagged": 0,
}  # fmt: skip
VALIDATED = {
    "rows_in": 5, "kept": 4, "quarantined": 1, "quarantined_share": 0.2, "by_rule": {}, "shapes": {}, "labels": {},
    "files": [], "ignored_keys": {}, "labels_lost": {}, "labels_unknown": {}, "unread": [], "losses": LOSSES,
}  # fmt: skip


# (step, check): facts of a clean artifact, and changes that each plant one fault
FACTS: dict[tuple[str, str], tuple[dict[str, Any], list[dict[str, Any]]]] = {
    ("production_logs", "logs_accounted_for"): (LOGS,
        [{"rows": 2}, {"lines": 4}, {"feedback": 0}, {"shadows": 1}]),
    ("production_logs", "nothing_held_back"): (LOGS,
        [{"held": 1, "held_by_rule": {"poison_instruction": 1}}, {"held": 2}]),
    ("unlabelled_rows", "rows_accounted_for"): ({"rows_in": 5, "kept": 3, "quarantined": 1, "repeats": 1}, [{"repeats": 0}]),
    ("teacher_answers", "rows_accounted_for"): ({"rows_in": 5, "kept": 3, "left_out": 2}, [{"left_out": 1}]),
    ("splits", "people_judge"): (SPLIT | {"teacher": True, "origins": {"validation": {"human": 2}, "test": {"human": 3}}},
        [{"origins": {"validation": {"human": 2, "synthetic": 1}, "test": {"human": 3}}},
         {"origins": {"validation": {}, "test": {"human": 3}}}, {"origins": {}}]),
    ("validated_examples", "rows_accounted_for"): (VALIDATED,
        [{"kept": 3}, {"kept": 5}]),
    **{(step, "quarantine_share"): ({"losses": LOSSES}, [
        {"losses": LOSSES | {"stages": {"validation": 60, "cleaning": 41}}},
        {"losses": LOSSES | {"labels": {"yes": 21, "no": 9}}},
        {"losses": LOSSES | {"label_rows": {"yes": 100, "no": 20}}}, {"losses": {}}])
        for step in ("validated_examples", "clean_examples", "splits")},
    ("validated_examples", "files_read"): (VALIDATED | {"unread": [_unread("file", "warning")]}, [{"rows_in": 0},
        {"rows_in": 0, "unread": []}, {"unread": [_unread("file", "error")]}, {"unread": [_unread("rest", "error")]}]),
    ("clean_examples", "rows_accounted_for"): ({"rows_in": 6, "kept": 3, "quarantined": 1, "exact_duplicates": 1,
        "near_duplicates": 1}, [{"near_duplicates": 0}]),
    ("reviewed_examples", "enough_examples"): (REVIEWED, [{"kept": 3}]),
    ("reviewed_examples", "enough_per_label"): (REVIEWED, [{"labels": {"yes": 2, "no": 1}}]),
    **{("data_quality", name): (_part(part, True), [_part(part, False), {"parts": {}}]) for name, part in PARTS.items()},
    ("reviewed_examples", "reviews_applied"): (REVIEWED,
        [{"by_rule": {"data.review_unknown_id": 1}}]),
    ("splits", "rows_accounted_for"): (SPLIT | {"rows_in": 10, "quarantined": 1,
        "counts": {"train": 6, "validation": 1, "test": 2}}, [{"quarantined": 0}]),
    ("splits", "few_rows_left"): (SPLIT | {"left": {"train": 3, "validation": 1, "test": 0}},
        [{"left": {"train": 5, "validation": 1, "test": 0}}]),
    ("splits", "time_decides"): (SPLIT | {"time_order": TIMES}, [{"time_order": TIMES | {"misplaced": 1}},
        {"time_order": TIMES | {"left": 9}}, {"time_order": TIMES | {"oldest_test": ""}}, {"time_order": {}}]),
    ("splits", "named_files_are_the_test"): (SPLIT | {"test_files": NAMED, "counts": {"train": 90, "validation": 10, "test": 20}},
        [{"test_files": NAMED | {"elsewhere": 1}}, {"test_files": NAMED | {"others": 1}},
         {"test_files": NAMED | {"like_test": 6}}, {"test_files": {}}]),
    ("splits", "split_sizes"): (SPLIT | {"shares": {"train": 0.7, "validation": 0.1, "test": 0.2}, "wanted_shares": SHARES},
        [{"shares": {"validation": 0.1, "test": 0.3}}]),
    ("base_model", "safe_weights"): (BASE,
        [{"files": {"model.safetensors": "x", "pytorch_model.bin": "y"}}, {"files": {"config.json": "y"}},
        {"files": None}]),
    ("few_shot_baseline", "generations_complete"): (asked(ok=9), [asked(ok=8, error=1),
        asked(ok=9) | {"prompt_details": {"zero_shot": answers(ok=9) | {"restricted": RESTRICTED}}},
        {"prompts": {}, "prompt_details": {}}]),
    ("advice", "enough_test_rows"): (ADVISED,
        [{"power": POWER | {"enough": False}}, {"power": POWER | {"obstacles": [{"gate": "g", "reason": "r", "to_do": "t"}]}},
        {"power": {"enough": True}}, {"power": None}]),
    ("advice", "advised"): (ADVISED, [{"advice": ADVICE | {"fine_tune": False, "decision": "prompt"}},
        {"advice": ADVICE | {"fine_tune": "yes"}}, {"advice": None}]),
    ("advice", "learnable"): (ADVISED, [{"learnable": SIGNAL | {"status": "not_shown"}},
        {"learnable": SIGNAL | {"status": None}}, {"learnable": None}]),
    ("advice", "worth_training"): (ADVISED,
        [{"worth_training": WORTH | {"passed": False, "enough": "linear"}}, {"worth_training": WORTH | {"passed": 1}}]),
    ("training_plan", "fits_memory"): (planned(), [{"fits": False}]),
    ("training_plan", "nothing_truncated"): (planned(), [{"over_length": 1}]),
    ("adapter", "supervision"): (LOCAL, [{"audit": {**AUDITS, k: 1}} for k in COUNTS]
        + [{"audit": {**AUDITS, "rows": 0}}, {"audit": {**AUDITS, "rows_without_eos": "0"}},
        {"audit": {k: n for k, n in AUDITS.items() if k != "rows_without_eos"}}]),
    ("adapter", "loss_finite"): (LOCAL, [{"last_train_loss": float("nan")}]),
    ("adapter", "learned"): (LOCAL, [{"best_eval_loss": 2.0}, {"best_eval_loss": 2.5}, {"best_eval_loss": float("nan")}]),
    ("adapter", "not_overfitted"): (LOCAL,
        [{"history": [{"step": 4, "eval_loss": 0.5}, {"step": 8, "eval_loss": 0.56}]}, {"history": []}]),
    ("adapter", "only_adapter_tensors"): (LOCAL,
        [{"adapter_tensors": ["a.lora_A.weight", "lm_head.weight"]}, {"adapter_tensors": ["prompt_embeddings"]},
        {"adapter_tensors": []}]),
    ("adapter", "four_bit_weights"): (LOCAL,
        [{"weights": {**FOUR_BIT, "by_kind": {"quantized": 200, "other": 400}}},
        {"weights": {**FOUR_BIT, "quantized_modules": 0}},
        {"weights": {**FOUR_BIT, "by_kind": {"quantized": 0, "other": 600}}}]),
    ("merged_model", "merge_parity"): (merged(),
        [merged(passed=False), merged(same_greedy_share=0.89), merged(rows=0), {"parity": {}}, {"parity": None}]),
    ("base_ability", "ability_scored"): ({"items": 258, "unscored": 0}, [{"unscored": 1}, {"items": 0}]),
    ("general_ability", "ability_kept"): ({"items": 258, "unscored": 0, "n": 234, "drop": 0.01,
        "interval": [-0.03, 0.05], "text": None, "categories": {}, "lost_items": []},
        [{"drop": 0.2, "interval": [0.14, 0.27]}, {"failed": ["a", "b"]}, {"interval": [float("nan"), 0.01]}, {"items": 0}]),
    ("human_review", "ratings_read"): ({"rated": 3, "raters": {"Ada": 3}, "unknown": 0, "by_rule": {}},
        [{"unknown": 1}, {"by_rule": {"people.rating": 2}}]),
    ("judge_review", "judge_believed"): ({"judge": JUDGED, "similarity": None},
        [{"judge": JUDGED | {"believed": False, "refused": ["it prefers whatever comes first"], "verdict": None}},
        {"judge": JUDGED | {"believed": False, "refused": ["where it is wrong it prefers the longer answer"]}},
        {"judge": JUDGED | {"refused": ["it agrees too little with people"]}}, {"judge": JUDGED | {"believed": "yes"}},
        {"judge": {}}]),
    ("test_predictions", "all_rows_predicted"): ({"rows": 5, "sets": {"base": answers(ok=5), "candidate": answers(ok=4, empty=1)}},
        [{"sets": {"base": answers(ok=5), "candidate": answers(ok=4)}},
        {"sets": {"base": answers(ok=4, error=1)}}, {"sets": {}}]),
    ("model_version", "nothing_forgotten"): (released_facts(3),
        [{"forgotten": True}, {"forgotten": None}]),
    ("model_version", "aliases_consistent"): (released_facts(3),
        [{"champion_gates": "failed"}, {"champion_gates": None}]),
    ("model_version", "champion_serves_well"): ({"passed": True, "message": "as good as before", "figures": {"rows": 60}},
        [{"passed": False}, {"passed": None}]),
    ("ladder", "answer_sure"): (LADDER,
        [{"decision": "undecided"}, {"decision": None, "sentence": None}]),
    ("preference_rows", "preferences_accounted_for"): (PREFERENCES, [{"kept": 199}, {"refused": 1}, {"left_out": {}}]),
    ("preference_rows", "enough_preferences"): (PREFERENCES, [{"too_few": "20 pairs; a second stage with dpo needs 100"}]),
    ("preference_rows", "pairs_not_swapped"): (PREFERENCES, [{"against_training": 7}]),
    ("drift_report", "no_drift"): (msgspec.to_builtins(drift_of()), [{"drifted": ["label_mix"]}, {"drifted": None}]),
}  # fmt: skip
WITH_FILES = {
    ("validated_examples", "system_prompt_present"), ("clean_examples", "no_personal_data"), ("splits", "no_leakage"),
}  # fmt: skip


@pytest.fixture
def spec() -> TaskSpec:
    return parse_spec(yaml.safe_dump(SPEC))


def artifact(facts: dict[str, Any], folder: Path) -> Artifact:
    return Artifact("demo", "step", "v", folder, facts, {})


def gates() -> list[Check]:
    return [c for step, c in CHECKS if step == "evaluation_report"]


def find(step: str, name: str) -> Check:
    return next(c for of, c in CHECKS if (of, c.name) == (step, name))


def test_every_check_has_a_planted_fault_here() -> None:
    planted = set(FACTS) | WITH_FILES | {("evaluation_report", c.name) for c in gates()}
    assert {(step, c.name) for step, c in CHECKS} == planted and len(CHECKS) == len(planted)


@pytest.mark.parametrize("key", FACTS, ids="/".join)
def test_clean_facts_pass_and_each_planted_fault_is_caught(key: Any, spec: TaskSpec, tmp_path: Path) -> None:
    clean, faults = FACTS[key]
    check = find(*key)
    clean_result = check.ask(artifact(copy.deepcopy(clean), tmp_path), spec)
    assert clean_result.passed, clean_result.message
    for fault in faults:
        faulty_result = check.ask(artifact({**clean, **fault}, tmp_path), spec)
        assert not faulty_result.passed, f"{fault} went through: {faulty_result.message}"
    assert not check.ask(artifact({}, tmp_path), spec).passed, "without facts a check must say no"


def test_feedback_to_answers_that_never_came_is_told(spec: TaskSpec, tmp_path: Path) -> None:
    facts = {**FACTS["production_logs", "logs_accounted_for"][0], "unmatched": 1}
    result = find("production_logs", "logs_accounted_for").ask(artifact(facts, tmp_path), spec)
    assert result.passed and "1 lines of feedback are for answers not logged yet" in result.message


@pytest.mark.parametrize("check", gates(), ids=lambda c: c.name)
def test_gates_are_asked_by_name_and_missing_ones_say_no(check: Check, spec: TaskSpec, tmp_path: Path) -> None:
    def facts(**change: Any) -> dict[str, Any]:
        every = [{**GATE, "name": c.name, **(change if c.name == check.name else {})} for c in gates()]
        return report_facts(gates=every)

    assert check.ask(artifact(facts(), tmp_path), spec).passed
    not_asked = check.ask(artifact(facts(status="not_asked"), tmp_path), spec)
    assert not_asked.passed and not_asked.message.startswith("Not asked: ")
    warned = check.ask(artifact(facts(status="warned"), tmp_path), spec)
    assert not warned.passed and warned.warns, "one answer: what the report calls a warning is one in Dagster, too"
    failed = check.ask(artifact(facts(status="failed"), tmp_path), spec)
    assert not failed.passed and not failed.warns
    assert not check.ask(artifact(facts(status="yes"), tmp_path), spec).passed
    assert not check.ask(artifact(report_facts(gates=[]), tmp_path), spec).passed


def example(text: str, answer: str = "yes", system: str = "yes no") -> Example:
    contents = {"system": system, "user": text, "assistant": answer}
    return Example(
        id=text, label=answer, messages=[{"role": role, "content": words} for role, words in contents.items()]
    )


def test_no_personal_data(spec: TaskSpec, tmp_path: Path) -> None:
    check = find("clean_examples", "no_personal_data")
    for text, clean in (("order 48210 since 2026-03-04, at [EMAIL_1]", True), ("reach me at ann@shop.example", False)):
        folder = write_validated(tmp_path / str(clean), [replace(example(text), id=f"{1:016x}")])
        assert check.ask(artifact(CLEANED | {"kept": 1}, folder), spec).passed is clean
    lowered = parse_spec(yaml.safe_dump({**SPEC, "data": {"scrub": "warn"}}))
    assert (check.action(spec), check.action(lowered)) == ("block", "fail")


@pytest.mark.parametrize("name", ["learnable", "worth_training", "enough_test_rows"])
def test_what_may_be_lowered_to_a_warning_blocks_or_warns(name: str) -> None:
    check = find("advice", name)
    lowered, raised = (parse_spec(yaml.safe_dump({**SPEC, "gates": {name: action}})) for action in ("warn", "block"))
    assert (check.action(raised), check.action(lowered)) == ("block", "warn")


def test_what_is_enough_without_training_is_left_to_the_sealed_test_unless_it_cannot_be_shipped(
    spec: TaskSpec, tmp_path: Path
) -> None:
    check, adapter = find("advice", "worth_training"), PIPELINE.steps["adapter"]
    warned = parse_spec(yaml.safe_dump({**SPEC, "gates": {"worth_training": "warn"}}))
    assert adapter.skipped_by is not None
    name, why_skipped = adapter.skipped_by
    assert name == "advice"
    for passed, shippable, task, skips, blocks in (
        (True, False, spec, False, False),
        (False, True, spec, True, False),
        (False, False, spec, False, True),
        (False, True, warned, False, False),
    ):
        worth = WORTH | {"passed": passed, "shippable": shippable, "reason": "TF-IDF is enough."}
        advice = artifact(ADVISED | {"worth_training": worth}, tmp_path)
        answer = check.ask(advice, task)
        assert answer.message.startswith("TF-IDF is enough.")
        assert ("gates.worth_training: warn" in answer.message) is not passed
        assert ("nothing is trained" in answer.message) is skips
        assert bool(why_skipped(advice, task)) is skips
        assert (check.holds_back(advice, task) is not None) is blocks


def test_checks_of_a_step_that_made_nothing_say_why(spec: TaskSpec, tmp_path: Path) -> None:
    for step in ("adapter", "merged_model"):
        for check in PIPELINE.steps[step].checks:
            answer = check.ask(artifact({"not_made": "nothing was trained"}, tmp_path), spec)
            assert (answer.passed, answer.message) == (True, "not asked: nothing was trained")
            assert check.ask(artifact({"not_made": ""}, tmp_path), spec).passed is False


@pytest.mark.parametrize(
    ("method", "right", "wrong"),
    [("lora", ["a.lora_A.weight"], ["a.weight"]),
        ("full", ["a.weight", "lm_head.weight"], ["a.weight", "a.lora_A.weight"]),
        ("prompt", ["prompt_embeddings"], ["prompt_embeddings", "model.embed_tokens.weight"]),
        ("prefix", ["prompt_embeddings"], ["a.lora_A.weight"])],
)  # fmt: skip
def test_each_method_saves_its_own_tensors(method: str, right: list[str], wrong: list[str], tmp_path: Path) -> None:
    spec = parse_spec(yaml.safe_dump({**SPEC, "training": {"method": method}}))
    check = find("adapter", "only_adapter_tensors")
    assert check.ask(artifact(LOCAL | {"adapter_tensors": right}, tmp_path), spec).passed
    answer = check.ask(artifact(LOCAL | {"adapter_tensors": wrong}, tmp_path), spec)
    assert not answer.passed and f"1 tensors do not belong to method {method}" in answer.message


@pytest.mark.parametrize(
    ("name", "losses", "passed", "warns"),
    [("loss_finite", [2.0, 1.0], True, False), ("loss_finite", [2.0, float("nan")], False, False),
        ("loss_finite", [], False, True),
        ("learned", [2.0, 1.0], True, True), ("learned", [1.0, 2.0], False, True), ("learned", [1.0], False, True)],
)  # fmt: skip
def test_a_service_is_judged_by_the_losses_it_reports(
    name: str, losses: list[float], passed: bool, warns: bool, spec: TaskSpec, tmp_path: Path
) -> None:
    """A service that reports too little warns; a loss that is no number blocks."""
    history = [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses)]
    answer = find("adapter", name).ask(artifact(HOSTED | {"history": history}, tmp_path), spec)
    assert (answer.passed, answer.warns) == (passed, warns)


def test_what_was_not_merged_is_not_compared(spec: TaskSpec, tmp_path: Path) -> None:
    hosted = artifact(merged("endpoint", rows=0), tmp_path)
    assert find("merged_model", "merge_parity").ask(hosted, spec).passed


def test_the_check_names_the_command_while_rows_by_people_are_missing(spec: TaskSpec, tmp_path: Path) -> None:
    judged = find("splits", "people_judge")

    def message(n: int) -> str:
        origins = {"validation": {"human": n}, "test": {"human": n}}
        return judged.ask(artifact(SPLIT | {"teacher": True, "origins": origins}, tmp_path), spec).message

    assert "At least 213 more are needed" in message(10) and "finetune review demo --what test" in message(10)
    assert message(200) == "200 rows of people in validation and 200 rows of people in test, 0 by models"


def test_rows_that_left_warn_and_block_only_where_most_are_gone(spec: TaskSpec, tmp_path: Path) -> None:
    check = find("splits", "few_rows_left")
    for left, warns in ((20, True), (90, False)):
        split = {"train": 80, "validation": 0, "test": 9}
        facts = SPLIT | {"left": {"train": left, "validation": 0, "test": 0}, "counts": split}
        answer = check.ask(artifact(facts, tmp_path), spec)
        assert not answer.passed and answer.warns is warns and "split.restart: true" in answer.message


def test_no_leakage(spec: TaskSpec, tmp_path: Path) -> None:
    """The files of a real split pass; a test row copied into the training file does not, nor a certificate with a leak."""
    words = "alpha bravo charly delta echo foxtrot golf hotel india juliet kilo lima mike november".split()
    rows = [
        replace(example(" ".join(random.Random(i).choices(words, k=12)), "yes"), id=f"{i:016x}", source={"line": i})
        for i in range(60)
    ]
    cleaned = write_clean(tmp_path / "clean", rows, spec)
    split(cleaned, cleaned, spec, tmp_path / "ledger", tmp_path / "out")
    check = find("splits", "no_leakage")
    assert check.ask(artifact({}, tmp_path / "out"), spec).passed
    certificate = read_json(tmp_path / "out/leakage.json")
    for change in ({"near": 1}, {"exact": 1}, {"group": 1}, {"canaries": {**certificate["canaries"], "found": 1}}):
        write_json(tmp_path / "out/leakage.json", {**certificate, **change})
        assert not check.ask(artifact({}, tmp_path / "out"), spec).passed, change
    kinds = certificate["edited"]
    for found, interval, poor, warns in ((20, [0.35, 0.65], ["one typo"], True), (0, [0.0, 0.09], kinds, False)):
        few = {"tested": 40, "found": found, "recall": found / 40, "interval": interval}
        write_json(tmp_path / "out/leakage.json", {**certificate, "edited": {**kinds, **dict.fromkeys(poor, few)}})
        answer = check.ask(artifact({}, tmp_path / "out"), spec)
        assert not answer.passed and answer.warns is warns and f"one typo {found / 40:.0%}" in answer.message
    write_json(tmp_path / "out/leakage.json", certificate)
    train = tmp_path / "out/train/examples.jsonl"
    train.write_bytes(train.read_bytes() + (tmp_path / "out/test/sealed.jsonl").read_bytes())
    answer = check.ask(artifact({}, tmp_path / "out"), spec)
    assert not answer.passed and "changed since they were certified: train" in answer.message
    (tmp_path / "out/leakage.json").unlink()
    assert not check.ask(artifact({}, tmp_path / "out"), spec).passed
