"""Decides within a cluster of like prompts: who stays, who repeats whom, and who contradicts whom.

A row repeats another only if the two do not differ in what matters: numbers; signs other than those of sentences; negation;
words of opposite meaning; identifiers, paths and codes; the order of the words that carry meaning. What does not matter:
another or one more word of a kind, typing errors, inflection, punctuation, case, politeness, the small words of grammar.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from finetune_pipeline.data.dedup.row_table import CONTRADICTION, EXACT, KEPT, NEAR
from finetune_pipeline.data.dedup.text_similarity import exact_form, similarity
from finetune_pipeline.data.examples import ORIGINS, Example
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

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
    _words = _pair.split("/")
    for _word, _other in (_words, _words[::-1]):
        _OPPOSITES[_word] = _OPPOSITES.get(_word, frozenset()) | {_other}
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS = "january february march april may june july august september october november december"
_CALENDAR = (frozenset(_DAYS.split()), frozenset(_MONTHS.split()))


@dataclass(frozen=True)
class _Meaning:
    """What a text says, taken apart."""

    numbers: tuple[str, ...]
    signs: tuple[tuple[str, int], ...]
    codes: frozenset[str]
    negations: int
    words: tuple[str, ...]


@lru_cache(maxsize=4096)
def _take_apart(text: str) -> _Meaning:
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
    return _Meaning(tuple(numbers), tuple(sorted(signs.items())), codes, negations, tuple(words))


def differ_in_meaning(a: str, b: str) -> bool:
    """Whether near-duplicate texts differ in what matters, by the rules above. Symmetric; equal texts never do."""
    if a == b:
        return False
    first, second = _take_apart(a), _take_apart(b)
    if first.numbers != second.numbers or first.signs != second.signs or first.negations != second.negations:
        return True
    if first.codes != second.codes:
        return True
    if first.words == second.words:
        return _opposed(a, b)
    words_a, words_b = Counter(first.words), Counter(second.words)
    only_a, only_b = set(words_a - words_b), set(words_b - words_a)
    if not only_a and not only_b:
        return True  # the same words in another order
    for names in _CALENDAR:
        if only_a & names != only_b & names:
            return True
    return _opposed(a, b)


def _opposed(a: str, b: str) -> bool:
    """Whether a word of one text stands for its opposite in the other: on and off, with and without, from and to."""
    words_a, words_b = (Counter(w for w in re.findall(r"\w+", t.casefold()) if w in _OPPOSITES) for t in (a, b))
    only_a, only_b = words_a - words_b, words_b - words_a
    return any(_OPPOSITES[word] & set(only_b) for word in only_a)


_PARTNERS = 50
"""How many rows a row is compared with inside its cluster; in larger ones more is kept, never less."""
_NUMBER = re.compile(r"\d+")


@dataclass
class Resolution:
    """What was decided about the members of one cluster.

    Attributes:
        states: Of each member: KEPT, EXACT, NEAR or CONTRADICTION.
        repeats: For each removed repeat (by place): the place of the row it repeats, and the similarity of the prompts.
        contradictions: (place, finding) of each member that contradicts another; with `data.contradictions: warn` these
            stay.
    """

    states: list[int]
    repeats: dict[int, tuple[int, float]] = field(default_factory=dict)
    contradictions: list[tuple[int, Finding]] = field(default_factory=list)


def resolve(members: Sequence[Example], spec: TaskSpec) -> Resolution:
    """Decide about the rows of one cluster."""
    resolution = Resolution([KEPT] * len(members))
    for group in _same_questions(members):
        _contradictions(group, members, spec, resolution)
        kept: list[int] = []
        for i in (i for i in group if resolution.states[i] == KEPT):
            match = next((k for k in kept[:_PARTNERS] if _same_answer(members[i], members[k], spec)), None)
            if match is None:
                kept.append(i)
                continue
            same = exact_form(members[i].user_text) == exact_form(members[match].user_text)
            exact = same and _answer_form(members[i], spec) == _answer_form(members[match], spec)
            likeness = 1.0 if same else similarity(members[i].user_text, members[match].user_text)
            resolution.states[i] = EXACT if exact else NEAR
            resolution.repeats[i] = (match, likeness)
    return resolution


def preference(example: Example) -> tuple[int, int, str, str, str, int]:
    """Sort key, best first: human before production before synthetic, then longest, newest, smallest id, source."""
    return (
        ORIGINS.index(example.origin),
        -len(example.user_text),
        _newest_first(example.time),
        example.id,
        str(example.source.get("file")),
        int(example.source.get("line") or 0),
    )


def _newest_first(time: str | None) -> str:
    """Sorts RFC 3339 times in UTC from the newest to the oldest, and before rows without one."""
    return "".join(chr(0x7F - ord(c)) if ord(c) < 0x7F else c for c in time) if time else "\x7f"


def _same_questions(members: Sequence[Example]) -> list[list[int]]:
    """Places of members that ask the same thing, the best first in each group."""
    groups: list[list[int]] = []
    by_form: dict[str, list[int]] = {}
    by_numbers: defaultdict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for i in sorted(range(len(members)), key=lambda i: preference(members[i])):
        text = members[i].user_text
        form = exact_form(text)
        group = by_form.get(form)
        if group is None:
            # texts with other numbers never say the same: only groups with the same ones are compared
            rivals = by_numbers[tuple(_NUMBER.findall(form))]
            alike = (g for g in rivals[:_PARTNERS] if not differ_in_meaning(members[g[0]].user_text, text))
            group = next(alike, None)
            if group is None:
                groups.append(group := [])
                rivals.append(group)
            by_form[form] = group
        group.append(i)
    return groups


def _contradictions(group: Sequence[int], members: Sequence[Example], spec: TaskSpec, resolution: Resolution) -> None:
    """Note the rows of a group whose answers differ."""
    answers: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        answers[_answer_form(members[i], spec)].append(i)
    if len(answers) < 2:
        return
    clashing = set(group) if spec.labels else _clashing(group, members, spec)
    for i in (i for i in group if i in clashing):
        own = _answer_form(members[i], spec)
        others = (j for form, rows in answers.items() if form != own for j in rows if j in clashing)
        finding = _contradiction(members[i], [members[j] for j in islice(others, _PARTNERS)], spec)
        resolution.contradictions.append((i, finding))
        if finding.severity == "error":
            resolution.states[i] = CONTRADICTION


def _answer_form(example: Example, spec: TaskSpec) -> str:
    """What is to be learned, in exact form: the label, or everything the assistant says and calls."""
    if spec.labels:
        return exact_form(example.answer)
    turns = [m for m in example.messages if m["role"] == "assistant"]
    return "\n".join(exact_form(m["content"]) + str(m.get("tool_calls") or "") for m in turns)


def _same_answer(example: Example, kept: Example, spec: TaskSpec) -> bool:
    a, b = _answer_form(example, spec), _answer_form(kept, spec)
    if a == b or spec.labels:
        return a == b
    return similarity(a, b) >= spec.data.near_duplicate_threshold and not differ_in_meaning(a, b)


def _clashing(group: Sequence[int], members: Sequence[Example], spec: TaskSpec) -> set[int]:
    """Rows with the very same prompt and free answers that do not say the same."""
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        turns = [m for m in members[i].messages[:-1] if m["role"] != "system"]
        by_prompt["\n".join(f"{m['role']}:{exact_form(m['content'])}" for m in turns)].append(i)
    clashing: set[int] = set()
    for same in by_prompt.values():
        different: list[int] = []
        for i in same:
            if not any(_same_answer(members[i], members[k], spec) for k in different[:_PARTNERS]):
                different.append(i)
        if len(different) > 1:
            clashing |= set(same)
    return clashing


def _contradiction(example: Example, others: Sequence[Example], spec: TaskSpec) -> Finding:
    """Names the most similar of the rows that say something else."""
    partner = min(others, key=lambda e: (-similarity(example.user_text, e.user_text), e.place))
    likeness = similarity(example.user_text, partner.user_text)
    same = exact_form(example.user_text) == exact_form(partner.user_text)
    alike = "the same text" if same else f"nearly the same text (similarity {likeness:.2f})"
    answers = f"answered {quoted(example.answer)} here, but {alike} is answered {quoted(partner.answer)}"
    fix = "decide which answer is right and remove or correct the other row"
    fix += "" if spec.labels else "; if both are right, set data.contradictions: warn"
    severity: Severity = "error" if spec.data.contradictions == "quarantine" else "warning"
    return row_finding("contradiction", example.place, f"{answers} in {partner.place}", fix, severity)
