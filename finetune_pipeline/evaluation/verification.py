"""Checks that a served model is the evaluated one: same prompt, same answers, correct end of turn.

The rows are asked at temperature 0. Some are asked again as they are, without `temperature` (as a careless client asks), and
without the system prompt. Prompts are compared by the number of tokens the server reports for them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import bdtrc, betaincinv

from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.models.inference.generated import Answer

Answers = Sequence[Answer]
LEVEL = 0.05
"""Of every one-sided bound and test here."""
ROWS, PROBES = 200, 32
"""Rows that are asked, and how many of them are asked again in other ways."""
CHANGES = 0.02
"""Share of answers that may change when a greedy server is asked again: near ties, computed in other batches."""


@dataclass(frozen=True)
class JudgedRow:
    """The turns of a prompt, what the judged model makes of it (with the tokens of its own template), and the right answer."""

    messages: Sequence[Mapping[str, Any]]
    answer: Answer
    gold: str = ""


@dataclass(frozen=True)
class Question:
    """One question about the server, and its answer in a sentence."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Verification:
    """What the server showed. cause: the most likely one where it is not the judged model; notes: for whoever asks it."""

    endpoint: str
    rows: int
    failed: int
    same: int
    at_least: float
    required: float
    questions: list[Question]
    notes: list[str]
    cause: str | None

    @property
    def passed(self) -> bool:
        return all(question.passed for question in self.questions)


def at_least(k: int, n: int) -> float:
    """Lower bound of a share, k of n, one-sided at :data:`LEVEL` (Clopper and Pearson 1934)."""
    return float(betaincinv(k, n - k + 1, LEVEL)) if k else 0.0


def required_share(min_agreement: float, same_greedy_share: float) -> float:
    """The share of equal answers to ask of a server.

    min_agreement: gates.parity_min_agreement; one minus it is what rounding may change. same_greedy_share: share of equal
    answers of the trained and the merged model.
    """
    return max(0.0, min(min_agreement, same_greedy_share - (1 - min_agreement)))


def verify(
    endpoint: Endpoint,
    rows: Sequence[JudgedRow],
    max_new_tokens: int,
    *,
    control_tokens: Sequence[str] = (),
    required: float,
    changes: float = CHANGES,
) -> Verification:
    """Ask an endpoint the rows, and say whether it is the model that was judged.

    Args:
        control_tokens: Pieces of text that no answer holds, unless the judged one does.
        required: The share of equal answers whose lower bound must be reached (:func:`required_share`). A row that could
            not be asked is not equal.
        changes: Share of answers that may change when asked again.

    Raises:
        EndpointError: Nothing can be asked there.
    """
    asked = [row.messages for row in rows]
    served = ask(endpoint, asked, max_new_tokens, name=endpoint.name).answers
    probes, first = asked[:PROBES], served[:PROBES]
    again = _probe(endpoint, probes, max_new_tokens)
    bare = _probe(replace(endpoint, body={**endpoint.body, "temperature": None}), probes, max_new_tokens)
    without = _probe(endpoint, [m[1:] if m[0]["role"] == "system" else m for m in probes], max_new_tokens)
    has_system = any(m[0]["role"] == "system" for m in probes)

    failed = [a for a in served if a.status == "error"]
    same = sum(_same(row.answer, a) for row, a in zip(rows, served, strict=True))
    unread = has_system and _reported(first) and [a.prompt_tokens for a in without] == [a.prompt_tokens for a in first]
    prompt, prompt_cause = _prompt(rows, served, unread)
    stop = _stop(rows, served, control_tokens, changes)
    changed, both = _changed(first, again)
    steady = both > 0 and _is_expected(changed, both, changes)
    repeated = f"{changed} of {both} answers changed on a second request at temperature 0"
    bound = at_least(same, len(rows))
    words = f"{same} of {len(rows)} answers are the judged ones: a share of at least {bound:.3f}; {required:.3f} is required."
    equal = Question("answers", bound >= required, words)

    questions = [prompt, stop, Question("greedy", steady, repeated + "."), equal]
    notes = _notes(rows, first, without, unread) if has_system else []
    differing, both = _changed(first, bare)
    if steady and not _is_expected(differing, both, changes):
        notes.append(
            f"Without temperature 0 in the request it samples ({differing} of {both} answers changed): clients must send "
            "it, or the server needs it as its default."
        )
    cause = f"{len(failed)} of {len(rows)} rows could not be asked: {failed[0].error}" if failed else None
    if not equal.passed and len(rows) < (few := rows_needed(required)):
        cause = f"{len(rows)} rows are too few: {few} equal answers are the least that shows a share of {required:.2f}"
    elif not equal.passed and not failed:
        cause = "another model, or other weights: prompt and end of turn are right, the answers are not"
    if not stop.passed:
        cause = "the stop token is missing: answers do not end with the turn"
    if changed and not (steady and equal.passed):
        cause = f"sampling is on: {repeated}"
    if not prompt.passed and not (failed and not _reported(served)):
        cause = prompt_cause
    if all(question.passed for question in questions):
        cause = None
    return Verification(endpoint.name, len(rows), len(failed), same, bound, required, questions, notes, cause)


