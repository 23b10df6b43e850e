"""Light perturbations of user texts, as they occur in production: typing errors, another case, an added greeting and thanks,
and no system prompt.

The reference answer must stay correct, so a perturbation never changes anything the answer may depend on:

* words of the row's own answer, tool calls included, in any case (an extraction copies them);
* tokens with a digit, an underscore or a sign (numbers, dates, identifiers, addresses, placeholders of scrubbed values);
* for typos also capitalized words (names), words for numbers, months, days and negation, short words, and every change that
  would give another word of these rows; scripts without upper and lower case are not changed.

An added line shares no word with a label or the row's answer. Rows whose label is about courtesy itself (greeting, thanks,
small talk) get no line, nor do tasks whose labels grade manners. If labels grade feelings, only neutral lines are added. A text
with a greeting or a closing gets no second one, and a text that is not mostly in Latin letters gets none.

Training and evaluation draw from different lines, so a model is not tested on the lines it was trained on. A row that a
perturbation cannot change is left out. The seed and the row's id determine the result.
"""

import hashlib
import random
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

from msgspec.structs import replace

from finetune_pipeline.data.dedup.text_similarity import NUMBERS
from finetune_pipeline.data.examples import Example, Message

Purpose = Literal["training", "evaluation"]

BLOCKING = ("typos", "case", "courtesy")
"""Everyday perturbations: a significant loss on these can block a candidate."""
INFORMS = ("no_system",)
"""Only reported, because a model is served with its system prompt."""
KINDS = (*BLOCKING, *INFORMS)
TITLES = {"typos": "Typing errors", "case": "Another case", "courtesy": "Greeting and thanks",
          "no_system": "Without the system prompt"}  # fmt: skip
GREETINGS: dict[Purpose, tuple[str, ...]] = {
    "training": ("Hello,", "Hi,", "Dear team,", "Hey,", "Hello everyone,", "Good afternoon,", "Greetings,",
                 "Hi, I hope all is well."),
    "evaluation": ("Hi team,", "Hello there,", "Good morning,", "Dear all,", "Hi all,", "Good day,",
                   "Hello, I hope you are well.", "Good evening,"),
}  # fmt: skip
CLOSINGS: dict[Purpose, tuple[str, ...]] = {
    "training": ("Thank you!", "Thanks a lot.", "Regards", "Cheers", "Kind regards", "Thank you for your time.",
                 "Thanks and best wishes", "Have a nice day!"),
    "evaluation": ("Thanks in advance!", "Many thanks", "Best regards", "With regards", "Thank you very much.", "Thanks!",
                   "Best wishes", "Thank you and have a good day."),
}  # fmt: skip
_BETWEEN = ("\n", "\n\n", " ")
"""Separator between greeting and text; a closing gets its own line."""
_WARM = frozenset("best cheer day dear good great hope kind nice thank well wish".split())
"""Word stems of lines that are not neutral."""
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
"""Characters at the end of a text that are searched for a closing (and a name after it)."""
_ABOUT_COURTESY = re.compile(
    r"\b(greet\w*|hello|hi|hey|welcome|thanks?|thanking|thank ?you|thankful|gratitude|appreciation|good ?bye|bye|farewell"
    r"|courtes\w+|pleasantr\w+|small ?talk|chit ?chat)\b"
)
_ABOUT_MANNERS = re.compile(r"\b(im|un)?polite\w*|\b(dis)?courteous\w*|\brude\w*|\b(in)?civility\b")
_ABOUT_FEELINGS = re.compile(
    r"\b(positive|negative|neutral|sentiment|happy|happiness|angry|anger|joy|sad|sadness|praise|compliment|satisf\w+"
    r"|dissatisf\w+|admiration|annoy\w+|love)\b"
)
_WORDS_PER_TYPO, _SHORTEST = 10, 5
"""One word in ten, at least one per row: the share in HELM's mild misspelling perturbation."""
_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_]+")
_PLAIN = re.compile(r"[\W_]*[^\W\d_]+(?:['’-][^\W\d_]+)*[.,;:!?)\]\"'”’…]*")
_SIGNS = re.compile(r"[_@#/\\<>\[\]{}$€£%&=+*|~^`]")
_KEPT = frozenset(
    """cannot without never neither nothing nobody nowhere hardly except quarter twice thrice double triple january
    february march april june july august september october november december monday tuesday wednesday thursday friday
    saturday sunday today tomorrow yesterday hundred thousand million billion dozen half first second third fourth fifth
    sixth seventh eighth ninth tenth""".split()
).union(NUMBERS)


def set_name(name: str, kind: str) -> str:
    """Return the name of a perturbed set of predictions or training row: the original name, and the kind."""
    return f"{name}:{kind}"


def kind_of(name: str) -> str | None:
    """Return the perturbation in a name made by `set_name`; None for an original name."""
    kind = name.rpartition(":")[2]
    return kind if kind in KINDS and ":" in name else None


def drawn(examples: Sequence[Example], rows: int, seed: int) -> list[Example]:
    """Draw at most this many examples by seed and id; they keep their original order."""
    ordered = sorted(examples, key=lambda e: hashlib.sha256(f"{seed}:{e.id}".encode()).digest())
    chosen = {e.id for e in ordered[:rows]}
    return [e for e in examples if e.id in chosen]


