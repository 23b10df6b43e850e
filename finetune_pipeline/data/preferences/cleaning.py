"""Cleans preference rows: personal data, equal and swapped pairs, contradicting thumbs, repeats, and rows like those that judge.

Every row that is left out is counted by its rule: rows read = rows kept + rows left out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from finetune_pipeline.data.answer_equality import answer_key
from finetune_pipeline.data.dedup.boilerplate import Boilerplate, stripper
from finetune_pipeline.data.dedup.text_similarity import near_any, text_key
from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.data.preferences.rows import Preference
from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.scrub import finder_of, scrub_turns
from finetune_pipeline.findings import Finding, Severity
from finetune_pipeline.spec.model import TaskSpec

EQUAL, SWAPPED, AGAINST, CONTRADICTED = "equal_pair", "swapped_pair", "pair_against_training", "contradicted_thumb"
REPEATED, LEARNED, PERSONAL = "repeated_preference", "preference_learned", "personal_data"
LIKE_JUDGE = "like_judging_row"
_WHY: dict[str, tuple[str, str]] = {
    EQUAL: ("the liked and the disliked answer are the same", "correct or remove the row"),
    SWAPPED: ("another row likes what this one dislikes, and dislikes what it likes", "remove the one that is wrong"),
    AGAINST: (
        "it dislikes the answer that a training row gives to this prompt",
        "see whether `chosen` and `rejected` are swapped, or correct the training row",
    ),
    CONTRADICTED: ("the same answer to the same prompt is liked as often as disliked, or nearly", "nothing to do"),
    REPEATED: ("it repeats another row", "nothing to do: one of them is kept"),
    LEARNED: ("the answer that it likes is learned from a training row already", "nothing to do"),
    PERSONAL: ("personal data or secrets in the text", "remove them at the source, or set data.scrub: replace"),
    LIKE_JUDGE: (
        "its prompt is that of a row that judges the model (test, validation, or reserved), or nearly, or of its group",
        "nothing to do: the row is left out",
    ),
}
"""Why a row is left out, and what to do."""


@dataclass
class Cleaned:
    """The rows that are kept, and findings about the others: an error for each row that is left out."""

    kept: list[Preference]
    findings: list[Finding] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def remove(self, rule: str, excluded: Callable[[Preference], bool]) -> None:
        """Leave out the rows for which `excluded` is true."""
        is_gone = [excluded(row) for row in self.kept]
        severity: Severity = "note" if rule in (REPEATED, LEARNED) else "warning"
        message, fix = _WHY[rule]
        self.findings += [
            row_finding(rule, row.place, message, fix, severity)
            for row, gone in zip(self.kept, is_gone, strict=True)
            if gone
        ]
        self.left_out += Counter({rule: sum(is_gone)})  # without zeros
        self.kept = [row for row, gone in zip(self.kept, is_gone, strict=True) if not gone]


def clean_preferences(
    rows: Sequence[Preference],
    spec: TaskSpec,
    train: Iterable[Example],
    judging: Sequence[Example],
    boilerplate: Boilerplate = Boilerplate(),  # noqa: B008 - immutable
) -> Cleaned:
    """Clean preference rows.

    Args:
        train: Rows of the first stage, whose answers need not be liked again.
        judging: Every other row of the task: of the test, of validation, or left out for being like one of them; and the
            production rows that are reserved for evaluation.
        boilerplate: Of the task's rows; near copies are found without it, as among supervised rows.
    """
    cleaned = Cleaned(list(rows))
    _scrub(cleaned, spec)
    cleaned.remove(EQUAL, lambda row: row.is_pair and _key(row.chosen, spec) == _key(row.rejected, spec))
    _remove_repeats(cleaned, spec)
    pairs = {(prompt_key(row.prompt), *_keys(row, spec)) for row in cleaned.kept if row.is_pair}
    cleaned.remove(SWAPPED, lambda row: row.is_pair and (prompt_key(row.prompt), *reversed(_keys(row, spec))) in pairs)
    _remove_contradictions(cleaned, spec)
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for example in train:
        answers[prompt_key(example.prompt_messages)].add(_key(example.answer, spec))
    _compare_with_training(cleaned, answers, spec)
    _remove_like(cleaned, judging, spec, boilerplate)
    return cleaned


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return a text that is equal for equal conversations before an answer, up to case and blanks; system turns do not count."""
    return text_key("\n".join(f"{m['role']}: {m['content']}" for m in prompt if m["role"] != "system"))


def _key(answer: str | None, spec: TaskSpec) -> str:
    return "" if answer is None else answer_key(answer, spec.output)


def _keys(row: Preference, spec: TaskSpec) -> tuple[str, str]:
    return _key(row.chosen, spec), _key(row.rejected, spec)


