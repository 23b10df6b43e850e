"""Finds answers that were cut off at one length, and answers that end in two styles: a model learns both."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from finetune_pipeline.data.dedup.text_similarity import WITHOUT_BLANKS
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.parts import Part
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec

LEAST_CUT, LEAST_CUT_SHARE = 10, 0.02
"""Rows, and share of all rows, that must end unfinished at one length."""
UNFINISHED = 0.8
"""Share of the longest answers that must be unfinished: answers that only happen to be equally long mostly end a sentence."""
ONE_FORM, LONG = 0.5, 200
"""Where a larger share of the answers has the greatest length, and it is below LONG characters, they have one form: commands, or
sentences with a code in them."""
LONGEST, LONGEST_UNFINISHED, OTHERS_UNFINISHED = 0.1, 0.6, 0.2
"""Answers were cut at a number of tokens, which we cannot count, if of this share with most characters more than
LONGEST_UNFINISHED are unfinished, and of the shorter half fewer than OTHERS_UNFINISHED."""
MIXED = 0.2
"""Answers end in two styles if each style has at least this share."""
SENTENCE_WORDS, LEAST_SENTENCES = 5, 50
_SENTENCE_CHARACTERS = 10
"""The same as SENTENCE_WORDS, in scripts without blanks between words. Shorter answers are names, dates or codes."""
_END = re.compile(r"[.!?…。！？؟।][\"'”’»)\]*_`]*$")
_UNFINISHED = re.compile(r"[\w,;:(\-–—]$")
_SENTENCE = re.compile(r"^\W*[^\W\d_]")
MEASURES: tuple[tuple[str, Callable[[str], int]], ...] = (
    ("characters", len),
    ("words", lambda text: len(text.split())),
)


def answer_style(examples: Sequence[Example], spec: TaskSpec) -> Part:
    """Make the part of the report on how text answers end: cut off at one length, or with and without a full stop. Warns."""
    if spec.output.kind != "text":
        return Part(passed=True, message="not asked: the answers are not free text", applies=False)
    rows = [e for e in examples if e.answer.strip()]
    findings = [finding for finding in (_cut_off(rows), _mixed_ends(rows)) if finding]
    message = "; ".join(f.message for f in findings) or "answers are whole and end alike"
    return Part(passed=not findings, message=message, findings=findings)


def _cut_off(rows: Sequence[Example]) -> Finding | None:
    """Report answers that end unfinished at the greatest length, in characters or words, or as most of the longest ones do."""
    unfinished = [bool(_UNFINISHED.search(e.answer.rstrip())) for e in rows]
    for unit, measure in MEASURES:
        lengths = [measure(e.answer) for e in rows]
        longest = max(lengths, default=0)
        tolerance = 1 if unit == "characters" else 0  # a space at the cut may have been removed
        at_longest = [i for i, length in enumerate(lengths) if length >= longest - tolerance]
        cut = [i for i in at_longest if unfinished[i] and _may_be_sentence(rows[i].answer)]
        is_pile = len(cut) >= max(LEAST_CUT, LEAST_CUT_SHARE * len(rows), UNFINISHED * len(at_longest))
        if is_pile and (len(at_longest) <= ONE_FORM * len(rows) or len(rows[cut[0]].answer) >= LONG):
            where = f"{len(cut):,} of {len(rows):,} answers end in the middle of a sentence at {longest:,} {unit}"
            return _cut_finding(rows[cut[0]], where)
    by_length = sorted(range(len(rows)), key=lambda i: (-len(rows[i].answer), i))
    top, others = by_length[: round(LONGEST * len(rows))], by_length[len(rows) // 2 :]
    cut = [i for i in top if unfinished[i]]
    share_of_others = sum(unfinished[i] for i in others) / max(1, len(others))
    if len(cut) >= max(LEAST_CUT, LONGEST_UNFINISHED * len(top)) and share_of_others < OTHERS_UNFINISHED:
        where = f"{len(cut):,} of the {len(top):,} longest answers end in the middle of a sentence"
        return _cut_finding(rows[cut[0]], f"{where}, and {share_of_others:.0%} of the shorter half")
    return None


def _may_be_sentence(answer: str) -> bool:
    return len(answer.split()) >= SENTENCE_WORDS or len(WITHOUT_BLANKS.findall(answer[:1000])) >= _SENTENCE_CHARACTERS


def _cut_finding(example: Example, where: str) -> Finding:
    fix = (
        "raise the limit of the tool that wrote them and make them again, or drop them: the model learns to stop there"
    )
    return Finding("quality.answers_cut", "warning", example.place, f"{where}: were they cut off?", fix)


def _mixed_ends(rows: Sequence[Example]) -> Finding | None:
    """Report sentences of which some end with a full stop and some do not."""
    ends: Counter[bool] = Counter()
    without: list[Example] = []
    for e in rows:
        answer = e.answer.rstrip()
        last_line = answer.rpartition("\n")[2]
        if len(last_line.split()) >= SENTENCE_WORDS and _SENTENCE.match(last_line):
            has_end = bool(_END.search(answer))
            if has_end or answer[-1].isalpha():
                ends[has_end] += 1
                if not has_end:
                    without.append(e)
    total = ends.total()
    if total < LEAST_SENTENCES or min(ends[True], ends[False]) < MIXED * total:
        return None
    message = f"{ends[False]:,} of {total:,} answers of a sentence end without a full stop, the others with one"
    fix = "write all answers in one style: otherwise the model's answers end either way, by chance"
    return Finding("quality.mixed_ends", "warning", without[0].place, message, fix)
