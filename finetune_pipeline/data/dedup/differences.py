"""Estimates how much two similar texts differ in meaning, by their words alone.

These make no difference: case, punctuation, hyphens and blanks inside a compound ("top-up", "e-mail"), articles, politeness,
plurals, and a typing error. An added word makes a small difference. A replaced word (a name, an opposite, a unit) changes the
meaning, and so does another order of the same words. Numbers, signs and negations are facts.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache
from itertools import chain, filterfalse
from typing import NamedTuple, TypeVar

from finetune_pipeline.data.dedup.text_similarity import exact_form, keeps, latin_bytes

_SENTENCE_SIGNS = ".,;:!?\"'`´’‘“”„«»…–—·•-"
_SIGNS_TO_BLANKS = bytes(32 if chr(c) in _SENTENCE_SIGNS and chr(c) != "'" else c for c in range(256))
"""Table for bytes.translate: a text in Latin-1 whose words hold only letters then needs no regular expressions."""
_MARK = f"[{''.join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c)[0] == 'M')}]"
_TOKEN = re.compile(
    r"[a-z]++(?![^\W\d_]|[\u0300-\U0001efff])|[\u3040-\u30ff\u3400-\u9fff]"
    rf"|(?:[^\W\d_\u3040-\u30ff\u3400-\u9fff]++(?:(?=[\u0300-\U0001efff]){_MARK})*+)++"
    rf"|(?:(?<![\w.,)-])-)?\d+(?:[.,:/-]\d+)*|\w+|[^\w\s{_SENTENCE_SIGNS}]"
)
"""A word with its vowel signs (one character in Chinese and Japanese), a number with its sign, or a symbol other than sentence
punctuation, in lower case. The first alternative is a faster form of the others for plain letters; the range in the lookaheads
is checked faster than the marks in it."""
_IDENTIFIER = re.compile(r"_|[^\W\d_]\d|\d[^\W\d_]+\d|\w[./\\:@#]\w")
_NAME = re.compile(r"(?<=[\w,;] )[^\W\d_]+")
_SHORT_FORM = re.compile(r"(?<=\w)['’](m|re|s|ve|ll|d)\b")
_LONG_FORM = {"m": "am", "re": "are", "s": "is", "ve": "have", "ll": "will", "d": "would"}
_STEMS = "ca wo do does did is are was were could would should have has had must need".split()
_NEGATED = re.compile(rf"\b({'|'.join(_STEMS)})n['’]t\b")
_VERBS = {stem: {"ca": "can", "wo": "will"}.get(stem, stem) for stem in _STEMS}
_JOINED_NEGATIONS = {"cannot": "can", **{f"{stem}nt": verb for stem, verb in _VERBS.items()}}
_SLASH_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])/(?=[^\W\d_])")
_NEGATIONS = frozenset(
    """no not never none nobody nothing neither nor without nicht kein keine keinen nie ohne ne pas jamais sans sin
    nunca não sem nao 不 没 沒 無 未""".split()
)
_NEGATION_MARK = "¬"
_FILLERS = frozenset(
    """a the please pls kindly thanks thank thx hi hello hey dear just really very quite ok okay bitte danke hallo
    gracias hola merci bonjour""".split()
)
"""Articles, politeness and emphasis: removed before texts are compared."""
_POLITE_OPENINGS = [["can", "you"], ["could", "you"], ["would", "you"], ["will", "you"]]
_FUNCTION_WORDS = frozenset(
    """an this that these those of to at for and or so then there also too maybe perhaps is are was were be been am do
    does did has have had will would can could should may might must i you we me us my our your it its as with by
    some any well der die das ein eine und ist le la les un une et est por favor el los de""".split()
)
"""Function words: adding or exchanging them hardly changes the meaning."""
_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_FROM_THIRTY = "thirty forty fifty sixty seventy eighty ninety"
NUMBERS = {word: str(n) for n, word in enumerate(_TO_TWENTY.split())}
NUMBERS |= {word: str(10 * n) for n, word in enumerate(_FROM_THIRTY.split(), 3)}
"""The digits of each number word."""
_FACT_WORDS = frozenset((*NUMBERS, *_NEGATIONS, *_JOINED_NEGATIONS))
"""Words that count as facts: negations and number words."""
QUANTITIES = frozenset(
    """hundred thousand million billion dozen half first second third fourth fifth sixth seventh eighth ninth
    tenth""".split()
)
_INFLECTIONS = frozenset(("", "e", "d", "ed", "ing", "s", "es", "ies", "y", "led", "ling"))
_SHORTEST_TYPO = 5
Part = TypeVar("Part", str, tuple[str, ...])


class Difference(IntEnum):
    """The largest kind of difference between two texts."""

    NOTHING = 0
    MORE_WORDS = 1
    """Added words, different function words, or another inflection."""
    OTHER_WORDS = 2
    """Replaced words, or the same words in another order."""
    FACTS = 3
    """Different numbers, symbols or negations."""


class _Words(NamedTuple):
    """A tokenized text, without the words in _FILLERS unless fewer than two words would remain."""

    numbers: tuple[str, ...]
    signs: tuple[str, ...]
    negations: int
    words: tuple[str, ...]


def difference(a: str, b: str, is_known: Callable[[str], bool] = lambda word: False) -> Difference:
    """Return the largest difference between two similar texts. is_known: whether a word occurs in the data. If two words differ
    by a letter and one is unknown, it is a typing error."""
    if a == b:
        return Difference.NOTHING
    if facts_of(a) != facts_of(b):
        return Difference.FACTS
    words_a, words_b = _differing_parts(_tokenize(a).words, _tokenize(b).words)
    only_a, only_b = _surplus_words(words_a, words_b), _surplus_words(words_b, words_a)
    shared_a, shared_b = _without_words(words_a, only_a), _without_words(words_b, only_b)
    if _content_words(shared_a) != _content_words(shared_b):
        return Difference.OTHER_WORDS
    inflected = only_a and only_b and _drop_variants(only_a, only_b, _exact_words(a) | _exact_words(b), is_known)
    if _content_words(only_a) and _content_words(only_b):
        return Difference.OTHER_WORDS
    if any(len(word) == 1 and word.isascii() for word in _content_words(only_a + only_b)):  # such as plan a and plan b
        return Difference.OTHER_WORDS
    return Difference.MORE_WORDS if only_a or only_b or inflected else Difference.NOTHING


def facts_of(text: str) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the numbers of a text in order, its signs, and its number of negations. Texts with other facts differ in meaning."""
    return _tokenize(text)[:3]


