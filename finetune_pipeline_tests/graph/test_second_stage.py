"""A second stage in the whole graph: preference rows without leaks, both adapters judged on validation, and one of them goes on;
with too few preferences the first stage's model goes on alone."""

import json
import random
from pathlib import Path

import pytest

from finetune_pipeline_tests.graph.project import LORA, Finished, Project, rows
from finetune_pipeline_tests.skilled_model import LABELS

REFINE = {"method": "dpo", "epochs": 2, "learning_rate": 0.005}


@pytest.fixture(scope="module")
def refined(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("second_stage")
    training = {**LORA, "refine": REFINE}
    project = Project.continued(finished.project, root, "training_plan", training=training)
    (project.folder / "preferences").mkdir()
    write_pairs(project, 120)
    code, output = project.run()
    assert code in (0, 2) and "steps" in output, output
    return project


def write_pairs(project: Project, count: int) -> None:
    """Pairs on texts like the task's; the right colour is liked. One pair has the prompt of a test row, and one of a training row
    dislikes its answer."""
    pairs = []
    for row in rows(count, seed=77):
        other = next(label for label in LABELS if label != row["label"])
        pairs.append({"prompt": row["text"] + " pair", "chosen": row["label"], "rejected": other})
    splits = project.artifact("splits")
    train = [json.loads(line) for line in (splits / "train/examples.jsonl").read_text().splitlines()]
    validation = [json.loads(line) for line in (splits / "validation/examples.jsonl").read_text().splitlines()]
    reviewed = [
        json.loads(line) for line in (project.artifact("reviewed_examples") / "examples.jsonl").read_text().splitlines()
    ]
    (test, *_) = (row for row in reviewed if row["id"] not in {each["id"] for each in [*train, *validation]})
    for row, chosen in ((test, True), (validation[0], True), (train[0], False)):
        right, wrong = row["label"], next(label for label in LABELS if label != row["label"])
        chosen_text, rejected = (right, wrong) if chosen else (wrong, right)
        pairs.append({"prompt": row["messages"][1]["content"], "chosen": chosen_text, "rejected": rejected})
    random.Random(0).shuffle(pairs)
    path = project.folder / "preferences/pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def weights(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


def test_rows_like_those_that_judge_are_left_out_and_all_are_counted(refined: Project) -> None:
    facts = refined.facts("preference_rows")
    assert facts["left_out"] == {"like_judging_row": 2, "pair_against_training": 1}
    assert (facts["of_files"], facts["kept"], facts["pairs"], facts["too_few"]) == (123, 120, 120, "")


def test_one_of_two_adapters_goes_on_and_the_report_says_which(refined: Project) -> None:
    facts = refined.facts("adapter")
    refinement = facts["refinement"]
    choice = refinement["choice"]
    first, adapter = refined.artifact("supervised_adapter"), refined.artifact("adapter")
    assert refinement["training"]["rows"] == 120 and refinement["training"]["steps"] == 30
    assert choice["refined"] is (not choice["reasons"]) and choice["rows"] > 5
    assert (weights(adapter) == weights(first)) is (not choice["refined"])
    changed = [
        json.loads(line)
        for line in (refined.artifact("refined_adapter") / "changed_answers.jsonl").read_text().splitlines()
    ]
    assert len(changed) == choice["changed"]
    assert facts["steps"] == refined.facts("supervised_adapter")["steps"]
    assert refined.facts("merged_model")["parity"]["passed"]
    assert choice["sentence"] in (refined.artifact("evaluation_report") / "report.md").read_text("utf-8")


def test_with_few_preferences_the_first_stage_is_not_trained_again(refined: Project, tmp_path: Path) -> None:
    project = Project.continued(refined, tmp_path, "adapter", training=refined.spec["training"])
    (project.folder / "preferences").mkdir()
    write_pairs(project, 30)
    code, output = project.run()
    assert code in (0, 2) and "steps" in output, output
    refinement = project.facts("adapter")["refinement"]
    assert refinement == {"too_few": "30 pairs; a second stage with dpo needs 100"}
    (first,) = (project.home / "artifacts/colours/supervised_adapter").iterdir()
    assert weights(project.artifact("adapter")) == weights(first)
