from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.boilerplate import MOST, Boilerplate, find_boilerplate, strip

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
SYLLABLES = ["ka", "lo", "mi", "ren", "tu", "sol", "ba", "vi", "dor", "pe"]


def sayings(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts that have nothing in common."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(words)).capitalize()
        for _ in range(count)
    ]


def stripped(texts: list[str]) -> list[str]:
    templates = find_boilerplate(texts)
    return [strip(t, templates) for t in texts]


def test_a_shared_preamble_and_ending_go() -> None:
    contents = sayings(300, 12)
    assert stripped([ALPACA.format(c) for c in contents]) == contents


def test_a_template_in_the_middle_of_other_text_goes() -> None:
    names, contents = sayings(200, 2, 1), sayings(200, 25)
    said = [
        f"Dear {n}, thank you for getting in touch with our support team. {c}. "
        f"We hope that this solves the problem you wrote about. Kind regards, {n}"
        for n, c in zip(names, contents, strict=True)
    ]
    for left, content, name in zip(stripped(said), contents, names, strict=True):
        assert content in left and name in left and "support team" not in left and "Kind regards" not in left


@pytest.mark.parametrize(
    "question",
    [
        "I want to cancel order {}",
        "I would like to cancel my subscription, my order is {}, please confirm this to me by e-mail as soon as you can",
        "My printer model {} has stopped working after the last update of the driver, and nothing that I tried has helped",
    ],
)
def test_a_repeated_question_is_no_template(question: str) -> None:
    texts = [question.format(100 + i) for i in range(50)] + sayings(200, 9)
    assert find_boilerplate(texts) == Boilerplate()


def test_unrelated_rows_and_small_sets_have_no_templates() -> None:
    assert find_boilerplate(sayings(2000, 30)) == Boilerplate()
    assert find_boilerplate([ALPACA.format(c) for c in sayings(19, 12)]) == Boilerplate()
    assert find_boilerplate([]) == Boilerplate()


def test_the_order_of_the_rows_does_not_matter() -> None:
    texts = [ALPACA.format(c) for c in sayings(100, 12)] + sayings(300, 20, 1)
    hits = find_boilerplate(texts)
    assert hits.segments and hits == find_boilerplate(reversed(texts)) == find_boilerplate(texts + texts[:50])
    assert len(hits.segments) <= MOST


def test_a_row_with_nothing_left_keeps_its_text() -> None:
    preamble = "You are a careful assistant of a bank and answer in one short sentence."
    templates = Boilerplate((preamble, "### Input:"))
    assert strip(preamble, templates) == preamble
    assert strip(f"{preamble} ...", templates) == f"{preamble} ..."
    assert strip(f"{preamble} 😀", templates) == "😀"
    assert strip(f"{preamble}\nWhat now?", templates) == "What now?"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=60), max_size=3))
def test_strip_never_empties_a_row(text: str, segments: list[str]) -> None:
    left = strip(text, Boilerplate(tuple(segments)))
    assert left or not text