def word_key(form: str) -> str:
    """Return a key of a text by its exact form: it ignores word spacing, punctuation, articles and politeness."""
    parts = _split(form)
    return "\n".join(("".join(parts.words), " ".join(parts.numbers), "".join(parts.signs), str(parts.negations)))


def words_of(form: str) -> frozenset[str]:
    return frozenset(_split(form).words)


class _Tokens(dict[str, list[str]]):
    """The tokens of each chunk between two blanks: few different chunks make up most of all texts."""

    def __missing__(self, chunk: str) -> list[str]:
        plain = _NEGATED.sub(lambda m: f"{_VERBS[m[1]]} not", chunk)
        plain = _SHORT_FORM.sub(lambda m: f" {_LONG_FORM[m[1]]}", plain)
        tokens = _TOKEN.findall(_SLASH_BETWEEN_WORDS.sub(" ", plain))
        if len(chunk) < 64:  # so its memory is bounded
            if len(self) == 1 << 14:
                self.clear()
            self[chunk] = tokens
        return tokens


_TOKENS = _Tokens()


@lru_cache(maxsize=4096)
def _tokenize(text: str) -> _Words:
    return _split(exact_form(text))


def _split(form: str) -> _Words:
    numbers: list[str] = []
    signs: list[str] = []
    words: list[str] = []
    negations = 0
    latin = latin_bytes(form)
    tokens = latin.translate(_SIGNS_TO_BLANKS).decode("latin-1").split() if latin else []
    if not "".join(tokens).isalpha():
        tokens = list(chain.from_iterable(map(_TOKENS.__getitem__, form.split(" "))))
    elif _FACT_WORDS.isdisjoint(tokens):
        words, tokens = tokens, []
    for token in tokens:
        if token.isalpha() and token not in _FACT_WORDS:
            words.append(token)
        elif token in NUMBERS or token.lstrip("-")[:1].isdigit():
            numbers.append(NUMBERS.get(token, token))
        elif token in _NEGATIONS:
            negations += 1
            words.append(_NEGATION_MARK)  # its position counts, not the word
        elif token in _JOINED_NEGATIONS:
            negations += 1
            words += [_JOINED_NEGATIONS[token], _NEGATION_MARK]
        elif token[0].isalnum() or token[0] == "_":
            words.append(token)
        elif token.isascii() or keeps(token):  # the punctuation of all languages makes no difference
            signs.append(token)
    meaningful = list(filterfalse(_FILLERS.__contains__, words))
    if meaningful[:2] in _POLITE_OPENINGS:
        del meaningful[:2]
    return _Words(tuple(numbers), tuple(sorted(signs)), negations, tuple(meaningful if len(meaningful) > 1 else words))


