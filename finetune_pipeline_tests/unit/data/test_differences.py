from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.differences import _TOKEN, Difference, _latin_words, difference, word_key

LONG = "since the update of last week the exporter writes an empty file for our second depot"
NOTHING, MORE_WORDS, OTHER_WORDS, FACTS = Difference

PAIRS = {
    NOTHING: [
        ("The export fails", "the export fails!"),
        ("The export fails", "The exprot fails"),
        ("Please cancel my plan", "can you cancel my plan, thanks"),
        ("Add a row to the table", "Add rows to the table"),
        ("send it by e-mail", "send it by email"),
        ("I cannot log-in", "I can't login"),
        ("I dont see it", "I don't see it"),
        ("I'm on the U.S. site", "I am on the US site"),
        ("10kg of rice", "10 kg of rice"),
        ("yes/no questions", "yes no questions"),
        ("I needhelp with it", "I need help with it"),
    ],
    MORE_WORDS: [
        ("It is broken", "It is broken again"),
        ("open an account", "open a savings account"),
        ("could the order be cancelled", "can the order be cancelled"),
        ("cancel the order", "cancelling the order"),
    ],
    OTHER_WORDS: [
        ("turn the lights in the kitchen on", "turn the lights in the kitchen off"),
        ("how large is Alaska", "how large is Alabama"),
        ("ask Mr Meyer about it", "ask Mr Meier about it"),
        ("ten mg of it", "ten kg of it"),
        ("plan a is better", "plan b is better"),
        ("rename foo_bar to the new name", "rename foo_baz to the new name"),
        ("rename foo_bar to the new name", "rename foo bar to the new name"),
        ("set abcdefg1x now", "set abcdefh1x now"),
        ("open src/main.py in the editor", "open src/main.rs in the editor"),
        ("the dog bites the man", "the man bites the dog"),
        ("a train from Ghent to Bruges", "a train to Ghent from Bruges"),
        ("do not open but close the door", "open but do not close the door"),
        ("我喜欢你", "我喜欢他"),
        ("le café noir", "le café noël"),
    ],
    FACTS: [
        ("five dead in the fire", "six dead in the fire"),
        ("it is 5 degrees", "it is -5 degrees"),
        ("a discount of 5%", "a discount of 5$"),
        ("is a < b in this case", "is a > b in this case"),
        ("if x == 3 the loop ends", "if x != 3 the loop ends"),
        ("I can log in to the portal", "I can't log in to the portal"),
        ("a list like [a, b] is returned", "a list like (a, b) is returned"),
        ("der Zug ist da", "der Zug ist nicht da"),
        ("我喜欢你", "我不喜欢你"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("a", "b", "most"), [(*pair, most) for most, pairs in PAIRS.items() for pair in pairs])
def test_what_carries_meaning_and_what_does_not(a: str, b: str, most: Difference) -> None:
    assert difference(f"{a}, {LONG}", f"{b}, {LONG}") == most
    assert difference(f"{b}, {LONG}", f"{a}, {LONG}") == most


def test_of_two_words_that_the_data_use_none_is_a_typing_error() -> None:
    a, b = "where is my contract", "where is my contact"
    assert difference(a, b) == NOTHING
    assert difference(a, b, {"contract"}.__contains__) == NOTHING
    assert difference(a, b, {"contract", "contact"}.__contains__) == OTHER_WORDS


@pytest.mark.parametrize(("a", "b"), [("hello", "thanks"), ("okay", "really great"), ("the", "a"), ("?", "no")])
def test_texts_of_nothing_but_small_words_are_compared_as_they_are(a: str, b: str) -> None:
    assert difference(a, b) > NOTHING and word_key(a) != word_key(b)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.text(max_size=40))
def test_symmetric_and_never_raises(a: str, b: str) -> None:
    assert difference(a, b) == difference(b, a)
    assert difference(a, a) == NOTHING


@given(st.text(st.sampled_from("abcdefé ßñ ' -.,;!?«»´·ª²1_\xa0\xad\t\u2019Ж漢")))
def test_words_in_latin_1_are_those_of_any_text(text: str) -> None:
    words = _latin_words(text)
    assert words is None or words == _TOKEN.findall(text)
    assert _latin_words("a naïve, «old» top-up!") == ["a", "naïve", "old", "top", "up"]
