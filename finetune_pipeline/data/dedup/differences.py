"""Do two nearly equal texts differ in what matters? Then neither is a repetition of the other.

What matters: numbers; signs other than those of sentences; negation; words of opposite meaning; identifiers, paths and
codes; and the order of the words that carry meaning. What does not: another or one more word of a kind (that is what
nearly equal means), typing errors, inflection, punctuation, case, politeness, the small words of grammar. The texts are
taken to be near-duplicates already (see near_duplicates): for texts at large the answer means nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"\d+(?:[.,:/-]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|\w+|[^\w\s]")
_CODE = re.compile(r"\w+(?:[._/\\:-]+\w+)+|\w*_\w*|(?=.*\d)(?=.*[^\W\d])\w+")
_EDGES = ".,;:!?\"'`´’‘“”„«»…()[]{}<>*"
_SENTENCE_SIGNS = frozenset(".,;:!?\"'`´’‘“”„«»…-–—·•")
_NEGATION_WORDS = """
no not never none nobody nothing neither nor without cannot nicht kein keine keinen nie ohne ne pas jamais sans sin
nunca não sem nao
"""
_NEGATIONS = frozenset(_NEGATION_WORDS.split())
_FILLER_WORDS = """
a an the this that these those of to in at for and or so then please kindly thanks thank you hi hello hey dear there
just really very quite also too maybe perhaps is are was were be been am do does did have has had will would can could
should may might i we me us my our your it its as with by some any well ok okay bitte danke hallo der die das ein eine
und ist le la les un une et est por favor gracias hola el los de
"""
_FILLERS = frozenset(_FILLER_WORDS.split())
_PAIRS = """
on/off enable/disable enabled/disabled before/after increase/decrease increased/decreased yes/no true/false
up/down in/out start/stop started/stopped open/close opened/closed open/closed left/right first/last min/max minimum/maximum
more/less more/fewer most/least high/low higher/lower above/below over/under buy/sell bought/sold add/remove added/removed
allow/deny allowed/denied accept/reject accepted/rejected include/exclude included/excluded upload/download import/export
push/pull lock/unlock locked/unlocked login/logout show/hide win/lose pass/fail passed/failed always/never all/none hot/cold
old/new good/bad better/worse cheap/expensive fast/slow early/late begin/end male/female he/she his/her internal/external
public/private positive/negative plus/minus multiply/divide encode/decode encrypt/decrypt increase/reduce raise/lower
send/receive sent/received incoming/outgoing arrive/depart arrival/departure north/south east/west black/white from/to
today/tomorrow today/yesterday with/without visible/invisible valid/invalid active/inactive online/offline ein/aus an/aus
vor/nach ja/nein oui/non sí/no sim/não
"""
_OPPOSITES: dict[str, frozenset[str]] = {}
for _pair in _PAIRS.split():
    _one, _two = _pair.split("/")
    for _word, _other in ((_one, _two), (_two, _one)):
        _OPPOSITES[_word] = _OPPOSITES.get(_word, frozenset()) | {_other}
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS = "january february march april may june july august september october november december"
_CALENDAR = (frozenset(_DAYS.split()), frozenset(_MONTHS.split()))


@dataclass(frozen=True)
class _Said:
    """What a text says, taken apart."""

    numbers: tuple[str, ...]
    signs: tuple[tuple[str, int], ...]
    codes: frozenset[str]
    negations: int
    words: tuple[str, ...]


@lru_cache(maxsize=4096)
def _take_apart(text: str) -> _Said:
    plain = unicodedata.normalize("NFKC", text)
    codes = frozenset(
        word.casefold()
        for chunk in plain.split()
        if not (word := chunk.strip(_EDGES)).isalpha() and "'" not in word and _CODE.fullmatch(word)
    )
    numbers: list[str] = []
    signs: Counter[str] = Counter()
    words: list[str] = []
    negations = 0
    for token in _TOKEN.findall(plain.casefold()):
        if token[0].isdigit():
            numbers.append(token)
        elif token[0].isalnum() or token[0] == "_":
            if token in _NEGATIONS or token.endswith(("n't", "n’t")):
                negations += 1
            elif token not in _FILLERS:
                words.append(token)
        elif token not in _SENTENCE_SIGNS:
            signs[token] += 1
    return _Said(tuple(numbers), tuple(sorted(signs.items())), codes, negations, tuple(words))


def differ_in_meaning(a: str, b: str) -> bool:
    """Whether near-duplicate texts differ in what matters, by the rules above. Symmetric; equal texts never do."""
    a, b = _apart(a, b)
    if a == b:
        return False
    one, two = _take_apart(a), _take_apart(b)
    if one.numbers != two.numbers or one.signs != two.signs or one.negations != two.negations:
        return True
    if one.codes != two.codes:
        return True
    if one.words == two.words:
        return _opposed(a, b)
    left, right = Counter(one.words), Counter(two.words)
    gone, come = set(left - right), set(right - left)
    if not gone and not come:
        return True  # the same words in another order
    for names in _CALENDAR:
        if gone & names != come & names:
            return True
    return _opposed(a, b)


def _apart(a: str, b: str) -> tuple[str, str]:
    """The texts without the words they begin and end with alike: nothing below depends on those."""
    left, right = a.split(), b.split()
    upto = min(len(left), len(right))
    start = 0
    while start < upto and left[start] == right[start]:
        start += 1
    end = 0
    while end < upto - start and left[-1 - end] == right[-1 - end]:
        end += 1
    return " ".join(left[start : len(left) - end]), " ".join(right[start : len(right) - end])


def _opposed(a: str, b: str) -> bool:
    """Whether a word of one text stands for its opposite in the other: on and off, with and without, from and to."""
    left, right = (Counter(w for w in re.findall(r"\w+", t.casefold()) if w in _OPPOSITES) for t in (a, b))
    gone, come = left - right, right - left
    return any(_OPPOSITES[word] & set(come) for word in gone)
