"""Plants leaks (canaries) in a copy of the rows at every run. A leakage check that misses one of them fails.

No search finds all edited copies. How many stay with their original is measured by kind of edit, on rows of validation and test
drawn over all labels and lengths. A copy is found if one of its nearest rows is in its original's unit, because the split would
put it there.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from msgspec.structs import replace

from finetune_pipeline.data.dedup.boilerplate import PREAMBLES, Boilerplate, stripper
from finetune_pipeline.data.dedup.near_duplicates import loose_forms
from finetune_pipeline.data.dedup.row_table import RowTable
from finetune_pipeline.data.dedup.text_similarity import WITHOUT_BLANKS, similarity
from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.data.scrub import finder_of, scrub_text
from finetune_pipeline.data.split.alike import LEAST, REPEATS, AlikeRows
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec import TaskSpec

EACH = 3
"""Number of canaries of each kind."""
_LEAST_WORDS = 4


@dataclass(frozen=True)
class Canary:
    """A planted leak. example: the planted row. source: the index, in the list of sources, of the row it was made from."""

    kind: str
    example: Example
    source: int


def make_canaries(sources: Sequence[Example], threshold: float, boilerplate: Boilerplate) -> list[Canary]:
    """Make up to EACH canaries of each kind from rows that must not leak (validation and test), in a fixed order.

    Kinds: exact, a copy; reformatted, with another case, blanks and punctuation (in a template only if the texts stay similar);
    template_swapped, the same content in another template; same_group, another text of the same group. Raises FindingsError
    if there are no rows to test the check with.
    """
    if not sources:
        message = (
            "there are no validation or test rows: all rows are alike or of one group, or each label has only a few"
        )
        fix = "add examples, or use groups (data.fields.group) that hold fewer rows"
        raise FindingsError([Finding("data.no_held_out_rows", "error", "task.yaml: split", message, fix)])
    order = sorted(range(len(sources)), key=lambda i: (len(sources[i].user_text.split()) < _LEAST_WORDS, sources[i].id))
    strip = stripper(boilerplate)
    makers: dict[str, Callable[[Example], Example | None]] = {
        "exact": lambda source: source,
        "reformatted": lambda source: _reformatted(source, threshold, strip),
        "template_swapped": lambda source: _with_text(source, lambda _: f"{PREAMBLES[0]}\n\n{strip(source.user_text)}"),
        "same_group": _in_same_group,
    }
    canaries: list[Canary] = []
    for kind, make in makers.items():
        planted = ((i, row) for i in order if (row := make(sources[i])))
        for number, (i, row) in enumerate(islice(planted, EACH)):
            canaries.append(Canary(kind, replace(row, id=f"canary-{kind}-{number}"), i))
    return canaries


def _reformatted(source: Example, threshold: float, strip: Callable[[str], str]) -> Example | None:
    """Change case, blanks and punctuation of the row; only of the text besides its templates if a changed template would count
    as new text. Returns None if even then the texts are not similar."""

    def change(text: str) -> str:
        return "  " + text.swapcase().replace(" ", "   ") + " !!"

    content = strip(source.user_text)
    for reformatted in (_with_text(source, change), _with_text(source, lambda t: t.replace(content, change(content)))):
        if reformatted.user_text != source.user_text and similarity(strip(reformatted.user_text), content) >= threshold:
            return reformatted
    return None


def _in_same_group(source: Example) -> Example:
    grouped = replace(source, group=source.group or f"canary group of {source.id}")
    return _with_text(grouped, lambda text: f"canary {text[::-1]}")


def _with_text(example: Example, change: Callable[[str], str]) -> Example:
    """Return the example with its last user turn changed."""
    messages: list[Message] = list(example.messages)
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    messages[last] = {**messages[last], "content": change(messages[last]["content"])}
    return replace(example, messages=messages)


COPIES = 40
"""Number of edited copies of each kind."""
_OPENINGS = ("Hello,", "Hi team,", "Good day,", "Dear all, I hope you are well.", "Hey there,")
_CLOSINGS = ("Thank you!", "Thanks a lot in advance.", "Kind regards", "Many thanks for your help.", "Cheers")
_FOOTER = (
    "You receive this message since you wrote to our service desk. Questions? Write to service.desk@example.com or call "
    "+49 30 901820 between 9 and 17. Example Services, 12 Station Road."
)
Edit = Callable[[str, random.Random, Sequence[str]], str]


def _typos(text: str, rng: random.Random, count: int) -> str:
    for _ in range(count):
        letters = [i for i, sign in enumerate(text) if sign.isalpha()]
        if letters:
            at, letter = rng.choice(letters), text[rng.choice(letters)]
            text = text[:at] + rng.choice(("", letter, letter + text[at], 2 * text[at])) + text[at + 1 :]
    return text


def pieces(text: str) -> tuple[list[str], str]:
    """Cut a text into words, or into characters if its script has no blanks between words. Returns (pieces, what joins them)."""
    return (list(text), "") if 2 * len(WITHOUT_BLANKS.findall(text)) > len(text) else (text.split(), " ")


def _word_dropped(text: str, rng: random.Random, _: Sequence[str]) -> str:
    parts, blank = pieces(text)
    if len(parts) > 2:
        parts.pop(rng.randrange(len(parts)))
    return blank.join(parts)


def _words_swapped(text: str, rng: random.Random, _: Sequence[str]) -> str:
    parts, blank = pieces(text)
    if len(parts) > 1:
        i, j = rng.sample(range(len(parts)), 2)
        parts[i], parts[j] = parts[j], parts[i]
    return blank.join(parts)


def _replaced(text: str, rng: random.Random, others: Sequence[str], share: float) -> str:
    parts, blank = pieces(text)
    for at in rng.sample(range(len(parts)), round(share * len(parts))):
        parts[at] = rng.choice(others)
    return blank.join(parts)


def _first_half(text: str, rng: random.Random, _: Sequence[str]) -> str:
    parts, blank = pieces(text)
    return blank.join(parts[: (len(parts) + 1) // 2])


EDITS: dict[str, Edit] = {
    "one typo": lambda text, rng, _: _typos(text, rng, 1),
    "three typos": lambda text, rng, _: _typos(text, rng, 3),
    "greeting and thanks": lambda text, rng, _: f"{rng.choice(_OPENINGS)} {text} {rng.choice(_CLOSINGS)}",
    "a word dropped": _word_dropped,
    "two words swapped": _words_swapped,
    "a quarter of the words replaced": partial(_replaced, share=1 / 4),
    "half of the words replaced": partial(_replaced, share=1 / 2),
    "the first half only": _first_half,
    "a footer with an address": lambda text, rng, _: f"{text}\n\n{_FOOTER}",
}


class EditRecall(Facts, frozen=True, kw_only=True):
    """How many of the tested edited copies were found, with the share and its 95% interval (Wilson); only tested: 0 if no row could
    be edited that way."""

    tested: int
    found: int | None = None
    recall: float | None = None
    interval: tuple[float, float] | None = None

    def words(self) -> str:
        """Return the recall in words."""
        if self.recall is None or self.interval is None:
            return "not tested"
        return f"{self.recall:.0%} ({self.interval[0]:.0%} to {self.interval[1]:.0%})"


def recall_by_edit(
    table: RowTable, unit: np.ndarray, guarded: np.ndarray, alike: AlikeRows, boilerplate: Boilerplate, spec: TaskSpec
) -> dict[str, EditRecall]:
    """Measure how many edited copies of validation and test rows (`guarded`, int64) are found, for every kind of edit."""
    from scipy.stats import binomtest

    find = finder_of(spec.data)
    rows = table.rows[guarded]
    order = guarded[np.lexsort((rows["id"], rows["end"] - rows["start"], rows["label"]))]
    recall: dict[str, EditRecall] = {}
    for number, (kind, edit) in enumerate(EDITS.items()):
        rng = random.Random(number)  # noqa: S311
        count = min(COPIES, len(order))
        chosen = order[((np.arange(count) + rng.random()) * len(order) / count).astype(np.int64)]
        texts = [e.user_text for e in table.fetch(chosen)]
        words = sorted({piece for text in texts for piece in pieces(text)[0]})
        copies = [edit(text, rng, words) for text in texts]
        if spec.data.scrub == "replace":
            copies = [scrub_text(copy, find) for copy in copies]
        tested = np.array([copy.split() != text.split() for copy, text in zip(copies, texts, strict=True)])
        if not tested.any():
            recall[kind] = EditRecall(tested=0)
            continue
        near = alike.index.nearest(loose_forms(copies, boilerplate))
        least = REPEATS if spec.split.by == "time" else LEAST  # by time, only such a copy would leave training
        nearest = np.where(near.strength >= least, near.text, -1)
        # without a nearest text, -1 reads the last row, which does not count below
        is_in_same_unit = ((nearest >= 0) & (unit[alike.rows[nearest]] == unit[chosen][:, None])).any(1)
        test = binomtest(int((tested & is_in_same_unit).sum()), int(tested.sum()))
        interval = test.proportion_ci(method="wilson")
        bounds = round(float(interval.low), 4), round(float(interval.high), 4)
        recall[kind] = EditRecall(tested=test.n, found=test.k, recall=round(test.k / test.n, 4), interval=bounds)
    return recall
