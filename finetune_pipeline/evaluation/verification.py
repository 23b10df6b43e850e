"""Checks that a served model is the evaluated one: same prompt, same answers, correct end of turn.

All rows are sent at temperature 0. Some are sent again unchanged, without `temperature` (as a careless client does), and
without the system prompt. Prompts are compared by the number of tokens the server reports. Where automation.max_error promises
an error, probabilities of answers are compared, too: those of another engine need another threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import bdtrc, betaincinv

from finetune_pipeline.data.examples import Message
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.models.inference.generated import Answer

Answers = Sequence[Answer]
LEVEL = 0.05
"""Significance level of every one-sided bound and test here."""
ROWS, PROBES = 200, 32
"""Number of rows to send, and of those to send again in other ways."""
PROBABILITY_LIMIT = 0.05
"""Largest mean difference of a row's probability between two servers of one model; of classes, half the sum of the differences."""
CHANGES = 0.02
"""Share of answers that may change on a second request to a greedy server: near ties, computed in other batches."""


@dataclass(frozen=True)
class JudgedRow:
    """The turns of a prompt, the judged model's answer (with the tokens of its own template, none if it reads none), and the
    reference answer."""

    messages: Sequence[Message]
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
    """The outcome. cause: the most likely reason if the server does not serve the judged model; notes: advice for clients."""

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
    """The share of equal answers to require of a server.

    min_agreement: gates.parity_min_agreement; rounding may change the rest of the answers. same_greedy_share: share of equal
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
    promised: bool = False,
) -> Verification:
    """Send the rows to an endpoint, and decide whether it serves the judged model.

    Args:
        control_tokens: Texts that an answer must not contain unless the judged one does.
        required: Minimum lower bound of the share of equal answers (:func:`required_share`). A failed row is not equal.
        changes: Share of answers that may change on a second request.
        promised: Also compare the probabilities of answers, which decide what is passed on. Judged answers without any, such as
            those of a simple model or of a label that is chosen, are left out.

    Raises:
        EndpointError: The endpoint answers nothing.
    """
    prompts = [row.messages for row in rows]
    served = ask(endpoint, prompts, max_new_tokens, name=endpoint.name).answers
    probes, first_answers = prompts[:PROBES], served[:PROBES]
    repeated_answers = _probe(endpoint, probes, max_new_tokens)
    unset_temperature = _probe(replace(endpoint, body={**endpoint.body, "temperature": None}), probes, max_new_tokens)
    without_system = _probe(endpoint, [m[1:] if m[0]["role"] == "system" else m for m in probes], max_new_tokens)
    has_system = any(m[0]["role"] == "system" for m in probes)

    failed = [a for a in served if a.status == "error"]
    same_count = sum(_same(row.answer, a) for row, a in zip(rows, served, strict=True))
    system_ignored = has_system and _reported(without_system) and _same_tokens(first_answers, without_system)
    prompt, prompt_cause = _prompt(rows, served, system_ignored)
    stop = _stop(rows, served, control_tokens, changes)
    changed, compared = _changed(first_answers, repeated_answers)
    steady = compared > 0 and _is_plausible(changed, compared, changes)
    repeated = f"{changed} of {compared} answers changed on a second request at temperature 0"
    bound = at_least(same_count, len(rows))
    counts = f"{same_count} of {len(rows)} answers are the judged ones"
    message = f"{counts}: a share of at least {bound:.3f}; {required:.3f} is required."
    equal = Question("answers", bound >= required, message)

    reads_tokens = any(row.answer.prompt_tokens for row in rows)  # not a simple model
    questions = [*([prompt] if reads_tokens else []), stop, Question("greedy", steady, repeated + "."), equal]
    if promised and any(row.answer.log_probabilities for row in rows):
        scored = _probe(replace(endpoint, body={**endpoint.body, "logprobs": True}), probes, max_new_tokens)
        questions.append(_probabilities([row.answer for row in rows[:PROBES]], scored))
    notes = [_system_note(rows, first_answers, without_system)] if has_system and reads_tokens else []
    differing, compared = _changed(first_answers, unset_temperature)
    if steady and not _is_plausible(differing, compared, changes):
        notes.append(
            f"Without temperature 0 in the request it samples ({differing} of {compared} answers changed): clients must send "
            "it, or the server needs it as its default."
        )
    cause = f"{len(failed)} of {len(rows)} rows could not be asked: {failed[0].error}" if failed else None
    if not equal.passed and not failed and len(rows) < (fewest_rows := rows_needed(required)):
        cause = f"{len(rows)} rows are too few: {fewest_rows} equal answers are the least that shows a share of {required:.2f}"
    elif not equal.passed and not failed:
        cause = "another model, or other weights: prompt and end of turn are right, the answers are not"
    if not stop.passed:
        cause = "the stop token is missing: answers do not end with the turn"
    if changed and not (steady and equal.passed):
        cause = f"sampling is on: {repeated}"
    if reads_tokens and not prompt.passed and not (failed and not _reported(served)):
        cause = prompt_cause
    failing = [question.name for question in questions if not question.passed]
    if failing == ["probabilities"]:
        cause = (
            "answers are the judged ones, and their probabilities are not: the certified threshold does not hold there "
            "(weights in another precision; or the server reports them after sampling settings, or under a schema before its mask)"
        )
    if not failing:
        cause = None
    return Verification(endpoint.name, len(rows), len(failed), same_count, bound, required, questions, notes, cause)


def _probabilities(judged: Answers, served: Answers) -> Question:
    """Whether equal answers have equal probabilities. That of the end of the turn, which few servers report, is left out."""
    pairs = [
        (
            math.exp(math.fsum(a.log_probabilities[: -1 if a.status == "ok" else None])),
            math.exp(math.fsum(b.log_probabilities)),
        )
        for a, b in zip(judged, served, strict=True)
        if a.status == b.status in ("ok", "truncated") and _same(a, b) and a.log_probabilities and b.log_probabilities
    ]
    if not pairs:
        return Question(
            "probabilities", False, "No answer has log-probabilities to compare (`logprobs` of the request)."
        )
    gaps = [abs(a - b) for a, b in pairs]
    mean = sum(gaps) / len(gaps)
    message = (
        f"probabilities of {len(gaps)} answers differ by {mean:.4f} on average, at most {max(gaps):.4f}; "
        f"{PROBABILITY_LIMIT} is allowed on average."
    )
    return Question("probabilities", mean <= PROBABILITY_LIMIT, message)


def rows_needed(required: float) -> int:
    """The fewest rows that can show a share, if all their answers are equal."""
    return 1 if required <= LEVEL else math.ceil(math.log(LEVEL) / math.log(min(required, 1 - 1e-6)))


def _probe(endpoint: Endpoint, prompts: Sequence[Sequence[Message]], longest: int) -> list[Answer]:
    """Answers to the prompts, all failed if the endpoint refuses every request."""
    try:
        return ask(endpoint, prompts, longest, name=endpoint.name).answers
    except EndpointError as error:
        return [Answer(status="error", error=str(error)) for _ in prompts]


def _same(judged: Answer, served: Answer) -> bool:
    return served.status != "error" and served.text.strip() == judged.text.strip()


def _changed(first: Answers, second: Answers) -> tuple[int, int]:
    """How many answers differ the second time, and how many succeeded both times."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if "error" not in (a.status, b.status)]
    return sum(not _same(a, b) for a, b in pairs), len(pairs)


