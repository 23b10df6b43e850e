"""Perturbed rows: another hand, the same question, the same right answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import CLOSINGS, GREETINGS, KINDS, drawn, kind_of, perturbed, set_name

TEXT = (
    "Well, my invoice RX-4411 of 2026-03-05 shows forty euros that were never ordered by Marianne. "
    "Please correct the invoice, write to ann@shop.example and don't charge 12.50 again; it worked without trouble before."
)


def example(text: str, answer: str = "billing", name: str = "e1", system: bool = True) -> Example:
    lead = [{"role": "system", "content": "Answer bug or billing."}] if system else []
    turns = [*lead, {"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return Example(name, turns, label=answer)


def said(examples: list[Example]) -> list[str]:
    return [e.user_text for e in examples]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_id_give_the_same_row_whatever_stands_beside_it(kind: str) -> None:
    some = [example(f"{TEXT} number {i}", name=f"e{i}") for i in range(6)]
    first = perturbed(some, kind, 3)
    assert [e.messages for e in first] == [e.messages for e in perturbed(some, kind, 3)]
    assert [e.id for e in first] == [e.id for e in some]
    assert [e.answer for e in first] == [e.answer for e in some]
    if kind != "no_system":
        assert len(set(said(first)) | set(said(some))) == 12
        assert said(first) != said(perturbed(some, kind, 4))
        assert all(e.messages[0] == some[0].messages[0] for e in first)


def test_typing_errors_leave_what_the_answer_hangs_on() -> None:
    for seed in range(40):
        (changed,) = said(perturbed([example(TEXT)], "typos", seed))
        for kept in "RX-4411 2026-03-05 forty never Marianne ann@shop.example 12.50 without don't".split():
            assert kept in changed, (kept, changed)
        before, after = TEXT.split(), changed.split()
        other = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert 1 <= len(other) <= len(before) // 6
        assert all(len(re.sub(r"\W", "", a)) >= 5 and a[0] == b[0] and abs(len(a) - len(b)) <= 1 for a, b in other)


def test_words_of_the_answer_are_copied_as_they_are() -> None:
    gold = json.dumps({"city": "Oslo", "dish": "lingonberry pancakes"})
    text = "We want lingonberry pancakes in Oslo, for everybody on the terrace"
    for kind in ("typos", "case"):
        for seed in range(20):
            (changed,) = said(perturbed([example(text, gold)], kind, seed))
            assert "lingonberry pancakes in" in changed.replace(" IN ", " in ") and "Oslo" in changed, changed


def test_case_changes_words_and_nothing_else() -> None:
    seen = set()
    for seed in range(20):
        (changed,) = said(perturbed([example(TEXT)], "case", seed))
        assert changed.lower() == TEXT.lower() != changed
        assert all(kept in changed for kept in ("RX-4411", "2026-03-05", "ann@shop.example"))
        seen.add("PLEASE" in changed)
    assert seen == {True, False}
    assert said(perturbed([example("all small already")], "case", 0)) == ["ALL SMALL ALREADY"]


def courtesies(
    text: str, answer: str = "billing", labels: Sequence[str] = (), seeds: int = 30
) -> list[tuple[str, str]]:
    """What is added before and after the text, one pair a seed that changes it."""
    added = []
    for seed in range(seeds):
        for changed in said(perturbed([example(text, answer)], "courtesy", seed, labels)):
            before, _, after = changed.partition(text)
            added.append((before.strip(), after.strip()))
    return added


def test_a_greeting_stands_before_a_text_and_a_closing_after_it() -> None:
    added = courtesies("my invoice is wrong")
    assert len(added) == 30
    assert {before for before, _ in added} == set(GREETINGS["evaluation"])
    assert {after for _, after in added} == set(CLOSINGS["evaluation"])


def test_no_courtesy_shares_a_word_with_a_label_or_the_answer() -> None:
    added = courtesies("which crew is it", "team", ["team", "good_service", "thank_you"])
    assert added
    lines = " ".join(before + " " + after for before, after in added).lower()
    assert not re.search(r"\b(team|good|thanks?|you)\b", lines)
    assert "hi all" in lines and "regards" in lines


@pytest.mark.parametrize("label", ["greeting", "thank_you", "goodbye", "SmallTalk"])
def test_rows_about_courtesy_get_none(label: str) -> None:
    assert courtesies("the weather is fine", label) == []
    assert courtesies("the weather is fine", json.dumps({"intent": label})) == []
    assert courtesies("the weather is fine", "weather"), "the clean row is changed"


@pytest.mark.parametrize(
    ("text", "greets", "closes"),
    [
        ("Hi folks, the pump leaks", False, True),
        ("GOOD MORNING the pump leaks", False, True),
        ("To whoever reads this: the pump leaks", False, True),
        ("the pump leaks. Many thanks, Ann", True, False),
        ("the pump leaks\n\nKind regards\nAnn Smith, Harbour Street", True, False),
        ("history of the pump, high pressure", True, True),
        ("Morning deliveries of the pump are late", True, True),
        ("translate this:", True, False),
    ],
)
def test_no_second_greeting_and_no_second_closing(text: str, greets: bool, closes: bool) -> None:
    added = courtesies(text)
    assert {(bool(before), bool(after)) for before, after in added} == {(greets, closes)}


def test_a_text_with_both_and_a_text_in_another_script_are_left_out() -> None:
    assert courtesies("Hello, the pump leaks. Thanks!") == []
    assert courtesies("発送失敗了") == courtesies("насос течёт") == courtesies("12 34") == []
    assert courtesies("Die Pumpe läuft nicht"), "an English greeting before a German text is what production brings"


def test_rows_that_cannot_be_changed_are_left_out() -> None:
    assert perturbed([example("12 34", system=False)], "typos", 0) == []
    assert perturbed([example("12 34")], "case", 0) == []
    assert perturbed([example("\u767a\u9001\u5931\u6557\u4e86")], "typos", 0) == []
    assert perturbed([example("text", system=False)], "no_system", 0) == []
    (bare,) = perturbed([example("text")], "no_system", 0)
    assert [m["role"] for m in bare.messages] == ["user", "assistant"]
    assert kind_of(set_name("e1", "case")) == "case"
    assert {kind_of(name) for name in ("e1", "case", "base:production")} == {None}
    with pytest.raises(ValueError, match="unknown perturbation 'noise'"):
        perturbed([], "noise", 0)


def test_rows_are_drawn_by_seed_and_id_and_stay_as_others_come() -> None:
    some = [example("x", name=f"e{i}") for i in range(60)]
    few = {e.id for e in drawn(some, 20, 0)}
    assert len(few) == 20 and few <= {e.id for e in drawn(some, 30, 0)}
    assert few != {e.id for e in drawn(some, 20, 1)}
    assert {e.id for e in drawn(some[::-1], 20, 0)} == few
    assert drawn(some[:5], 20, 0) == some[:5]
