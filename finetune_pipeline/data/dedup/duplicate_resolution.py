"""Decides within a cluster of similar prompts which rows stay, which are duplicates and which contradict each other.

Prompts are one question if their loose forms and their facts (see text_similarity) are equal. Rows with one question and different
answers contradict each other. A row repeats another if it has the same question and answer, or a near prompt with equal facts and
the equal answer.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

from finetune_pipeline.data.answer_equality import answer_key, same_answer
from finetune_pipeline.data.answer_rules import NOT_JSON, canonical, strict
from finetune_pipeline.data.dedup.row_table import CONTRADICTION, EXACT, KEPT, NEAR
from finetune_pipeline.data.dedup.text_similarity import NEAR_ENOUGH, exact_form, facts_of, grams, jaccard, loosened
from finetune_pipeline.data.examples import ORIGINS, Example, Message
from finetune_pipeline.data.quoting import quoted, row_finding
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput

_MOST_COMPARED = 50
"""Number of rows a row is compared with inside its cluster; larger clusters may keep duplicates."""


class Resolution:
    """Decisions about the rows of one cluster, indexed by position in the cluster.

    Attributes:
        states: The state of every row.
        repeats: For each removed repeat, the row it repeats and the similarity of the prompts.
        contradictions: Rows that contradict another, with a finding; with `data.contradictions: warn` they stay.
    """

    def __init__(self, members: Sequence[Example], forms: Sequence[str], spec: TaskSpec) -> None:
        """Decide about the rows of a cluster. forms: the loose forms of their prompts without boilerplate."""
        self._members, self._forms, self._spec = members, forms, spec
        self._prompts = [exact_form(example.user_text) for example in members]
        self._facts = list(map(facts_of, self._prompts))
        self._keys = [_answer_key(example, spec.output) for example in members]
        self._answers = self._keys if spec.output.kind == "json" else [_answer_form(e, spec) for e in members]
        is_text = spec.output.kind == "text"
        self._normal_answers = [(loosened(a), facts_of(a)) if is_text else (a, ()) for a in self._answers]
        self._turns = [_other_turns(example) for example in members]
        self.states = [KEPT] * len(members)
        self.repeats: dict[int, tuple[int, float]] = {}
        self.contradictions: list[tuple[int, Finding]] = []
        best_first = sorted(range(len(members)), key=lambda i: preference(members[i]))
        questions: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i in best_first:
            questions[self._turns[i], loosened(self._prompts[i]), self._facts[i]].append(i)
        for rows in questions.values():
            self._find_contradictions(rows)
        self._remove_repeats(best_first, {i: n for n, rows in enumerate(questions.values()) for i in rows})

    def _similarity(self, i: int, k: int) -> float:
        """Return the similarity of two prompts, apart from boilerplate."""
        return 1.0 if self._forms[i] == self._forms[k] else jaccard(grams(self._forms[i]), grams(self._forms[k]))

    def _same_answer(self, i: int, k: int) -> bool:
        """Whether two rows teach the same answer; of two near free texts one may have more words."""
        if self._spec.output.kind != "text":
            return self._answers[i] == self._answers[k]
        (a, facts_a), (b, facts_b) = self._normal_answers[i], self._normal_answers[k]
        if a == b or facts_a != facts_b:
            return facts_a == facts_b
        fewer, more = sorted((Counter(a.split()), Counter(b.split())), key=Counter.total)
        return fewer <= more and self._near(jaccard(grams(a), grams(b)))

    def _near(self, value: float) -> bool:
        return value >= self._spec.data.near_duplicate_threshold - NEAR_ENOUGH

    def _agree(self, i: int, k: int) -> bool:
        """Whether neither row's answer would be wrong if the other's is right."""
        if self._keys[i] == self._keys[k] or self._same_answer(i, k):
            return True
        rows = self._members[i], self._members[k]
        has_calls = any("tool_calls" in message for row in rows for message in row.messages)
        return not has_calls and same_answer(rows[0].answer, rows[1].answer, self._spec.output)

    def _find_contradictions(self, group: Sequence[int]) -> None:
        """Record the rows of one question whose answers disagree. If people's rows agree, synthetic rows that disagree with them go
        alone: a model's answer removes no person's."""
        people = [i for i in group if self._members[i].origin != "synthetic"]
        if people and len(people) < len(group) and all(self._agree(i, people[0]) for i in people):
            for i in group:
                if self._members[i].origin == "synthetic" and not self._agree(i, people[0]):
                    self._record(i, self._contradiction(i, people))
            return
        if all(self._agree(i, group[0]) for i in group):
            return
        answers: defaultdict[str, list[int]] = defaultdict(list)
        for i in group:
            answers[self._keys[i]].append(i)
        for i in group:
            different = chain.from_iterable(rows for answer, rows in answers.items() if answer != self._keys[i])
            compared = list(islice(different, _MOST_COMPARED))
            finding = self._contradiction(i, [k for k in compared if not self._agree(i, k)] or compared)
            self._record(i, finding)

    def _record(self, i: int, contradiction: Finding) -> None:
        self.contradictions.append((i, contradiction))
        if contradiction.severity == "error":
            self.states[i] = CONTRADICTION

    def _contradiction(self, i: int, other_rows: Sequence[int]) -> Finding:
        """Describe the contradiction with a row that has a different answer, if possible to letter by letter the same text."""
        example = self._members[i]
        k = min(other_rows, key=lambda k: (self._prompts[k] != self._prompts[i], self._members[k].place))
        partner = self._members[k]
        answers = f"answered {quoted(example.answer)} here, but the same text is answered {quoted(partner.answer)}"
        fix = "decide which answer is right and remove or correct the other row"
        if not self._spec.labels:
            fix += "; if both are right, set data.contradictions: warn"
        severity: Severity = "error" if self._spec.data.contradictions == "quarantine" else "warning"
        return row_finding("contradiction", example.place, f"{answers} in {partner.place}", fix, severity)

    def _remove_repeats(self, best_first: Sequence[int], question_of: Mapping[int, int]) -> None:
        """Remove rows that repeat a better one: the same question with the same answer, or a near one with the equal answer and
        the same facts."""
        by_answer: dict[tuple[int, str], int] = {}
        of_question: defaultdict[int, list[int]] = defaultdict(list)
        of_answer: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i in (i for i in best_first if self.states[i] == KEPT):
            question, answer = question_of[i], self._answers[i]
            same_question = of_question[question]
            same_answer_rows = of_answer[self._turns[i], self._facts[i], self._normal_answers[i]]
            k = by_answer.get((question, answer))
            if k is None:
                same = (k for k in same_question[:_MOST_COMPARED] if self._same_answer(i, k))
                near = (k for k in same_answer_rows[:_MOST_COMPARED] if self._near(self._similarity(i, k)))
                k = by_answer[question, answer] = next(chain(same, near), i)
            if k == i:
                same_question.append(i)
                same_answer_rows.append(i)
                continue
            is_exact = self._prompts[i] == self._prompts[k] and answer == self._answers[k]
            self.states[i] = EXACT if is_exact else NEAR
            self.repeats[i] = (k, self._similarity(i, k))


def preference(example: Example) -> tuple[int, int, str, str, str, int]:
    """Return the sort key, best first: human before production before synthetic, then longest, newest, smallest id, source."""
    # with inverted characters, RFC 3339 times in UTC sort from the newest to the oldest; rows without a time come last
    newest_first = "".join(chr(0x7F - ord(c)) if ord(c) < 0x7F else c for c in example.time or "") or "\x7f"
    file, line = str(example.source.get("file")), int(example.source.get("line") or 0)
    return ORIGINS.index(example.origin), -len(example.user_text), newest_first, example.id, file, line


def _answer_key(example: Example, output: AnyOutput) -> str:
    """Return a text that is equal for rows with the same answer, as metrics judge it, and the same calls of tools."""
    return "\n".join([answer_key(example.answer, output), *map(_calls_form, example.messages)])


def _answer_form(example: Example, spec: TaskSpec) -> str:
    """Return the training target in exact form: the label, or all assistant texts and tool calls."""
    if spec.labels:
        return exact_form(example.answer)
    turns = [m for m in example.messages if m["role"] == "assistant"]
    return "\n".join(exact_form(m["content"]) + _calls_form(m) for m in turns)


def _calls_form(message: Message) -> str:
    """Return the names and arguments of a turn's calls, whatever the order of keys; ids do not count."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = []
    for function in functions:
        arguments = strict(function["arguments"])
        calls.append([function["name"], function["arguments"] if arguments is NOT_JSON else canonical(arguments)])
    return canonical(calls) if calls else ""


def _other_turns(example: Example) -> str:
    """Return the exact forms of the assistant's and the tools' turns before the answer."""
    turns = (m for m in example.prompt_messages if m["role"] not in ("system", "user"))
    return "\n".join(f"{m['role']}:{exact_form(m['content'])}" for m in turns)
