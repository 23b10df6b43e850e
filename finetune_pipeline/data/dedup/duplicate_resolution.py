"""Decides within a cluster of like prompts: who stays, who repeats whom, and who contradicts whom.

Rows contradict each other when their prompts differ in nothing and their answers do. A row repeats another when its prompt
has some words more at most, and its answer says the same. See differences.py for what counts as a difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from finetune_pipeline.data.dedup.differences import Difference, difference, numbers_of
from finetune_pipeline.data.dedup.row_table import CONTRADICTION, EXACT, KEPT, NEAR
from finetune_pipeline.data.dedup.text_similarity import exact_form, similarity
from finetune_pipeline.data.examples import ORIGINS, Example
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec

_PARTNERS = 50
"""How many rows a row is compared with inside its cluster; in larger ones more is kept, never less."""


@dataclass
class Resolution:
    """What was decided about the members of one cluster: the state of each; for each removed repeat (by place) the
    place of the row it repeats, and the similarity of the prompts; and (place, finding) of each member that contradicts
    another, which with `data.contradictions: warn` stays."""

    states: list[int]
    repeats: dict[int, tuple[int, float]] = field(default_factory=dict)
    contradictions: list[tuple[int, Finding]] = field(default_factory=list)


@dataclass(frozen=True)
class Sameness:
    """What decides whether rows say the same. known: whether a word is one that the data use, rather than a typing error."""

    spec: TaskSpec
    known: Callable[[str], bool]

    def same_text(self, a: str, b: str, most: Difference) -> bool:
        """Whether two texts are equal but for case and blanks, or like and differ in no more than `most`."""
        return exact_form(a) == exact_form(b) or (
            difference(a, b, self.known) <= most
            and (most is Difference.NOTHING or similarity(a, b) >= self.spec.data.near_duplicate_threshold)
        )

    def same_answer(self, a: Example, b: Example, most: Difference) -> bool:
        first, second = answer_form(a, self.spec), answer_form(b, self.spec)
        return first == second or (not self.spec.labels and self.same_text(first, second, most))


def resolve(members: Sequence[Example], spec: TaskSpec, known: Callable[[str], bool]) -> Resolution:
    """Decide about the rows of one cluster. known: as in Sameness."""
    sameness = Sameness(spec, known)
    resolution = Resolution([KEPT] * len(members))
    places = sorted(range(len(members)), key=lambda i: preference(members[i]))
    question_of: dict[int, int] = {}
    for number, group in enumerate(_same_questions(members, places, sameness)):
        question_of |= dict.fromkeys(group, number)
        _contradictions(group, members, sameness, resolution)
    kept: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for i in (i for i in places if resolution.states[i] == KEPT):
        rivals = kept[answer_form(members[i], spec) if spec.labels else "", *numbers_of(members[i].user_text)]
        match = next((k for k in rivals[:_PARTNERS] if _repeats(i, k, members, question_of, sameness)), None)
        if match is None:
            rivals.append(i)
            continue
        same = exact_form(members[i].user_text) == exact_form(members[match].user_text)
        exact = same and answer_form(members[i], spec) == answer_form(members[match], spec)
        likeness = 1.0 if same else similarity(members[i].user_text, members[match].user_text)
        resolution.states[i] = EXACT if exact else NEAR
        resolution.repeats[i] = (match, likeness)
    return resolution


def _repeats(i: int, k: int, members: Sequence[Example], question_of: dict[int, int], sameness: Sameness) -> bool:
    """Whether a row repeats another: its answer may differ by some words only where the question is the very same."""
    a, b = members[i], members[k]
    if question_of[i] == question_of[k]:
        return sameness.same_answer(a, b, Difference.MORE_WORDS)
    if not sameness.same_answer(a, b, Difference.NOTHING):
        return False
    return sameness.same_text(a.user_text, b.user_text, Difference.MORE_WORDS)


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


def _same_questions(members: Sequence[Example], places: Sequence[int], sameness: Sameness) -> list[list[int]]:
    """Places of members whose prompts differ in nothing, the best first in each group."""
    groups: list[list[int]] = []
    by_form: dict[str, list[int]] = {}
    by_numbers: defaultdict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for i in places:
        text = members[i].user_text
        form = exact_form(text)
        group = by_form.get(form)
        if group is None:
            rivals = by_numbers[numbers_of(text)]
            alike = (
                g for g in rivals[:_PARTNERS] if sameness.same_text(members[g[0]].user_text, text, Difference.NOTHING)
            )
            group = next(alike, None)
            if group is None:
                groups.append(group := [])
                rivals.append(group)
            by_form[form] = group
        group.append(i)
    return groups


def _contradictions(
    group: Sequence[int], members: Sequence[Example], sameness: Sameness, resolution: Resolution
) -> None:
    spec = sameness.spec
    answers: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        answers[answer_form(members[i], spec)].append(i)
    if len(answers) < 2:
        return
    clashing = set(group) if spec.labels else _clashing(group, members, sameness)
    for i in (i for i in group if i in clashing):
        own = answer_form(members[i], spec)
        others = (j for form, rows in answers.items() if form != own for j in rows if j in clashing)
        finding = _contradiction(members[i], [members[j] for j in islice(others, _PARTNERS)], spec)
        resolution.contradictions.append((i, finding))
        if finding.severity == "error":
            resolution.states[i] = CONTRADICTION


def answer_form(example: Example, spec: TaskSpec) -> str:
    """What is to be learned, in exact form: the label, or everything the assistant says and calls."""
    if spec.labels:
        return exact_form(example.answer)
    turns = [m for m in example.messages if m["role"] == "assistant"]
    return "\n".join(exact_form(m["content"]) + str(m.get("tool_calls") or "") for m in turns)


def _clashing(group: Sequence[int], members: Sequence[Example], sameness: Sameness) -> set[int]:
    """Rows of one question, after the same turns of other roles, with free answers that do not say the same."""
    by_turns: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        turns = [m for m in members[i].messages[:-1] if m["role"] not in ("system", "user")]
        by_turns["\n".join(f"{m['role']}:{exact_form(m['content'])}" for m in turns)].append(i)
    clashing: set[int] = set()
    for same in by_turns.values():
        different: list[int] = []
        for i in same:
            if not any(
                sameness.same_answer(members[i], members[k], Difference.MORE_WORDS) for k in different[:_PARTNERS]
            ):
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