def _scrub(cleaned: Cleaned, spec: TaskSpec) -> None:
    """Replace personal data in all texts of a row, equal values by equal placeholders; or leave such rows out (data.scrub)."""
    find = finder_of(spec.data)
    hits: set[int] = set()
    scrubbed_rows = []
    for row in cleaned.kept:
        answers: list[Message] = [{"role": "assistant", "content": text} for text, _ in row.answers]
        keep = tuple(len(row.prompt) + i for i in range(len(answers))) if spec.labels else ()
        scrubbed = scrub_turns([*row.prompt, *answers], keep, None, find)
        if scrubbed.counts and spec.data.scrub == "replace":
            turns = scrubbed.messages
            texts = iter(turn["content"] for turn in turns[len(row.prompt) :])
            chosen = next(texts) if row.chosen is not None else None
            rejected = next(texts) if row.rejected is not None else None
            scrubbed_rows.append(replace(row, prompt=turns[: len(row.prompt)], chosen=chosen, rejected=rejected))
            continue
        if scrubbed.counts:
            hits.add(id(row))
        scrubbed_rows.append(row)
    cleaned.kept = scrubbed_rows
    if spec.data.scrub == "drop":
        cleaned.remove(PERSONAL, lambda row: id(row) in hits)
    else:
        message, fix = _WHY[PERSONAL]
        kept = (row for row in cleaned.kept if id(row) in hits)
        cleaned.findings += [row_finding(PERSONAL, row.place, message, fix, "warning") for row in kept]


def _remove_repeats(cleaned: Cleaned, spec: TaskSpec) -> None:
    """Of equal pairs keep the first. Equal thumbs stay: they are counted against contradicting ones, and then joined."""
    seen: set[tuple[str, str, str]] = set()

    def repeats(row: Preference) -> bool:
        key = (prompt_key(row.prompt), *_keys(row, spec))
        is_repeat = row.is_pair and key in seen
        seen.add(key)
        return is_repeat

    cleaned.remove(REPEATED, repeats)


def _remove_contradictions(cleaned: Cleaned, spec: TaskSpec) -> None:
    """Of thumbs on one answer keep one, of the majority; none if it has less than two thirds. Pairs do not vote."""
    votes: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)

    def answer_of(row: Preference) -> tuple[str, str]:
        ((text, _),) = row.answers
        return prompt_key(row.prompt), _key(text, spec)

    for row in cleaned.kept:
        if not row.is_pair:
            votes[answer_of(row)].append(row.chosen is not None)
    majority = {key: 3 * sum(liked) >= 2 * len(liked) for key, liked in votes.items()}
    torn = {key for key, liked in votes.items() if len(liked) < 3 * sum(liked) < 2 * len(liked)}
    cleaned.remove(
        CONTRADICTED,
        lambda row: (
            not row.is_pair and (answer_of(row) in torn or majority[answer_of(row)] != (row.chosen is not None))
        ),
    )
    seen: set[tuple[str, str]] = set()

    def repeats(row: Preference) -> bool:
        if row.is_pair:
            return False
        is_repeat = answer_of(row) in seen
        seen.add(answer_of(row))
        return is_repeat

    cleaned.remove(REPEATED, repeats)


def _compare_with_training(cleaned: Cleaned, answers: Mapping[str, set[str]], spec: TaskSpec) -> None:
    """Remove rows that the training rows contradict, and liked answers that they already teach. answers: by prompt."""

    def is_against(row: Preference) -> bool:
        known = answers.get(prompt_key(row.prompt), set())
        chosen, rejected = _keys(row, spec)
        return row.rejected is not None and rejected in known and (row.chosen is None or chosen not in known)

    cleaned.remove(AGAINST, is_against)
    cleaned.remove(
        LEARNED,
        lambda row: row.rejected is None and _key(row.chosen, spec) in answers.get(prompt_key(row.prompt), set()),
    )


def _remove_like(cleaned: Cleaned, judging: Sequence[Example], spec: TaskSpec, boilerplate: Boilerplate) -> None:
    """Remove rows with a prompt like one of a row that judges the model, or of its group."""
    strip = stripper(boilerplate)
    prompts = {prompt_key(example.prompt_messages) for example in judging}
    groups = {example.group for example in judging if example.group is not None}
    texts = [strip(row.user_text) for row in cleaned.kept]
    near = near_any(texts, (strip(example.user_text) for example in judging), spec.data.near_duplicate_threshold)
    like = {id(row) for row, is_near in zip(cleaned.kept, near, strict=True) if is_near}
    cleaned.remove(LIKE_JUDGE, lambda row: id(row) in like or prompt_key(row.prompt) in prompts or row.group in groups)
