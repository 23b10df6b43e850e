"""Where an answer differs from the reference: words, characters, and fields of JSON."""

import pytest

from finetune_pipeline.report.differences import MOST_COMPARED, Marked, mark_differences


def shown(text: Marked) -> str:
    """The text with its differing parts in brackets."""
    assert "".join(part.text for part in text.parts) == text
    return "".join(f"[{part.text}]" if part.differs else part.text for part in text.parts)


@pytest.mark.parametrize(
    ("answer", "reference", "given", "right"),
    [
        ("the cat sat", "the dog sat", "the [cat] sat", "the [dog] sat"),
        ("due 2026-12-01", "due 2026-12-02", "due 2026-12-0[1]", "due 2026-12-0[2]"),
        ("Zürich", "Zurich", "Z[ü]rich", "Z[u]rich"),
        ("one two", "one", "one[ two]", "one"),
        ("", "refund", "", "[refund]"),
        ("same", "same", "same", "same"),
        ('{"b": 1, "a": "x"}', '{"a": "x", "b": 2}', '{"b": [1], "a": "x"}', '{"a": "x", "b": [2]}'),
        ('{"a": 1}', '{"a": 1, "b": null}', '{"a": 1}', '{"a": 1, ["b": null]}'),
        ('{"tags": ["y", "x"], "n": 1}', '{"tags": ["x", "y"], "n": 2}',
         '{"tags": ["y", "x"], "n": [1]}', '{"tags": ["x", "y"], "n": [2]}'),
        ('{"lines": [{"q": 1, "p": "a"}]}', '{"lines": [{"q": 2, "p": "a"}]}',
         '{"lines": [{"q": [1], "p": "a"}]}', '{"lines": [{"q": [2], "p": "a"}]}'),
        ("[1, 2]", "[2, 1]", "[[1], [2]]", "[[2], [1]]"),  # only the order differs: compared as text
        ('```json\n{"a": 1}```', '{"a": 1}', None, '{"a": 1}'),
    ],
)  # fmt: skip
def test_what_differs_is_marked_on_both_sides(
    answer: str, reference: str, given: str | None, right: str | None
) -> None:
    marked, wanted = mark_differences(answer, reference)
    assert given is None or shown(marked) == given
    assert right is None or shown(wanted) == right


def test_long_texts_are_marked_between_their_equal_ends() -> None:
    words = int(MOST_COMPARED**0.5) + 2
    answer, reference = (" ".join(["Dear all,", *[word] * words, "Yours, Ann"]) for word in ("ham", "egg"))
    marked, wanted = mark_differences(answer, reference)
    assert [part.text[:9] for part in marked.parts] == ["Dear all,", "ham ham h", " Yours, A"]
    assert [part.differs for part in wanted.parts] == [False, True, False]
