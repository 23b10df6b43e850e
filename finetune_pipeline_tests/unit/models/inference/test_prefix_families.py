"""Prompts are put behind the beginnings that save the most reading; a single odd one spoils nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from finetune_pipeline.models.inference.shared_reading import common_prefix, families

SYSTEM, OTHER = list(range(100, 160)), list(range(200, 230))


def test_common_prefix_leaves_a_token_to_every_prompt() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix([[1, 2, 3, 9], [1, 2, 4], [1, 2, 3]]) == 2
    assert common_prefix([[4], [4, 5]]) == 0
    assert common_prefix([[1, 2, 3]]) == 2
    assert common_prefix([]) == 0


def _cost(prompts: list[list[int]], found: list[list[int]]) -> int:
    total = 0
    for rows in found:
        shared = common_prefix([prompts[i] for i in rows])
        total += shared + sum(len(prompts[i]) - shared for i in rows)
    return total


def test_one_prompt_without_the_beginning_is_a_family_of_its_own() -> None:
    prompts = [[1, *SYSTEM, 7 + i, 9] for i in range(20)]
    prompts.insert(4, [1, 7, 9, 9])
    assert families(prompts) == [[i for i in range(21) if i != 4], [4]]


def test_two_beginnings_and_one_within_another() -> None:
    long = [[*SYSTEM, *OTHER, i, 1] for i in range(5)]
    short = [[*SYSTEM, 50 + i, 2] for i in range(6)]
    other = [[*OTHER, i, 3] for i in range(4)]
    assert families([*long, *short, *other]) == [list(range(5, 11)), list(range(5)), list(range(11, 15))]


def test_prompts_that_part_at_once_behind_a_beginning_stay_together() -> None:
    """Retrieved examples differ from row to row: there is nothing to share but the beginning."""
    prompts = [[*SYSTEM, 1000 + i, *range(i, i + 80)] for i in range(12)]
    assert families(prompts) == [list(range(12))]
    assert families([[1, 2, 3]]) == [[0]] and families([]) == []
    assert families([[5, 6]] * 4) == [[0, 1, 2, 3]]


def test_a_comb_of_prompts_is_cut_off() -> None:
    """Each prompt shares one token more with the next: beginnings within beginnings, without end."""
    prompts = [[1] * i + [2] * 3 for i in range(1, 400)]
    found = families(prompts)
    assert sorted(i for rows in found for i in rows) == list(range(399))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30))
def test_every_prompt_is_in_one_family_and_nothing_costs_more(prompts: list[list[int]]) -> None:
    found = families(prompts)
    assert sorted(i for rows in found for i in rows) == list(range(len(prompts)))
    assert all(rows == sorted(rows) for rows in found)
    assert _cost(prompts, found) <= _cost(prompts, [list(range(len(prompts)))] if prompts else [])
