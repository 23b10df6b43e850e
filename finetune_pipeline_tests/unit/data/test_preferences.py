"""Preference rows: every raw form is read and checked, bad rows are left out by name, and every row is counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.data.preferences.cleaning import Cleaned, clean_preferences
from finetune_pipeline.data.preferences.making import make_preferences
from finetune_pipeline.data.preferences.rows import Preference, preference, read_row
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.pipeline import CHECKS
from finetune_pipeline.spec.model import TaskSpec

SYSTEM = "Answer the customer."
SOURCE = {"file": "preferences/a.jsonl", "line": 1}


def spec(**changes: Any) -> TaskSpec:
    fields = {"name": "t", "description": "d", "system_prompt": SYSTEM, "output": {"kind": "text"}, **changes}
    return TaskSpec.model_validate(fields)


def prompt(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def row(text: str, chosen: str | None, rejected: str | None, **more: Any) -> Preference:
    return preference(prompt(text), chosen, rejected, source=SOURCE, **more)


def example(text: str, answer: str, group: str | None = None) -> Example:
    messages = [*prompt(text), {"role": "assistant", "content": answer}]
    return Example(example_id(messages), messages, group=group)


CHAT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Where is it?"}]
FORMS: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({"prompt": "Where is it?", "chosen": "Here.", "rejected": "No idea."}, "Here.", "No idea."),
    (
        {
            "prompt": CHAT,
            "chosen": [{"role": "assistant", "content": "Here."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
        "Here.",
        "No.",
    ),
    (
        {
            "chosen": [*CHAT, {"role": "assistant", "content": "Here."}],
            "rejected": [*CHAT, {"role": "assistant", "content": "No."}],
        },
        "Here.",
        "No.",
    ),
    ({"prompt": "Where is it?", "completion": "Here.", "label": True}, "Here.", None),
    ({"prompt": CHAT, "completion": [{"role": "assistant", "content": "No."}], "label": False}, None, "No."),
    (
        {
            "input": {"messages": CHAT},
            "preferred_output": [{"role": "assistant", "content": "Here."}],
            "non_preferred_output": [{"role": "assistant", "content": "No."}],
        },
        "Here.",
        "No.",
    ),
]


@pytest.mark.parametrize(("raw", "chosen", "rejected"), FORMS)
def test_every_form_gives_the_same_prompt_and_its_answers(
    raw: dict[str, Any], chosen: str | None, rejected: str | None
) -> None:
    read = read_row(raw, spec(), SOURCE)
    assert read.findings == [] and read.preference is not None
    assert (read.preference.prompt, read.preference.chosen, read.preference.rejected) == (CHAT, chosen, rejected)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ({"prompt": "Where?", "chosen": "Here."}, "data.not_a_preference"),
        ({"prompt": "Where?", "completion": "Here.", "label": "yes"}, "data.not_a_preference"),
        ({"prompt": "Where?", "completion": "Here."}, "data.not_a_preference"),
        ({"prompt": "Where?", "chosen": "", "rejected": "No."}, "data.empty_field"),
        ({"prompt": [*CHAT, {"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}, "data.role_order"),
        (
            {
                "chosen": [*CHAT, {"role": "assistant", "content": "a"}],
                "rejected": [*CHAT[:1], {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "b"}],
            },
            "data.different_prompts",
        ),
        ({"prompt": "Where?", "chosen": "Here.<|im_end|>", "rejected": "No."}, "data.template_residue"),
        ({"prompt": [{"role": "user", "content": "?!"}], "chosen": "a", "rejected": "b"}, "data.missing_system_prompt"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(raw: dict[str, Any], rule: str) -> None:
    read = read_row(raw, spec(), SOURCE)
    assert read.preference is None and {f.rule for f in read.findings} == {rule}
    assert all(f.place == "preferences/a.jsonl:1" for f in read.findings)


def test_only_the_liked_answer_must_have_the_declared_form() -> None:
    task = spec(output={"kind": "labels", "labels": ["red", "blue"]})
    good = read_row({"prompt": "Which?", "chosen": "red", "rejected": "It is red!"}, task, SOURCE).preference
    assert good is not None and good.rejected == "It is red!"
    bad = read_row({"prompt": "Which?", "chosen": "It is red!", "rejected": "red"}, task, SOURCE)
    assert bad.preference is None and [f.rule for f in bad.findings] == ["data.unknown_label"]


def clean(rows: Sequence[Preference], train: Sequence[Example] = (), judging: Sequence[Example] = ()) -> Cleaned:
    return clean_preferences(rows, spec(), train, judging)


LONG = "How long does the delivery of a large parcel to an island usually take in winter"


@pytest.mark.parametrize(
    ("rows", "rule", "kept"),
    [
        ([row("a1", "Yes.", " Yes. ")], "equal_pair", 0),
        ([row("a1", "Yes.", "No."), row("a1", "No.", "Yes.")], "swapped_pair", 0),
        ([row("a1", "Yes.", "No."), row("A1", "Yes.", "No.")], "repeated_preference", 1),
        ([row("a1", "Yes.", None), row("a1", None, "Yes.")], "contradicted_thumb", 0),
        ([*[row("a1", "Yes.", None)] * 4, row("a1", None, "Yes.")], "contradicted_thumb", 1),
        ([row("a1", None, "Yes."), row("a1", None, "Yes.")], "repeated_preference", 1),
        ([row("known", None, "Right.")], "pair_against_training", 0),
        ([row("known", "Other.", "Right.")], "pair_against_training", 0),
        ([row("known", "Right.", None)], "preference_learned", 0),
        ([row("tested", "Yes.", "No.")], "like_judging_row", 0),
        ([row(f"{LONG}!?", "Yes.", "No.")], "like_judging_row", 0),
        ([row("of one group", "Yes.", "No.", group="g")], "like_judging_row", 0),
    ],
)  # fmt: skip
def test_rows_that_teach_wrong_or_leak_are_left_out_by_name(rows: list[Preference], rule: str, kept: int) -> None:
    sound = [row("known", "Right.", "Wrong."), row("something else entirely", "Yes.", None), row("third", None, "No.")]
    train, judging = [example("known", "Right.")], [example("tested", "?"), example(LONG, "?"), example("x", "?", "g")]
    cleaned = clean([*rows, *sound], train, judging)
    assert len(cleaned.kept) == kept + len(sound) and all(each in cleaned.kept for each in sound)
    assert cleaned.left_out[rule] > 0 and sum(cleaned.left_out.values()) == len(rows) - kept
    assert {f.rule for f in cleaned.findings} >= {f"data.{rule}"}


def test_personal_data_gets_the_same_placeholder_in_prompt_and_answers() -> None:
    (kept,) = clean([row("I am ann@example.com", "Thanks, ann@example.com", "Who is bob@example.com?")]).kept
    assert (kept.user_text, kept.chosen, kept.rejected) == ("I am [EMAIL_1]", "Thanks, [EMAIL_1]", "Who is [EMAIL_2]?")
    dropped = clean_preferences([row("I am ann@example.com", "a", "b")], spec(data={"scrub": "drop"}), [], [])
    assert dropped.kept == [] and dropped.left_out == {"personal_data": 1}


def made(folder: Path, raw: Sequence[dict[str, Any]], train: Sequence[Example] = (), method: str = "dpo") -> Any:
    (folder / "preferences").mkdir()
    (folder / "preferences/a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in raw))
    task = spec(training={"refine": {"method": method}})
    (folder / "out").mkdir()
    facts = make_preferences(task, folder, [], train, [], Boilerplate(), folder / "out")
    artifact = Artifact("t", "preference_rows", "v", folder / "out", facts.to_json(), {})
    checks = {check.name: check.ask(artifact, task) for step, check in CHECKS if step == "preference_rows"}
    return facts, checks


def test_all_rows_are_counted_and_few_are_said(tmp_path: Path) -> None:
    raw = [{"prompt": f"question {i} {'x' * i}", "chosen": "Yes.", "rejected": "No."} for i in range(60)]
    facts, checks = made(tmp_path, [*raw, raw[0], {"prompt": "x"}, {"prompt": "same", "chosen": "a", "rejected": "a"}])
    assert (facts.of_files, facts.kept, facts.refused) == (63, 60, 1)
    assert facts.left_out == {"repeated_preference": 1, "equal_pair": 1}
    assert checks["preferences_accounted_for"].passed and checks["pairs_not_swapped"].passed
    assert not checks["enough_preferences"].passed and "60 pairs; a second stage with dpo needs 100" in facts.too_few


def test_a_file_with_swapped_columns_is_found_by_its_training_rows(tmp_path: Path) -> None:
    train = [example(f"question {i} {'x' * i}", f"answer {i}") for i in range(20)]
    right = [{"prompt": e.user_text, "chosen": e.answer, "rejected": "No."} for e in train]
    swapped = [{**each, "chosen": "No.", "rejected": each["chosen"]} for each in right[:12]]
    (tmp_path / "swapped").mkdir(), (tmp_path / "right").mkdir()
    facts, checks = made(tmp_path / "swapped", [*swapped, *right[12:]], train)
    assert (facts.against_training, facts.comparable) == (12, 20) and not checks["pairs_not_swapped"].passed
    facts, checks = made(tmp_path / "right", [*right[3:], *swapped[:3]], train)
    assert (facts.against_training, facts.comparable) == (3, 20) and checks["pairs_not_swapped"].passed