def _is_plausible(hits: int, n: int, share: float) -> bool:
    """Whether so many hits of n are plausible if each has probability `share` (exact binomial test)."""
    return hits == 0 or float(bdtrc(hits - 1, n, share)) >= LEVEL


def _reported(answers: Answers) -> bool:
    return any(a.prompt_tokens for a in answers)


def _prompt(rows: Sequence[JudgedRow], served: Answers, system_ignored: bool) -> tuple[Question, str]:
    """Whether prompts have the tokens they were judged with, and the likely cause if not."""
    counts = [(row.answer.prompt_tokens, a.prompt_tokens) for row, a in zip(rows, served, strict=True)]
    counts = [(judged, reported) for judged, reported in counts if reported]
    if not counts:
        cause = "the server reports no usage.prompt_tokens, so template and system prompt cannot be compared"
        return Question("prompt", False, f"{cause.capitalize()}."), cause
    mismatches = [(judged, reported) for judged, reported in counts if judged != reported]
    if not mismatches:
        return Question("prompt", True, f"{len(counts)} prompts have the tokens they were judged with."), ""
    sizes = f"{mismatches[0][1]} tokens where {mismatches[0][0]} were judged"
    message = f"{len(mismatches)} of {len(counts)} prompts have other tokens, the first {sizes}."
    cause = "the chat template is lost, or the tokenizer is another model's"
    if system_ignored:
        cause = "the system prompt is missing: the server drops or replaces the one it is sent"
    return Question("prompt", False, message), f"{cause} ({sizes})"


def _stop(rows: Sequence[JudgedRow], served: Answers, control_tokens: Sequence[str], changes: float) -> Question:
    """Whether answers end with the turn: none holds a control token or continues beyond the judged answer."""
    pairs = [(row.answer, a) for row, a in zip(rows, served, strict=True) if a.status != "error"]
    leaked = sum(any(t in a.text and t not in judged.text for t in control_tokens) for judged, a in pairs)
    ended = [(judged, a) for judged, a in pairs if judged.status in ("ok", "empty")]
    overrun = sum(a.status == "truncated" or _continues(judged.text, a.text) for judged, a in ended)
    passed = not leaked and _is_plausible(overrun, len(ended), changes)
    message = f"{overrun} of {len(ended)} answers go on where the judged ones had ended"
    return Question("stop", passed, f"{message}; {leaked} hold control tokens.")


def _continues(judged: str, served: str) -> bool:
    judged, served = judged.strip(), served.strip()
    return bool(judged) and served != judged and served.startswith(judged)


def _same_tokens(first: Answers, second: Answers) -> bool:
    """Whether the prompts of two rounds had the same tokens, where both were answered."""
    return all(a.prompt_tokens == b.prompt_tokens for a, b in zip(first, second, strict=False) if b.status != "error")


def _system_note(rows: Sequence[JudgedRow], first: Answers, without_system: Answers) -> str:
    changed, compared = _changed(first, without_system)
    if not compared:
        error = next(answer.error for answer in (*without_system, *first) if answer.status == "error")
        return f"Without the system prompt it answers nothing: {error}."
    if changed:
        return f"Clients must send the system prompt: without it {changed} of {compared} answers change."
    if _same_tokens([row.answer for row in rows], without_system):
        return "It adds the system prompt itself if a client omits it."
    return f"Without the system prompt none of {compared} answers changed."
