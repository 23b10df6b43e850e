from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.duplicate_resolution import differ_in_meaning

LONG = "since the update of last week the exporter writes an empty file for our second depot"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("turn the lights in the kitchen on", "turn the lights in the kitchen off"),
        ("it costs 10 euros", "it costs 100 euros"),
        ("a discount of 5%", "a discount of 5$"),
        ("is a < b in this case", "is a > b in this case"),
        ("if x == 3 the loop ends", "if x != 3 the loop ends"),
        ("I can log in to the portal", "I can't log in to the portal"),
        ("please do this with a backup", "please do this without a backup"),
        ("enable the nightly sync for us", "disable the nightly sync for us"),
        ("rename foo_bar to the new name", "rename foo_baz to the new name"),
        ("open src/main.py in the editor", "open src/main.rs in the editor"),
        ("a list like [a, b] is returned", "a list like (a, b) is returned"),
        ("the dog bites the man", "the man bites the dog"),
        ("meet me on monday at noon", "meet me on friday at noon"),
        ("a train from Ghent to Bruges", "a train to Ghent from Bruges"),
        ("der Zug ist da", "der Zug ist nicht da"),
        ("version 1.2.3 of the app", "version 1.2.4 of the app"),
    ],
)
def test_what_matters_tells_texts_apart(a: str, b: str) -> None:
    assert differ_in_meaning(f"{a}, {LONG}", f"{b}, {LONG}")
    assert differ_in_meaning(f"{b}, {LONG}", f"{a}, {LONG}")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The export fails", "the export fails!"),
        ("The export fails", "The exprot fails"),
        ("Please cancel my plan", "cancel my plan, thanks"),
        ("Add a row to the table", "Add rows to the table"),
        ("It is broken", "It is broken again"),
        ("the export stops in the evening", "the export stops in the morning"),
        ("“quoted” text…", '"quoted" text'),
    ],
)
def test_what_does_not_matter_does_not(a: str, b: str) -> None:
    assert not differ_in_meaning(f"{a}, {LONG}", f"{b}, {LONG}")
    assert not differ_in_meaning(f"{b}, {LONG}", f"{a}, {LONG}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.text(max_size=40))
def test_symmetric_and_never_raises(a: str, b: str) -> None:
    assert differ_in_meaning(a, b) == differ_in_meaning(b, a)
    assert not differ_in_meaning(a, a)