def rows_needed(required: float) -> int:
    """The fewest rows that can show a share: that many equal answers of as many."""
    return 1 if required <= LEVEL else math.ceil(math.log(LEVEL) / math.log(min(required, 1 - 1e-6)))


def _probe(endpoint: Endpoint, prompts: Sequence[Sequence[Mapping[str, Any]]], longest: int) -> list[Answer]:
    """Answers; where the server refuses all of them, as many failed ones."""
    try:
        return ask(endpoint, prompts, longest, name=endpoint.name).answers
    except EndpointError as error:
        return [Answer(status="error", error=str(error)) for _ in prompts]


def _same(judged: Answer, served: Answer) -> bool:
    return served.status != "error" and served.text.strip() == judged.text.strip()


def _changed(first: Answers, second: Answers) -> tuple[int, int]:
    """How many answers are others the second time, of how many that were given both times."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if "error" not in (a.status, b.status)]
    return sum(not _same(a, b) for a, b in pairs), len(pairs)


def _is_expected(hits: int, n: int, share: float) -> bool:
    """Whether so many hits of n are no surprise where each has the chance `share` (exact binomial test)."""
    return hits == 0 or float(bdtrc(hits - 1, n, share)) >= LEVEL


def _reported(answers: Answers) -> bool:
    return any(a.prompt_tokens for a in answers)


def _prompt(rows: Sequence[JudgedRow], served: Answers, unread: bool) -> tuple[Question, str]:
    """Whether prompts have the tokens they were judged with, and what it is if not."""
    counts = [(row.answer.prompt_tokens, a.prompt_tokens) for row, a in zip(rows, served, strict=True)]
    counts = [(judged, there) for judged, there in counts if there]
    if not counts:
        words = "the server reports no usage.prompt_tokens, so template and system prompt cannot be compared"
        return Question("prompt", False, f"T{words[1:]}."), words
    off = [(judged, there) for judged, there in counts if judged != there]
    if not off:
        return Question("prompt", True, f"{len(counts)} prompts have the tokens they were judged with."), ""
    sizes = f"{off[0][1]} tokens where {off[0][0]} were judged"
    message = f"{len(off)} of {len(counts)} prompts have other tokens, the first {sizes}."
    cause = "the chat template is lost, or the tokenizer is another model's"
    if unread:
        cause = "the system prompt is missing: the server drops or replaces the one it is sent"
    return Question("prompt", False, message), f"{cause} ({sizes})"


def _stop(rows: Sequence[JudgedRow], served: Answers, control_tokens: Sequence[str], changes: float) -> Question:
    """Whether answers end with the turn: no control token in them, and none goes on where the judged one had ended."""
    pairs = [(row.answer, a) for row, a in zip(rows, served, strict=True) if a.status != "error"]
    leaked = sum(any(t in a.text and t not in judged.text for t in control_tokens) for judged, a in pairs)
    ended = [(judged, a) for judged, a in pairs if judged.status in ("ok", "empty")]
    overrun = sum(a.status == "truncated" or _goes_on(judged.text, a.text) for judged, a in ended)
    passed = not leaked and _is_expected(overrun, len(ended), changes)
    words = f"{overrun} of {len(ended)} answers go on where the judged ones had ended"
    return Question("stop", passed, f"{words}; {leaked} hold control tokens.")


def _goes_on(judged: str, served: str) -> bool:
    judged, served = judged.strip(), served.strip()
    return bool(judged) and served != judged and served.startswith(judged)


def _notes(rows: Sequence[JudgedRow], first: Answers, without: Answers, unread: bool) -> list[str]:
    if all(a.status == "error" for a in without):
        return ["It refuses requests without the system prompt."]
    if unread and all(row.answer.prompt_tokens == a.prompt_tokens for row, a in zip(rows, first, strict=False)):
        return ["It adds the system prompt itself if a client omits it."]
    changed, both = _changed(first, without)
    return [f"Clients must send the system prompt: without it {changed} of {both} answers change."]
