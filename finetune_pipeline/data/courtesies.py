"""A greeting before a text, and thanks or a closing after it, as messages that people write have them.

The right answer must stay the right answer:

* no line is added that shares a word with a label or with the row's own answer;
* rows whose label is about courtesy itself (greeting, thanks, goodbye, small talk) stay as they are, and so do all rows
  of a task whose labels grade manners (polite, rude);
* where labels grade feelings (positive, angry, praise), only lines without warmth are added;
* a text that begins with a greeting gets no second one, and a text that ends with a closing none either;
* a text that is not mostly in Latin letters stays as it is: the lines are English.

Training copies and evaluation use different lines, so a model is not tested on the very lines it was trained on.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Literal

from finetune_pipeline.data.examples import Example

Purpose = Literal["training", "evaluation"]

GREETINGS: dict[Purpose, tuple[str, ...]] = {
    "training": (
        "Hello,",
        "Hi,",
        "Dear team,",
        "Hey,",
        "Hello everyone,",
        "Good afternoon,",
        "Greetings,",
        "Hi, I hope all is well.",
    ),
    "evaluation": (
        "Hi team,",
        "Hello there,",
        "Good morning,",
        "Dear all,",
        "Hi all,",
        "Good day,",
        "Hello, I hope you are well.",
        "Good evening,",
    ),
}
CLOSINGS: dict[Purpose, tuple[str, ...]] = {
    "training": (
        "Thank you!",
        "Thanks a lot.",
        "Regards",
        "Cheers",
        "Kind regards",
        "Thank you for your time.",
        "Thanks and best wishes",
        "Have a nice day!",
    ),
    "evaluation": (
        "Thanks in advance!",
        "Many thanks",
        "Best regards",
        "With regards",
        "Thank you very much.",
        "Thanks!",
        "Best wishes",
        "Thank you and have a good day.",
    ),
}
_BETWEEN = ("\n", "\n\n", " ")
"""What stands between greeting and text; a closing has a line of its own."""
_WARM = frozenset("best cheer day dear good great hope kind nice thank well wish".split())  # noqa: SIM905
"""Word stems of lines that are more than neutral."""
_BEGINS_WITH_GREETING = re.compile(
    r"\W*(hi|hiya|hello|hallo|hullo|hey|yo|dear|greetings|good (morning|afternoon|evening|day)|to who\w*"
    r"|(i |we )?hope (you|all|this|everyone)"
    r"|(morning|afternoon|evening|bonjour|salut|hola|ciao|buenos|buenas|guten|moin|servus)\b(?=\W*[,!.\n]| \w+[,!\n]))\b",
    re.IGNORECASE,
)
_ENDS_WITH_CLOSING = re.compile(
    r"\b(thanks?|thank you|thx|tia|ta|cheers|regards|wishes|sincerely|yours|obliged|love|bye|goodbye|see you|have a (nice|good)"
    r"|merci|cordialement|danke|gruß|grüße|gracias|saludos|grazie|obrigad[oa]|bedankt)\b",
    re.IGNORECASE,
)
_TAIL = 80
"""Characters at the end of a text in which a closing (with a name behind it) is looked for."""
_ABOUT_COURTESY = re.compile(
    r"\b(greet\w*|hello|hi|hey|welcome|thanks?|thanking|thank ?you|thankful|gratitude|appreciation|good ?bye|bye|farewell"
    r"|courtes\w+|pleasantr\w+|small ?talk|chit ?chat)\b"
)
_ABOUT_MANNERS = re.compile(r"\b(im|un)?polite\w*|\b(dis)?courteous\w*|\brude\w*|\b(in)?civility\b")
_ABOUT_FEELINGS = re.compile(
    r"\b(positive|negative|neutral|sentiment|happy|happiness|angry|anger|joy|sad|sadness|praise|compliment|satisf\w+"
    r"|dissatisf\w+|admiration|annoy\w+|love)\b"
)


def _plain(text: str) -> str:
    return " ".join(re.split(r"[\s_\-/.]+", text.casefold()))


def grades_manners(labels: Sequence[str]) -> bool:
    """Whether a task's labels say how polite a text is, so that a greeting may change the right one."""
    return any(_ABOUT_MANNERS.search(_plain(label)) for label in labels)


def about_courtesy(example: Example) -> bool:
    """Whether a row's label, or its JSON answer, is about greeting, thanks or small talk."""
    subject = example.label or (example.answer if example.answer.lstrip().startswith(("{", "[")) else "")
    return bool(_ABOUT_COURTESY.search(_plain(subject)))


def words_to_avoid(words: Collection[str], labels: Sequence[str]) -> frozenset[str]:
    """Stems (words without a plural s) that no added line may hold.

    Args:
        words: Words of the labels and of the row's own answer, in small letters.
        labels: The task's labels. Where they grade feelings, warm words are avoided too.
    """
    warm = _WARM if any(_ABOUT_FEELINGS.search(_plain(label)) for label in labels) else frozenset()
    return frozenset(word.rstrip("s") for word in words) | warm


def with_courtesies(text: str, dice: random.Random, avoided: Collection[str], purpose: Purpose) -> str:
    """The text with a greeting before it and a closing after it, each where it has none and a line fits.

    Args:
        text: What the user wrote.
        dice: Draws the lines and what stands between them and the text.
        avoided: Stems that no line may hold, see `words_to_avoid`.
        purpose: Which lines to draw from.

    Returns:
        The text unchanged where neither side can change.
    """
    if not _mostly_latin(text):
        return text

    def fitting(lines: Sequence[str]) -> list[str]:
        return [
            line for line in lines if not {w.rstrip("s") for w in re.findall(r"[a-z]+", line.lower())} & set(avoided)
        ]

    greetings, closings = fitting(GREETINGS[purpose]), fitting(CLOSINGS[purpose])
    end = text.rstrip()
    changed = text
    if greetings and not _BEGINS_WITH_GREETING.match(text):
        changed = dice.choice(greetings) + dice.choice(_BETWEEN) + changed
    if closings and not end.endswith(":") and not _ENDS_WITH_CLOSING.search(end[-_TAIL:]):
        changed += dice.choice(_BETWEEN[:2]) + dice.choice(closings)
    return changed


def _mostly_latin(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in letters)
    return 2 * latin > len(letters)
