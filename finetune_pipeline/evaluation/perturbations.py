"""Light perturbations of what a user wrote, of the kind production brings: typos, case, words around it, no system prompt.

The right answer must stay the right answer, so what it can hang on is left as it is:

* words of the row's own answer, whatever their case (an extraction copies them);
* whatever holds a digit, an underscore or a sign (numbers, dates, identifiers, addresses, placeholders of scrubbed values);
* for typos also words with a capital (names), words for numbers, months, days and negation, short words, and every change
  that would make another word of these rows; scripts without upper and lower case are not touched;
* the lines put around a text speak of the text alone: no greeting, thanks or haste, which some tasks are about, no name,
  number or negation; and no line is used that shares a word with a label or with the row's answer.

A row a perturbation cannot change is left out of it. What becomes of a row follows from the seed and its id alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from finetune_pipeline.data.examples import Example

KINDS = ("typos", "case", "context", "no_system")
TITLES = {
    "typos": "Typing errors",
    "case": "Another case",
    "context": "Words around it",
    "no_system": "Without the system prompt",
}
_WORDS_PER_TYPO, _SHORTEST = 6, 5
_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_]+")
_KEPT = frozenset(
    """cannot without never neither nothing nobody nowhere hardly except
    three four five seven eight nine eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty
    forty fifty sixty seventy eighty ninety hundred thousand million billion dozen half third quarter first second twice
    thrice double triple january february march april june july august september october november december monday tuesday
    wednesday thursday friday saturday sunday today tomorrow yesterday""".split()  # noqa: SIM905
)
_BEFORE = (
    "Here is the text, copied from another window:",
    "The text below was typed by hand.",
    "The whole text follows, as it came in.",
    "Pasted below, line breaks may have moved:",
    "Forwarded as it was:",
    "See the text between the blank lines.",
)
_AFTER = (
    "End of the text.",
    "Everything above is the text as it was written.",
    "(The text is left as it came in.)",
    "Typed in one go.",
    "The lines above are all there is.",
    "Copied from start to end.",
)
_AROUND = 2
"""Lines put before, and as many put after."""


def set_name(model: str, kind: str) -> str:
    """The name in the predictions table of a model's answers to perturbed rows."""
    return f"{model}:{kind}"


def drawn(examples: Sequence[Example], rows: int, seed: int) -> list[Example]:
    """At most so many examples, in their order; which ones, the seed and their ids decide."""
    ordered = sorted(examples, key=lambda e: hashlib.sha256(f"{seed}:{e.id}".encode()).digest())
    chosen = {e.id for e in ordered[:rows]}
    return [e for e in examples if e.id in chosen]


def perturbed(examples: Sequence[Example], kind: str, seed: int, labels: Sequence[str] = ()) -> list[Example]:
    """The examples as another hand might have written them, under their own ids; those it leaves unchanged are missing.

    Only the last user turn is changed, or for `no_system` the system turn left out. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown perturbation {kind!r}; there are {', '.join(KINDS)}")
    if kind == "no_system":
        bare = [[m for m in e.messages if m["role"] != "system"] for e in examples]
        return [
            replace(e, messages=left)
            for e, left in zip(examples, bare, strict=True)
            if len(left) < len(e.messages) and len(left) > 1
        ]
    known = _words(m["content"] for e in examples for m in e.messages if isinstance(m.get("content"), str))
    found = []
    for example in examples:
        place = max((i for i, m in enumerate(example.messages) if m["role"] == "user"), default=None)
        if place is None or not isinstance(text := example.messages[place]["content"], str):
            continue
        dice = random.Random(hashlib.sha256(f"{seed}:{kind}:{example.id}".encode()).digest())  # noqa: S311
        kept = _words([example.answer])
        match kind:
            case "typos":
                changed = _mistyped(text, dice, kept, known | _words(labels))
            case "case":
                changed = _in_another_case(text, dice, kept)
            case _:
                changed = _surrounded(text, dice, kept | _words(labels))
        if changed != text:
            messages = [dict(m) for m in example.messages]
            messages[place]["content"] = changed
            found.append(replace(example, messages=messages))
    return found


def _words(texts: Iterable[str]) -> set[str]:
    return {word.lower() for text in texts for word in _WORD.findall(text.replace("_", " "))}


def _plain(token: str) -> bool:
    """Words with punctuation around them at most: nothing that may be a number, an identifier or an address."""
    return bool(re.fullmatch(r"[\W_]*[^\W\d_]+(?:['’-][^\W\d_]+)*[.,;:!?)\]\"'”’…]*", token)) and not re.search(
        r"[_@#/\\<>\[\]{}$€£%&=+*|~^`]", token
    )


def _mistyped(text: str, dice: random.Random, kept: Collection[str], known: Collection[str]) -> str:
    """About one word in six with two neighbouring letters inside it swapped, one left out or one doubled."""
    places = [
        (token.start() + word.start(), word[0])
        for token in _TOKEN.finditer(text)
        if _plain(token[0]) and len(found := list(_WORD.finditer(token[0]))) == 1
        for word in found
        if len(word[0]) >= _SHORTEST and word[0].islower()
        if word[0] not in kept and word[0] not in _KEPT
    ]
    dice.shuffle(places)
    wanted = max(1, len(_TOKEN.findall(text)) // _WORDS_PER_TYPO)
    changes: dict[int, tuple[str, str]] = {}
    for start, word in places:
        at = dice.randrange(1, len(word) - 2)
        typo = dice.choice(
            [
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
            ]
        )
        if typo != word and typo not in known and len(changes) < wanted:
            changes[start] = (word, typo)
    for start in sorted(changes, reverse=True):
        word, typo = changes[start]
        text = text[:start] + typo + text[start + len(word) :]
    return text


def _in_another_case(text: str, dice: random.Random, kept: Collection[str]) -> str:
    """All small letters, or all capitals; whichever changes something."""

    def turned(how: str) -> str:
        def of(token: re.Match[str]) -> str:
            if not _plain(token[0]) or _words([token[0]]) & set(kept):
                return token[0]
            other = token[0].lower() if how == "small" else token[0].upper()
            return other if len(other) == len(token[0]) else token[0]

        return _TOKEN.sub(of, text)

    first, second = dice.sample(["small", "capitals"], 2)
    return changed if (changed := turned(first)) != text else turned(second)


def _surrounded(text: str, dice: random.Random, kept: Collection[str]) -> str:
    """Lines before and after; the text unchanged where too few of them fit the row."""
    before, after = ([line for line in lines if not _words([line]) & set(kept)] for lines in (_BEFORE, _AFTER))
    if min(len(before), len(after)) < _AROUND:
        return text
    return "\n".join([*dice.sample(before, _AROUND), "", text, "", *dice.sample(after, _AROUND)])
