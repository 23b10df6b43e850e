from __future__ import annotations

from collections import Counter

from finetune_pipeline.review.sheet import RANDOM, SELECTED, candidate_is_a, draw, make_sheet, sheet_name
from finetune_pipeline_tests.unit.review.answers import SECRET, VERSION, pair, row


def drawn(n: int = 200, items: int = 60, wrong: int = 10, secret: bytes = SECRET) -> dict[str, str]:
    base, own = pair(n, wrong)
    return draw(base, own, {r["example_id"]: r["text"] == "right" for r in own}, items, secret)


def test_half_is_random_and_half_is_where_it_may_fail() -> None:
    told = drawn()
    assert Counter(told.values()) == {RANDOM: 30, SELECTED: 30}
    failing = {f"e{i:03d}" for i in range(10)}
    assert failing <= set(told)  # every failure is on the sheet, by chance or by choice
    assert {i for i, how in told.items() if how == SELECTED} >= failing - {
        i for i, how in told.items() if how == RANDOM
    }


def test_the_random_half_does_not_depend_on_the_answers() -> None:
    one = {i for i, how in drawn(wrong=0).items() if how == RANDOM}
    other = {i for i, how in drawn(wrong=80).items() if how == RANDOM}
    assert one == other


def test_the_halves_are_mixed_and_the_same_sheet_is_drawn_again() -> None:
    told = drawn()
    assert list(told.items()) == list(drawn().items())
    first = Counter(list(told.values())[:30])
    assert 5 < first[RANDOM] < 25
    assert list(drawn(secret=bytes(32))) != list(told)


def test_sides_change_and_follow_from_the_secret() -> None:
    name = sheet_name(VERSION, 60)
    sides = [candidate_is_a(SECRET, name, f"e{i}") for i in range(400)]
    assert 160 < sum(sides) < 240
    assert sides != [candidate_is_a(bytes(32), name, f"e{i}") for i in range(400)]
    base, own = [row(i, "base", f"b{i}") for i in range(20)], [row(i, "candidate", f"c{i}") for i in range(20)]
    told = {r["example_id"]: RANDOM for r in own}
    for item in make_sheet(name, told, base, own, {"e000": "hello"}, SECRET):
        a_is_candidate = candidate_is_a(SECRET, name, item.id)
        assert item.a.startswith("c") is a_is_candidate
        assert item.b.startswith("b") is a_is_candidate