def perturbed(
    examples: Sequence[Example], kind: str, seed: int, labels: Sequence[str] = (), purpose: Purpose = "evaluation"
) -> list[Example]:
    """Return perturbed copies of the examples with unchanged ids and order; examples that do not change are left out. Changes
    only the last user turn, or removes the system turn (`no_system`); never the answers.

    Args:
        kind: One of `KINDS`.
        seed: Of the random draws, together with each row's id.
        labels: The task's labels; no perturbation produces their words.
        purpose: Training or evaluation; the two use different courtesies.
    """
    if kind == "no_system":
        bare = [(e, [m for m in e.messages if m["role"] != "system"]) for e in examples]
        return [replace(e, messages=messages) for e, messages in bare if 1 < len(messages) < len(e.messages)]
    if kind == "courtesy" and _about(_ABOUT_MANNERS, *labels):
        return []
    label_words = _words(labels)
    too_warm = _WARM if _about(_ABOUT_FEELINGS, *labels) else frozenset()
    known_words = label_words | _words(m["content"] for e in examples for m in e.messages)
    changed_rows = []
    for example in examples:
        place = max((i for i, m in enumerate(example.messages) if m["role"] == "user"), default=None)
        if place is None:
            continue
        changed = text = example.messages[place]["content"]
        dice = random.Random(hashlib.sha256(f"{seed}:{kind}:{example.id}".encode()).digest())  # noqa: S311
        answered = _words(_answers(example.messages[place + 1 :]))
        if kind == "typos":
            changed = _mistyped(text, dice, answered, known_words)
        elif kind == "case":
            changed = _in_another_case(text, dice, answered)
        elif not _is_about_courtesy(example):
            avoided = too_warm | {word.rstrip("s") for word in answered | label_words}
            changed = _with_courtesies(text, dice, avoided, purpose)
        if changed != text:
            messages = [dict(m) for m in example.messages]
            messages[place]["content"] = changed
            changed_rows.append(replace(example, messages=messages))
    return changed_rows


def _answers(messages: Sequence[Message]) -> list[str]:
    """Return the assistant's texts and tool arguments."""
    turns = [m for m in messages if m["role"] == "assistant"]
    calls = [call["function"]["arguments"] for m in turns for call in m.get("tool_calls") or ()]
    return [m["content"] for m in turns] + calls


def _words(texts: Iterable[str]) -> set[str]:
    return {word.lower() for text in texts for word in _WORD.findall(text.replace("_", " "))}


def _plain(token: str) -> bool:
    """Whether a token is plain words, maybe with punctuation: no number, identifier or address."""
    return bool(_PLAIN.fullmatch(token)) and not _SIGNS.search(token)


def _mistyped(text: str, dice: random.Random, protected: Collection[str], known_words: Collection[str]) -> str:
    """Change about one word in ten: swap two neighbouring letters inside it, drop one, or double one."""
    plain = ((token.start(), list(_WORD.finditer(token[0]))) for token in _TOKEN.finditer(text) if _plain(token[0]))
    single = [(start + words[0].start(), words[0][0]) for start, words in plain if len(words) == 1]
    places = [(start, word) for start, word in single if len(word) >= _SHORTEST and word.islower()]
    places = [(start, word) for start, word in places if word not in protected and word not in _KEPT]
    dice.shuffle(places)
    most = max(1, len(_TOKEN.findall(text)) // _WORDS_PER_TYPO)
    changes: dict[int, tuple[str, str]] = {}
    for start, word in places:
        at = dice.randrange(1, len(word) - 2)
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        typo = dice.choice([swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]])
        if typo != word and typo not in known_words and len(changes) < most:
            changes[start] = (word, typo)
    for start in sorted(changes, reverse=True):
        word, typo = changes[start]
        text = text[:start] + typo + text[start + len(word) :]
    return text


def _in_another_case(text: str, dice: random.Random, protected: Collection[str]) -> str:
    """Put the text into lower or upper case, whichever changes it."""

    def turned(change: Callable[[str], str]) -> str:
        def of(token: re.Match[str]) -> str:
            new = token[0] if not _plain(token[0]) or _words([token[0]]) & set(protected) else change(token[0])
            return new if len(new) == len(token[0]) else token[0]

        return _TOKEN.sub(of, text)

    first, second = dice.sample([str.lower, str.upper], 2)
    return changed if (changed := turned(first)) != text else turned(second)


def _about(subject: re.Pattern[str], *texts: str) -> bool:
    return any(subject.search(" ".join(re.split(r"[\s_\-/.]+", text.casefold()))) for text in texts)


def _is_about_courtesy(example: Example) -> bool:
    """Whether a row's label, or its JSON answer, is about greeting, thanks or small talk."""
    is_json = example.answer.lstrip().startswith(("{", "["))
    return _about(_ABOUT_COURTESY, example.label or (example.answer if is_json else ""))


def _with_courtesies(text: str, dice: random.Random, avoided: Collection[str], purpose: Purpose) -> str:
    """Add a greeting and a closing to the text, unless it has one or no line fits. avoided: stems (words without a plural s)
    that no added line may hold."""
    letters = [unicodedata.name(character, "") for character in text if character.isalpha()]
    if 2 * sum(name.startswith("LATIN") for name in letters) <= len(letters):
        return text

    def fits(line: str) -> bool:
        return not {word.rstrip("s") for word in _words([line])} & set(avoided)

    greetings, closings = (list(filter(fits, lines[purpose])) for lines in (GREETINGS, CLOSINGS))
    end = text.rstrip()
    changed = text
    if greetings and not _BEGINS_WITH_GREETING.match(text):
        changed = dice.choice(greetings) + dice.choice(_BETWEEN) + changed
    if closings and not end.endswith(":") and not _ENDS_WITH_CLOSING.search(end[-_TAIL:]):
        changed += dice.choice(_BETWEEN[:2]) + dice.choice(closings)
    return changed
