"""Perturbed copies are learned beside the training rows, never beside validation, and the plan counts them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.data.perturbations import BLOCKING, kind_of
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.planning.planner import Planner
from finetune_pipeline.report.training_pages import audit_html
from finetune_pipeline.training.rows import prepare_split, training_examples
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.unit.training.jobs import job, settings

ROWS = 24


@pytest.fixture(scope="module")
def rows(inputs: Path) -> list[Example]:
    return read_examples(inputs / "train.jsonl")


def copies_of(rows: list[Example]) -> list[Example]:
    return [e for e in training_examples(rows, settings(augment=True)) if kind_of(e.id)]


def test_every_row_is_learned_as_it_is_and_perturbed_in_every_way(rows: list[Example]) -> None:
    assert training_examples(rows, settings()) == rows
    learned = training_examples(rows, settings(augment=True))
    assert learned[:ROWS] == rows and len(learned) == len({e.id for e in learned})
    kinds = Counter(kind_of(e.id) for e in learned[ROWS:])
    assert set(kinds) == set(BLOCKING) and min(kinds.values()) > ROWS / 2
    by_id = {row.id: row for row in rows}
    for copy in learned[ROWS:]:
        row = by_id[copy.id.rpartition(":")[0]]
        assert copy.user_text != row.user_text
        unchanged = [(e.answer, e.label, e.messages[0], e.source) for e in (copy, row)]
        assert unchanged[0] == unchanged[1]


def test_a_perturbation_that_cannot_change_the_row_gives_no_copy() -> None:
    turns = [{"role": "user", "content": "Hi, A B C D. Thanks!"}, {"role": "assistant", "content": "bug"}]
    greeted = [Example(f"e{i}", turns, label="bug") for i in range(12)]
    assert {kind_of(copy.id) for copy in copies_of(greeted)} == {"case"}
    numbers = Example("e1", [{"role": "user", "content": "12 34"}, turns[1]], label="bug")
    assert training_examples([numbers], settings(augment=True)) == [numbers], "nothing can change it: no copy"


def test_training_learns_the_copies_and_validation_stays_as_it_is(inputs: Path, tmp_path: Path) -> None:
    plain, _ = train(job(inputs, tmp_path / "plain", method="lora", epochs=1), audit_html)
    augmented_job = job(inputs, tmp_path / "augmented", method="lora", epochs=1, augment=True)
    facts, _ = train(augmented_job, audit_html)
    assert plain.augmented.to_json() == {"rows": 0, "kinds": {}, "too_long": 0}
    copies = len(copies_of(read_examples(inputs / "train.jsonl")))
    assert facts.augmented.rows == sum(facts.augmented.kinds.values()) == copies
    assert set(facts.augmented.kinds) == set(BLOCKING)
    assert facts.tokens["train"].rows == copies + plain.tokens["train"].rows == copies + ROWS
    assert facts.tokens["validation"] == plain.tokens["validation"]
    assert facts.first_eval_loss == plain.first_eval_loss, "the same validation rows, before the first step"
    assert (plain.steps, facts.steps) == (3, -(-(ROWS + copies) // 8))

    planner = Planner(inputs / "base", *(read_examples(inputs / f"{split}.jsonl") for split in ("train", "validation")))
    (phase,) = planner.phases(augmented_job.settings)
    assert phase.steps == facts.steps_planned

    audit = json.loads((tmp_path / "augmented/out/audit.json").read_text())
    assert audit["train"]["examples"] == ROWS + copies and not facts.augmented.too_long
    reasons = {kind_of(row["id"]): row["why"] for row in audit["train"]["shown"] if kind_of(row["id"])}
    assert "a perturbed copy (typing errors)" in reasons["typos"] and "greeting and thanks" in reasons["courtesy"]
    assert "another case" in reasons["case"]
    assert not [row for row in audit["validation"]["shown"] if kind_of(row["id"])]
    page = (tmp_path / "augmented/out/audit.html").read_text().lower()
    assert "a perturbed copy (typing errors)" in page and "with every perturbation that can block" in page
    assert "perturbed" not in (tmp_path / "plain/out/audit.html").read_text()


@pytest.mark.parametrize("over", ["fail", "drop", "truncate_prompt"])
def test_a_copy_that_is_too_long_is_left_out_and_counted(inputs: Path, rows: list[Example], over: str) -> None:
    tokenizer = load_tokenizer(inputs / "base")
    limit = max(len(row.ids) for row in prepare_split(tokenizer, rows, 200, over, "train split").rows)
    limited = settings(augment=True, over_length=over, max_tokens=limit)
    prepared = prepare_split(tokenizer, training_examples(rows, limited), limit, over, "train split")
    assert not prepared.audit.problems and not prepared.dropped and not prepared.cuts
    assert len(prepared.copies_too_long) > 0
    assert len(prepared.rows) == len(training_examples(rows, limited)) - len(prepared.copies_too_long)
    planned = Planner(inputs / "base", rows, rows[:2]).rows("train", limited)
    assert [row["id"] for row in planned.rows] == [row.id for row in prepared.rows] and planned.over == 0
