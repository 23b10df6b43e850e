"""Decides within a cluster of similar prompts which rows stay, which are duplicates and which contradict each other.

Rows contradict each other if their prompts do not differ but their answers do. A row repeats another if its prompt only adds
some words and its answer says the same. See differences.py for what counts as a difference.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from finetune_pipeline.data.answer_equality import answer_key, same_answer
from finetune_pipeline.data.answer_rules import NOT_JSON, canonical, strict
from finetune_pipeline.data.dedup.differences import Difference, difference, facts_of, word_key
from finetune_pipeline.data.dedup.row_table import CONTRADICTION, EXACT, KEPT, NEAR
from finetune_pipeline.data.dedup.text_similarity import exact_form, similarity
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

    def __init__(self, members: Sequence[Example], spec: TaskSpec, is_known: Callable[[str], bool]) -> None:
        """Decide about the rows of a cluster. is_known: whether a word occurs in the data, so that it is not a typing error."""
        self._members, self._spec, self._is_known = members, spec, is_known
        self._prompts = [example.user_text for example in members]
        self._forms = [exact_form(prompt) for prompt in self._prompts]
        self._keys = [_answer_key(example, spec.output) for example in members]
        self._answers = self._keys if spec.output.kind == "json" else [_answer_form(e, spec) for e in members]
        self._turns = [_other_turns(example) for example in members]
        self.states = [KEPT] * len(members)
        self.repeats: dict[int, tuple[int, float]] = {}
        self.contradictions: list[tuple[int, Finding]] = []
        best_first = sorted(range(len(members)), key=lambda i: preference(members[i]))
        groups = self._same_questions(best_first)
        for group in groups:
            self._find_contradictions(group)
        self._remove_repeats(best_first, {i: number for number, group in enumerate(groups) for i in group})

    def _same_text(self, a: str, b: str, limit: Difference) -> bool:
        """Whether two texts differ by at most `limit`, and are similar unless they do not differ."""
        return difference(a, b, self._is_known) <= limit and (
            limit is Difference.NOTHING or similarity(a, b) >= self._spec.data.near_duplicate_threshold
        )

    def _same_answer(self, i: int, k: int, limit: Difference) -> bool:
        """Whether two rows teach the same answer; free text may differ by `limit`."""
        a, b = self._answers[i], self._answers[k]
        return a == b or (self._spec.output.kind == "text" and self._same_text(a, b, limit))

    def _agree(self, i: int, k: int) -> bool:
        """Whether neither row's answer would be wrong if the other's is right."""
        if self._keys[i] == self._keys[k] or self._same_answer(i, k, Difference.MORE_WORDS):
            return True
        rows = self._members[i], self._members[k]
        has_calls = any("tool_calls" in message for row in rows for message in row.messages)
        return not has_calls and same_answer(rows[0].answer, rows[1].answer, self._spec.output)

    def _same_questions(self, best_first: Sequence[int]) -> list[list[int]]:
        """Group rows with equivalent prompts and the same other turns, the best row first."""
        groups: list[list[int]] = []
        by_form: dict[tuple[str, str], list[int]] = {}
        by_words: dict[tuple[str, str], list[int]] = {}
        by_facts: defaultdict[tuple[Any, ...], list[list[int]]] = defaultdict(list)
        for i in best_first:
            text, turns = self._prompts[i], self._turns[i]
            group = by_form.get((turns, self._forms[i]))
            if group is None:
                same_facts, words = by_facts[turns, *facts_of(text)], (turns, word_key(self._forms[i]))
                same_words = [by_words[words]] if words in by_words else []
                for candidate in chain(same_words, same_facts[:_MOST_COMPARED]):
                    if self._same_text(self._prompts[candidate[0]], text, Difference.NOTHING):
                        group = candidate
                        break
                else:
                    group = []
                    groups.append(group)
                    same_facts.append(group)
                by_words.setdefault(words, group)
                by_form[turns, self._forms[i]] = group
            group.append(i)
        return groups

    def _find_contradictions(self, group: Sequence[int]) -> None:
        """Record the rows of one question whose answers disagree."""
        if all(self._agree(i, group[0]) for i in group):
            return
        answers: defaultdict[str, list[int]] = defaultdict(list)
        for i in group:
            answers[self._keys[i]].append(i)
        for i in group:
            different = chain.from_iterable(rows for answer, rows in answers.items() if answer != self._keys[i])
            compared = list(islice(different, _MOST_COMPARED))
            finding = self._contradiction(i, [k for k in compared if not self._agree(i, k)] or compared)
            self.contradictions.append((i, finding))
            if finding.severity == "error":
                self.states[i] = CONTRADICTION

    def _contradiction(self, i: int, other_rows: Sequence[int]) -> Finding:
        """Describe the contradiction with a row that has a different answer, if possible to the same text."""
        example = self._members[i]
        k = min(other_rows, key=lambda k: (self._forms[k] != self._forms[i], self._members[k].place))
        partner, likeness = self._members[k], "the same text"
        if self._forms[i] != self._forms[k]:
            likeness = f"nearly the same text (similarity {similarity(self._prompts[i], self._prompts[k]):.2f})"
        answers = f"answered {quoted(example.answer)} here, but {likeness} is answered {quoted(partner.answer)}"
        fix = "decide which answer is right and remove or correct the other row"
        if not self._spec.labels:
            fix += "; if both are right, set data.contradictions: warn"
        severity: Severity = "error" if self._spec.data.contradictions == "quarantine" else "warning"
        return row_finding("contradiction", example.place, f"{answers} in {partner.place}", fix, severity)

    def _remove_repeats(self, best_first: Sequence[int], question_of: Mapping[int, int]) -> None:
        """Remove rows that repeat a better one. Answers may differ by a few words only if the question is
        identical."""
        kept: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        kept_of_answer: dict[tuple[int, str], int] = {}
        for i in (i for i in best_first if self.states[i] == KEPT):
            text, question_and_answer = self._prompts[i], (question_of[i], self._answers[i])
            label = (self._turns[i], self._answers[i]) if self._spec.labels else ()
            better_rows = kept[(*label, *facts_of(text))]
            k = kept_of_answer.get(question_and_answer)
            if k is None:
                repeated = (k for k in better_rows[:_MOST_COMPARED] if self._repeats(i, k, question_of))
                k = kept_of_answer[question_and_answer] = next(repeated, i)
            if k == i:
                better_rows.append(i)
                continue
            same = self._forms[i] == self._forms[k]
            self.states[i] = EXACT if same and self._answers[i] == self._answers[k] else NEAR
            self.repeats[i] = (k, 1.0 if same else similarity(text, self._prompts[k]))

    def _repeats(self, i: int, k: int, question_of: Mapping[int, int]) -> bool:
        if question_of[i] == question_of[k]:
            return self._same_answer(i, k, Difference.MORE_WORDS)
        return self._same_answer(i, k, Difference.NOTHING) and self._same_text(
            self._prompts[i], self._prompts[k], Difference.MORE_WORDS
        )


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
