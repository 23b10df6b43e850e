"""The failure atlas: every kind of mistake by its rule, and families of failures that were planted are found again."""

from __future__ import annotations

import json
import random

import pytest

from finetune_pipeline.evaluation.failures.atlas import (
    ENOUGH_TO_MEASURE,
    ShownRow,
    ShownRows,
    clusters,
    failure_atlas,
    what_to_do,
)
from finetune_pipeline.evaluation.failures.kinds import KINDS, Failure, failure_of
from finetune_pipeline.evaluation.prompts import Neighbours, TrainingRow
from finetune_pipeline.report.failures import request_page, request_rows
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row

LABELLED = LabelsOutput(labels=LABELS)
PLACE = JsonOutput(
    json_schema={
        "type": "object",
        "properties": {"city": {"type": ["string", "null"]}, "guests": {"type": ["integer", "null"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
)
TEXT = TextOutput()
NO = "I'm sorry, but I can't help with that."
ROUND = "the order is late and " * 6
GERMAN = "Ihre Bestellung ist nicht da und wir haben das Geld für Sie auf die Karte zurück"
ENGLISH = "Your order is not here and we have sent the money back to your card"


def gold(**of: object) -> str:
    return json.dumps({"city": None, **of})


@pytest.mark.parametrize(
    ("output", "right", "said", "changes", "expected"),
    [
        (TEXT, "x", "", {"status": "error"}, Failure("error")),
        (LABELLED, "bug", "", {"status": "empty"}, Failure("empty")),
        (LABELLED, "bug", NO, {}, Failure("refusal")),
        (TEXT, "Done.", NO, {}, Failure("refusal")),
        (TEXT, "It is late.", ROUND, {"status": "truncated"}, Failure("repetition")),
        (LABELLED, "bug", "bug bil", {"status": "truncated"}, Failure("truncated")),
        (TEXT, ENGLISH, GERMAN, {}, Failure("wrong_language")),
        (LABELLED, "bug", "Label: bug", {}, Failure("format", "a label with something around it")),
        (LABELLED, "bug", "billing.", {}, Failure("format", "a wrong label with something around it")),
        (LABELLED, "bug", "bug or billing", {}, Failure("format", "several labels at once")),
        (LABELLED, "bug", "refund", {}, Failure("format", "no label at all")),
        (LABELLED, "bug", "other", {}, Failure("label_pair", "bug → other")),
        (PLACE, gold(city="Rome"), "{'city': 'Rome'}", {}, Failure("format", "right once repaired")),
        (PLACE, gold(city="Rome"), "Rome", {}, Failure("format", "not_json")),
        (PLACE, gold(city="Rome"), '{"city": 3}', {}, Failure("format", "schema")),
        (PLACE, gold(city="Rome", guests=2), gold(city="Rome"), {}, Failure("missing_field", "guests")),
        (PLACE, gold(city="Rome"), gold(city="Rome", guests=2), {}, Failure("hallucinated_field", "guests")),
        (PLACE, gold(city="Rome"), gold(city="Oslo"), {}, Failure("wrong_value", "city")),
        (
            PLACE,
            gold(city="Rome", guests=2),
            gold(city="Oslo"),
            {},
            Failure("missing_field", "guests", ("wrong_value: city",)),
        ),
        (TextOutput(extract="#(.)"), "#1", "#2", {}, Failure("wrong_final_answer")),
        (TextOutput(extract="#(.)"), "#1", "1", {}, Failure("format", "no_final_answer")),
        (TEXT, "We can refund it.", "We cannot refund it.", {}, Failure("wrong_negation")),
        (TEXT, "It takes 5 days.", "It takes nine days.", {}, Failure("wrong_facts", "number", ("number",))),
        (TEXT, "It takes 5 days.", "Five days are needed.", {}, None),
        (LABELLED, "bug", "bug", {}, None),
    ],
)
def test_every_kind_by_its_rule(
    output: AnyOutput, right: str, said: str, changes: dict, expected: Failure | None
) -> None:
    found = failure_of(row(1, right, said, **changes), output)
    assert found == expected
    assert found is None or found.kind in KINDS


FILLER = "please look into invoice tablet screen order login page report system today account works button".split()
FAMILIES = {
    "german": "bitte {} schnell prüfen, die Rechnung stimmt nicht, danke {}",
    "courier": "the courier van dropped {} at the depot again {}",
}


def planted(seed: int = 0) -> tuple[list[dict], dict[str, str], dict[str, set[str]]]:
    """200 rows: two families that fail nearly always, and failures at random among the others."""
    chance = random.Random(seed)
    rows, texts, families = [], {}, {name: set() for name in FAMILIES}
    for i in range(200):
        name = "german" if i % 14 == 0 else "courier" if i % 14 == 7 else None
        words = chance.sample(FILLER, 5)
        text = FAMILIES[name].format(words[0], words[1]) if name else " ".join(words)
        fails = chance.random() < (0.95 if name else 0.06)
        made = row(i, "bug", "billing" if fails else "bug")
        rows.append(made)
        texts[made["example_id"]] = text
        if name and fails:
            families[name].add(made["example_id"])
    return rows, texts, families


@pytest.mark.parametrize("seed", range(2))
def test_planted_families_are_recovered_and_named(seed: int) -> None:
    rows, texts, families = planted(seed)
    atlas = failure_atlas(rows, LABELLED, texts)
    assert atlas.wrong == sum(g.count for g in atlas.groups) == atlas.kinds["label_pair"]
    named = [g for g in atlas.groups if g.terms]
    for name, members in families.items():
        best = max(named, key=lambda g: len(set(g.ids) & members))
        found = set(best.ids)
        assert len(found & members) >= 0.9 * len(members), name
        assert len(found & members) >= 0.9 * len(found), name
        assert set(" ".join(best.terms).split()) <= set(FAMILIES[name].casefold().replace(",", "").split())
        assert best.share_with_term > 0.7 and best.interval and best.interval[0] > 0.3


def test_failures_at_random_are_no_family() -> None:
    chance = random.Random(1)
    texts = {f"e{i:04d}": " ".join([*chance.choices("abcdefghijklmnop", k=3), f"w{i % 9}"]) for i in range(150)}
    found = clusters(chance.sample(sorted(texts), 40), texts)
    assert [c.terms for c in found] == [()] and len(found[0].ids) == 40


def training(german: int) -> Neighbours:
    chance = random.Random(7)
    usual = [" ".join(chance.sample(FILLER, 5)) for _ in range(300)]
    family = [FAMILIES["german"].format(*chance.sample(FILLER, 2)) for _ in range(german)]
    return Neighbours([TrainingRow(f"t{i}", text, "bug") for i, text in enumerate([*usual, *family])])


def test_rows_are_asked_for_where_training_has_few_like_them_and_only_there() -> None:
    rows, texts, families = planted()
    poor, rich = (failure_atlas(rows, LABELLED, texts, training(n)).groups for n in (1, 200))
    for groups, asked in ((poor, True), (rich, False)):
        german = max(groups, key=lambda g: len(set(g.ids) & families["german"]))
        assert bool(german.collect) is asked, german.advice
        assert len(german.nearest) == 3
    assert max(poor, key=lambda g: len(set(g.ids) & families["german"])).nearest[0] == "t300", "the one of the family"


def test_the_number_to_collect_follows_from_what_is_missing() -> None:
    assert what_to_do("label_pair", "bug → other", 9, near=2, usual=60, answers=["bug"])[0] == 58
    few, advice = what_to_do("wrong_value", "city", 9, near=2, usual=5, answers=[])
    assert few == ENOUGH_TO_MEASURE and "(3 are missing)" in advice
    assert what_to_do("wrong_value", "city", 9, near=8, usual=5, answers=[])[0] == 0
    none, advice = what_to_do("label_pair", "bug → other", 9, near=0, usual=5, answers=["other", "other", "bug"])
    assert none == 0 and advice.startswith("Read the nearest training rows first: 2 of 3")
    for kind in ("error", "truncated", "empty", "repetition", "refusal", "format", "wrong_language"):
        assert what_to_do(kind, "", 9, near=0, usual=5, answers=[])[0] == 0


def test_the_request_holds_every_group_and_no_text_of_the_sealed_test() -> None:
    rows, texts, _ = planted()
    texts = {i: f"{text} sealed{i}" for i, text in texts.items()}
    atlas = failure_atlas(rows, LABELLED, texts, training(1))
    shown = ShownRows(
        tested={i: ShownRow(id=i, text=text, gold="bug", candidate="billing") for i, text in texts.items()},
        training={row.id: row for row in training(1).rows},
    )
    asked = request_rows(atlas, shown, "triage", "v1")
    assert sum(r["failed"] for r in asked) == atlas.wrong
    assert [r["collect"] for r in asked] == sorted((r["collect"] for r in asked), reverse=True)
    assert asked[0]["examples"][0]["said"] == "billing" and len(asked[0]["nearest_training"]) == 3
    lines, page = json.dumps(asked), page_markdown(request_page(atlas, shown, "triage"))
    assert "sealede" not in lines and "sealede" not in page
    assert page.startswith("# Data wanted for triage") and "new rows are asked for" in page
