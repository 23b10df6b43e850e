from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from finetune_pipeline.data.dedup.text_similarity import (
    exact_form,
    has_invisible,
    loose_form,
    near_any,
    odd_invisible,
    similarity,
    text_key,
    visible_text,
)


def test_similarity_is_the_jaccard_of_character_5_grams() -> None:
    assert similarity("abcdef", "abcdeg") == pytest.approx(1 / 3)
    assert similarity("日本語のテキスト", "日本語のテキストです") == pytest.approx(4 / 6)
    assert similarity("abc", "abc!") == 1.0 != similarity("abc", "abd")
    assert similarity("aaaaaaa", "aaaaaaaaaaa") == 1.0


def test_forms_keep_what_tells_texts_apart() -> None:
    assert exact_form("  Ｈello\n WORLD ") == "hello world"
    assert exact_form("hel\u200blo w\u00adorld\u202c") == "hello world"
    assert exact_form("a, b") != exact_form("a b") and loose_form("a, b!") == loose_form("A b")
    for a, b in (("disk at 5%", "disk at 95%"), ("C++ build", "C# build"), ("error 41", "error 42"), ("5 €", "5 $")):
        assert loose_form(a) != loose_form(b) and text_key(a) != text_key(b)
    assert loose_form("?!?") == "?!?" != loose_form("...")


def test_invisible_characters_that_a_script_needs_are_not_odd() -> None:
    needed = "👨\u200d👩\u200d👧 ❤\ufe0f می\u200cخواهم 1\ufe0f\u20e3 🏴\U000e0067\U000e0062\U000e007f"
    assert odd_invisible(needed) is None
    assert odd_invisible("a\u200db, c\u200bd") == (2, "ZERO WIDTH JOINER", 1)


def test_a_text_is_near_when_any_other_reaches_the_threshold() -> None:
    texts = ["the invoice of may is wrong, please look", "a parcel never came to the harbour", "", "short"]
    others = [f"something else entirely, number {i}" for i in range(3000)]
    others += ["The invoice of May is wrong; please look!", "the parcel never came to a harbour"]
    likest = max(similarity(texts[1], o) for o in others)
    assert near_any(texts, others, 0.8) == [True, False, False, False]
    assert near_any(texts, others, likest)[1] and not near_any(texts, others, likest + 0.01)[1]
    assert near_any([], others, 0.8) == [] and near_any(texts, [], 0.8) == [False] * 4


@given(some.text(some.characters(max_codepoint=0xFF)))
def test_text_in_latin_1_has_the_forms_it_has_beside_other_characters(text: str) -> None:
    """Latin-1 goes through bytes; with a character of another script behind it, it goes the way of all others."""
    kept = loose_form(f"{text} Ж").split()[:-1]
    assert loose_form(text).split() == (kept or exact_form(text).split())
    assert has_invisible(text) == has_invisible(f"{text}Ж") == ("\xad" in text)
    assert visible_text(text) == visible_text(f"{text}Ж")[:-1]
