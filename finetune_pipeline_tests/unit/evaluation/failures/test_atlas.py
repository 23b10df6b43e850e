"""The failure atlas: every kind of mistake by its rule, and families of failures that were planted are found again."""

import json
import random
from typing import Any

import pytest

from finetune_pipeline.evaluation.failures import atlas as atlases
from finetune_pipeline.evaluation.failures.atlas import ShownRow, ShownRows, clusters, failure_atlas, what_to_do
from finetune_pipeline.evaluation.failures.kinds import KINDS, Failure, failure_of
from finetune_pipeline.evaluation.prompts import Neighbours, TrainingRow
from finetune_pipeline.report.failures import request_page, request_rows
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row

LABELLED = LabelsOutput(labels=LABELS)
FIELDS = {"city": {"type": ["string", "null"]}, "guests": {"type": ["integer", "null"]}}
PLACE = JsonOutput(
    json_schema={"type": "object", "properties": FIELDS, "required": ["city"], "additionalProperties": False}
)
TEXT = TextOutput()
NO = "I'm sorry, but I can't help with that."
ROUND = "the order is late and " * 6


def gold(**of: object) -> str:
    return json.dumps({"city": None, **of})


@pytest.mark.parametrize(
    ("output", "right", "said", "expected"),
    [
        (TEXT, "x", ("", "error"), ("error",)),
        (LABELLED, "bug", ("", "empty"), ("empty",)),
        (LABELLED, "bug", NO, ("refusal",)),
        (TEXT, "Done.", NO, ("refusal",)),
        (TEXT, "It is late.", (ROUND, "truncated"), ("repetition",)),
        (LABELLED, "bug", ("bug bil", "truncated"), ("truncated",)),
        (LABELLED, "bug", "Label: bug", ("format", "a label with something around it")),
        (LABELLED, "bug", "billing.", ("format", "a wrong label with something around it")),
        (LABELLED, "bug", "bug or billing", ("format", "several labels at once")),
        (LABELLED, "bug", "refund", ("format", "no label at all")),
        (LABELLED, "bug", "other", ("label_pair", "bug → other")),
        (PLACE, gold(city="Rome"), "{'city': 'Rome'}", ("format", "right once repaired")),
        (PLACE, gold(city="Rome"), "Rome", ("format", "not_json")),
        (PLACE, gold(city="Rome"), '{"city": 3}', ("format", "schema")),
        (PLACE, gold(city="Rome", guests=2), gold(city="Rome"), ("missing_field", "guests")),
        (PLACE, gold(city="Rome"), gold(city="Rome", guests=2), ("hallucinated_field", "guests")),
        (PLACE, gold(city="Rome"), gold(city="Oslo"), ("wrong_value", "city")),
        (PLACE, gold(city="Rome", guests=2), gold(city="Oslo"), ("missing_field", "guests")),
        (TextOutput(extract="#(.)"), "#1", "#2", ("wrong_final_answer",)),
        (TextOutput(extract="#(.)"), "#1", "1", ("format", "no_final_answer")),
        (TEXT, "We can refund it.", "We cannot refund it.", ("wrong_negation",)),
        (TEXT, "It takes 5 days.", "It takes nine days.", ("wrong_facts", "number")),
        (TEXT, "It takes 5 days.", "Five days are needed.", None),
        (TEXT, "It is late.", "...", ("empty",)),
        (TEXT, "👎", "👍", None),
        (LABELLED, "bug", "bug", None),
    ],
)
def test_every_kind_by_its_rule(output: AnyOutput, right: str, said: Any, expected: Any) -> None:
    text, status = (said, "ok") if isinstance(said, str) else said
    failure = failure_of(row(1, right, text, status=status), output)
    assert failure == (expected and Failure(*expected)) and (failure is None or failure.kind in KINDS)


FILLER = "please look into invoice tablet screen order login page report system today account works button".split()
FAMILIES = {
    "german": "bitte {} schnell prüfen, die Rechnung stimmt nicht, danke {}",
    "courier": "the courier van dropped {} at the depot again {}",
}


def planted() -> tuple[list[dict], dict[str, str], dict[str, set[str]]]:
    """200 rows: two families that fail nearly always, and failures at random among the others."""
    chance = random.Random(0)
    rows, texts, families = [], {}, {name: set() for name in FAMILIES}
    for i in range(200):
        name = "german" if i % 14 == 0 else "courier" if i % 14 == 7 else None
        words = chance.sample(FILLER, 5)
        text = FAMILIES[name].format(words[0], words[1]) if name else " ".join(words)
        fails = chance.random() < (0.95 if name else 0.06)
        prediction = row(i, "bug", "billing" if fails else "bug")
        rows.append(prediction)
        texts[prediction["example_id"]] = text
        if name and fails:
            families[name].add(prediction["example_id"])
    return rows, texts, families


