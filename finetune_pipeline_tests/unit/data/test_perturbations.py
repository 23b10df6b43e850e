"""Perturbed rows: another hand, the same question, the same right answer."""

import json
import re
from collections.abc import Sequence

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import CLOSINGS, GREETINGS, KINDS, drawn, kind_of, perturbed, set_name
from finetune_pipeline_tests.unit.data.raw_rows import turn

TEXT = (
    "Well, my invoice RX-4411 of 2026-03-05 shows forty euros that were never ordered by Marianne. "
    "Please correct the invoice, write to ann@shop.example and don't charge 12.50 again; it worked without trouble before."
)


def example(text: str, answer: str = "billing", name: str = "e1", system: bool = True) -> Example:
    lead = [turn("system", "Answer bug or billing.")] if system else []
    return Example(name, [*lead, turn("user", text), turn("assistant", answer)], label=answer)


def said(examples: list[Example]) -> list[str]:
    return [e.user_text for e in examples]


def changed(kind: str, seed: int, text: str = TEXT, answer: str = "billing") -> str:
    (text,) = said(perturbed([example(text, answer)], kind, seed))
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_id_give_the_same_row_whatever_stands_beside_it(kind: str) -> None:
    some = [example(f"{TEXT} number {i}", name=f"e{i}") for i in range(6)]
    first = perturbed(some, kind, 3)
    assert first == perturbed(some, kind, 3) and first[2:] == perturbed(some[2:], kind, 3)
    assert [(e.id, e.answer) for e in first] == [(e.id, e.answer) for e in some]
    if kind != "no_system":
        assert len(set(said(first)) | set(said(some))) == 12
        assert said(first) != said(perturbed(some, kind, 4))
        assert all(e.messages[0] == some[0].messages[0] for e in first)


def test_typing_errors_and_case_leave_what_the_answer_hangs_on() -> None:
    loud = set()
    for seed in range(20):
        typos = changed("typos", seed)
        for kept in "RX-4411 2026-03-05 forty never Marianne ann@shop.example 12.50 without don't".split():
            assert kept in typos, (kept, typos)
        before, after = TEXT.split(), typos.split()
        other = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert 1 <= len(other) <= len(before) // 6
        assert all(len(re.sub(r"\W", "", a)) >= 5 and a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in other)
        case = changed("case", seed)
        assert case.lower() == TEXT.lower() != case
        assert all(kept in case for kept in ("RX-4411", "2026-03-05", "ann@shop.example"))
        loud.add("PLEASE" in case)
        gold = json.dumps({"city": "Oslo", "dish": "lingonberry pancakes"})
        for kind in ("typos", "case"):
            kept = changed(kind, seed, "We want lingonberry pancakes in Oslo, for everybody on the terrace", gold)
            assert "lingonberry pancakes in" in kept.replace(" IN ", " in ") and "Oslo" in kept, kept
    assert loud == {True, False}
    assert changed("case", 0, "all small already") == "ALL SMALL ALREADY"


def courtesies(text: str, answer: str = "billing", labels: Sequence[str] = ()) -> list[tuple[str, str]]:
    """What is added before and after the text, one pair a seed that changes it."""
    added = []
    for seed in range(30):
        for courteous in said(perturbed([example(text, answer)], "courtesy", seed, labels)):
            before, _, after = courteous.partition(text)
            added.append((before.strip(), after.strip()))
    return added


def test_courtesies_are_of_all_kinds_and_touch_neither_a_label_nor_the_answer() -> None:
    added = courtesies("my invoice is wrong")
    assert len(added) == 30
    assert [set(said) for said in zip(*added, strict=True)] == [{*GREETINGS["evaluation"]}, {*CLOSINGS["evaluation"]}]
    added = courtesies("which crew is it", "team", ["team", "good_service", "thank_you"])
    lines = " ".join(before + " " + after for before, after in added).lower()
    assert not re.search(r"\b(team|good|thanks?|you)\b", lines)
    assert "hi all" in lines and "regards" in lines
    for label in ("greeting", "thank_you", "goodbye", "SmallTalk"):
        assert courtesies("the weather is fine", label) == []
        assert courtesies("the weather is fine", json.dumps({"intent": label})) == []


def test_no_second_greeting_and_no_second_closing() -> None:
    for text, greets, closes in (
        ("Hi folks, the pump leaks", False, True),
        ("GOOD MORNING the pump leaks", False, True),
        ("To whoever reads this: the pump leaks", False, True),
        ("the pump leaks. Many thanks, Ann", True, False),
        ("the pump leaks\n\nKind regards\nAnn Smith, Harbour Street", True, False),
        ("history of the pump, high pressure", True, True),
        ("Morning deliveries of the pump are late", True, True),
        ("translate this:", True, False),
        ("Die Pumpe läuft nicht", True, True),
    ):
        assert {(bool(before), bool(after)) for before, after in courtesies(text)} == {(greets, closes)}, text


def test_rows_that_cannot_be_changed_are_left_out() -> None:
    assert courtesies("Hello, the pump leaks. Thanks!") == []
    assert courtesies("発送失敗了") == courtesies("насос течёт") == courtesies("12 34") == []
    for kind, text in (("typos", "12 34"), ("case", "12 34"), ("typos", "発送失敗了"), ("no_system", "text")):
        assert perturbed([example(text, system=False)], kind, 0) == []
    (bare,) = perturbed([example("text")], "no_system", 0)
    assert [m["role"] for m in bare.messages] == ["user", "assistant"]
    assert kind_of(set_name("e1", "case")) == "case"
    assert {kind_of(name) for name in ("e1", "case", "base:production")} == {None}


def test_rows_are_drawn_by_seed_and_id_and_stay_as_others_come() -> None:
    some = [example("x", name=f"e{i}") for i in range(60)]
    few = {e.id for e in drawn(some, 20, 0)}
    assert len(few) == 20 and few <= {e.id for e in drawn(some, 30, 0)}
    assert few != {e.id for e in drawn(some, 20, 1)}
    assert {e.id for e in drawn(some[::-1], 20, 0)} == few
    assert drawn(some[:5], 20, 0) == some[:5]