@lru_cache(maxsize=4096)
def _exact_words(text: str) -> frozenset[str]:
    """Return words that no typing error explains: names inside a sentence, parts of identifiers, quantities."""
    plain = unicodedata.normalize("NFKC", text)
    exact = {name.casefold() for name in _NAME.findall(plain) if name[0].isupper()}
    for chunk in plain.split():
        if _IDENTIFIER.search(chunk):
            exact.update(_TOKEN.findall(chunk.casefold()))
    return QUANTITIES | exact


def _surplus_words(words: Sequence[str], other_words: Sequence[str]) -> list[str]:
    """Return the words that occur more often in `words` than in `other_words`, in order."""
    surplus = Counter(words) - Counter(other_words)
    kept = []
    for word in words if surplus else ():
        if surplus[word] > 0:
            surplus[word] -= 1
            kept.append(word)
    return kept


def _without_words(words: Sequence[str], left_out: Sequence[str]) -> list[str]:
    gone = set(left_out)
    return [word for word in words if word not in gone]


def _content_words(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _FUNCTION_WORDS]


def _drop_compounds(parts: list[str], words: list[str]) -> None:
    """Remove words that are written as two in the other list: log in, login."""
    for size in (2, 3):
        for i in range(len(parts) - size, -1, -1):
            joined = "".join(parts[i : i + size])
            if joined in words and "_" not in joined:
                words.remove(joined)
                del parts[i : i + size]


def _drop_variants(
    words: list[str], other_words: list[str], exact: frozenset[str], is_known: Callable[[str], bool]
) -> bool:
    """Remove pairs of words that are forms of one word from both lists. Returns whether any is another inflection."""
    _drop_compounds(words, other_words)
    _drop_compounds(other_words, words)
    inflected = False
    for word in list(words):
        for other_word in other_words:
            # the forms of a word begin with the same letter
            variant = _variant(word, other_word, exact, is_known) if word[0] == other_word[0] else None
            if variant is not None:
                words.remove(word)
                other_words.remove(other_word)
                inflected |= variant is Difference.MORE_WORDS
                break
    return inflected


def _variant(a: str, b: str, exact: frozenset[str], is_known: Callable[[str], bool]) -> Difference | None:
    """Return how two forms of one word differ: not at all (plural, typing error) or by inflection. None: they are two words."""
    shorter, longer = sorted((a, b), key=len)
    if shorter in exact or longer in exact or not (shorter.isalpha() and longer.isalpha()):
        return None
    if len(shorter) > 2 and longer in (f"{shorter}s", f"{shorter}es", f"{shorter[:-1]}ies"):
        return Difference.NOTHING
    stem = _shared_start(shorter, longer)
    if stem > 2 and shorter[stem:] in _INFLECTIONS and longer[stem:] in _INFLECTIONS:
        return Difference.MORE_WORDS
    may_be_typo = len(shorter) >= _SHORTEST_TYPO and stem and _one_edit(shorter, longer)
    return Difference.NOTHING if may_be_typo and not (is_known(shorter) and is_known(longer)) else None


def _one_edit(a: str, b: str) -> bool:
    """Whether one inserted, replaced or transposed letter turns one word into the other."""
    a, b = _differing_parts(a, b)
    return max(len(a), len(b)) <= 1 or (len(a) == len(b) == 2 and a == b[::-1])


def _differing_parts(a: Part, b: Part) -> tuple[Part, Part]:
    """Return both without what they share at their start and at their end."""
    start = _shared_start(a, b)
    a, b = a[start:], b[start:]
    end = _shared_start(a[::-1], b[::-1])
    return a[: len(a) - end], b[: len(b) - end]


def _shared_start(a: Sequence[str], b: Sequence[str]) -> int:
    unequal = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(unequal, min(len(a), len(b)))