def test_planted_families_are_recovered_and_named() -> None:
    rows, texts, families = planted()
    atlas = failure_atlas(rows, LABELLED, texts, training(1))
    assert atlas.wrong == sum(g.count for g in atlas.groups) == atlas.kinds["label_pair"]
    assert [g.count for g in atlas.groups] == sorted((g.count for g in atlas.groups), reverse=True)
    named = [g for g in atlas.groups if g.terms]
    for name, members in families.items():
        best = max(named, key=lambda g: len(set(g.ids) & members))
        ids = set(best.ids)
        assert len(ids & members) >= 0.9 * max(len(members), len(ids)), name
        assert set(" ".join(best.terms).split()) <= set(FAMILIES[name].casefold().replace(",", "").split())
        assert best.share_with_term > 0.7 and best.interval and best.interval[0] > 0.3


def test_failures_at_random_are_no_family() -> None:
    chance = random.Random(1)
    texts = {f"e{i:04d}": " ".join([*chance.choices("abcdefghijklmnop", k=3), f"w{i % 9}"]) for i in range(150)}
    groups = clusters(chance.sample(sorted(texts), 40), texts)
    assert [c.terms for c in groups] == [()] and len(groups[0].ids) == 40


def training(german: int) -> Neighbours:
    chance = random.Random(7)
    usual = [" ".join(chance.sample(FILLER, 5)) for _ in range(300)]
    family = [FAMILIES["german"].format(*chance.sample(FILLER, 2)) for _ in range(german)]
    return Neighbours([TrainingRow(f"t{i}", text, "bug") for i, text in enumerate([*usual, *family])])


def test_rows_are_asked_for_where_training_has_few_like_them_and_only_there() -> None:
    rows, texts, families = planted()
    poor, rich = (failure_atlas(rows, LABELLED, texts, training(n)).groups for n in (1, 200))
    for groups, expected in ((poor, True), (rich, False)):
        german = max(groups, key=lambda g: len(set(g.ids) & families["german"]))
        assert bool(german.collect) is expected, german.advice
        assert len(german.nearest) == 3
    assert max(poor, key=lambda g: len(set(g.ids) & families["german"])).nearest[0] == "t300", "the one of the family"


def test_the_number_to_collect_follows_from_what_is_missing() -> None:
    assert what_to_do("label_pair", "bug → other", near=2, usual=60, answers=["bug"])[0] == 58
    few, advice = what_to_do("wrong_value", "city", near=2, usual=5, answers=[])
    assert few == atlases.MIN_MEASURABLE and f"Fewer than {few} would not show" in advice
    assert what_to_do("wrong_value", "city", near=8, usual=5, answers=[])[0] == 0
    none, advice = what_to_do("label_pair", "bug → other", near=0, usual=5, answers=["other", "other", "bug"])
    assert none == 0 and advice.startswith("Read the nearest training rows first: 2 of 3")
    for kind in ("error", "truncated", "empty", "repetition", "refusal", "format"):
        assert what_to_do(kind, "", near=0, usual=5, answers=[])[0] == 0


def test_the_request_holds_every_group_and_no_text_of_the_sealed_test() -> None:
    rows, texts, _ = planted()
    texts = {i: f"{text} sealed{i}" for i, text in texts.items()}
    atlas = failure_atlas(rows, LABELLED, texts, training(1))
    tested = {i: ShownRow(id=i, text=text, gold="bug", candidate="billing") for i, text in texts.items()}
    shown_rows = ShownRows(tested=tested, training={row.id: row for row in training(1).rows})
    requests = request_rows(atlas, shown_rows, "triage", "v1")
    assert sum(r["failed"] for r in requests) == atlas.wrong
    assert [r["collect"] for r in requests] == sorted((r["collect"] for r in requests), reverse=True)
    assert requests[0]["examples"][0]["said"] == "billing" and len(requests[0]["nearest_training"]) == 3
    lines, page = json.dumps(requests), page_markdown(request_page(atlas, shown_rows, "triage"))
    assert "sealede" not in lines and "sealede" not in page
    assert page.startswith("# Data wanted for triage") and "new rows requested" in page
    waiting = [{"id": "p", "input": "asked in production", "output": "bug", "probability": 0.4, "user": "u"}]
    first, *others = request_rows(atlas, shown_rows, "triage", "v1", waiting)
    assert others == requests and first["collect"] == 1 and first["kind"] == "passed on in production"
    assert first["rows"] == [{key: value for key, value in waiting[0].items() if key != "user"}]
    page = page_markdown(request_page(atlas, shown_rows, "triage", waiting))
    section = page.split("\n## ")[1]
    assert section.startswith("Passed on in production: 1 row") and "asked in production (answer: bug)" in section
