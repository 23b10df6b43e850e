"""Checks that a server's ``/classify`` gives the probabilities of the evaluated classifier: same prompt, same classes."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, client_of, failure_of
from finetune_pipeline.evaluation.verification import (
    PROBABILITY_LIMIT,
    JudgedRow,
    Question,
    Verification,
    at_least,
    rows_needed,
)


@dataclass(frozen=True)
class Reply:
    """A server's answer to one row. label: that of the server; tokens: of the prompt; error: why there is no answer."""

    probabilities: Sequence[float] = ()
    label: str = ""
    tokens: int = 0
    error: str = ""


def verify_classes(
    endpoint: Endpoint, rows: Sequence[JudgedRow], classes: Sequence[str], *, required: float
) -> Verification:
    """Send the rows to an endpoint's ``/classify``, and decide whether it serves the judged classifier.

    rows: their answers have the log-probability of each of the `classes`. required: minimum lower bound of the share of equal
    labels. Raises EndpointError if the endpoint answers nothing.
    """
    replies = asyncio.run(_ask(endpoint, rows))
    failed = [reply for reply in replies if reply.error]
    if len(failed) == len(replies):
        raise EndpointError(f"{endpoint.name} classifies nothing: {failed[0].error}")
    pairs = [(row.answer, reply) for row, reply in zip(rows, replies, strict=True) if not reply.error]
    lengths = [(row.prompt_tokens, reply.tokens) for row, reply in pairs if reply.tokens != row.prompt_tokens]
    sizes = f": {lengths[0][1]} tokens where {lengths[0][0]} were judged" if lengths else ""
    prompt = Question("prompt", not lengths, f"{len(lengths)} of {len(pairs)} prompts have other tokens{sizes}.")
    foreign = sorted({reply.label for _, reply in pairs} - {*classes})
    fitting = all(len(reply.probabilities) == len(classes) for _, reply in pairs) and not foreign
    names = f"; it answers {', '.join(map(repr, foreign[:3]))}" if foreign else ""
    named = Question(
        "classes", fitting, f"{len(pairs[0][1].probabilities)} classes where there are {len(classes)}{names}."
    )
    same = sum(row.text == reply.label for row, reply in pairs)
    bound = at_least(same, len(rows))
    counts = f"{same} of {len(rows)} labels are the judged ones"
    equal = Question(
        "answers", bound >= required, f"{counts}: a share of at least {bound:.3f}; {required:.3f} is required."
    )
    gap = (
        max((_difference(row.label_scores, reply.probabilities) for row, reply in pairs), default=1.0)
        if fitting
        else 1.0
    )
    mean = (
        sum(_difference(row.label_scores, reply.probabilities) for row, reply in pairs) / len(pairs) if fitting else 1.0
    )
    close = Question(
        "shares",
        mean <= PROBABILITY_LIMIT,
        f"probabilities differ by {mean:.4f} on average, at most {gap:.4f}; {PROBABILITY_LIMIT} is allowed.",
    )
    failure = f"{len(failed)} of {len(rows)} rows could not be asked: {failed[0].error}" if failed else ""
    too_few = not equal.passed and len(rows) < rows_needed(required)
    causes = [
        (
            bool(lengths),
            f"the chat template is lost, or the prompt's beginning of the answer (add_generation_prompt){sizes}",
        ),
        (not fitting, f"other labels{names}: it serves another model, or its config.json lost id2label"),
        (bool(failed), failure),
        (too_few, f"{len(rows)} rows are too few to show that share; {rows_needed(required)} are needed"),
        (True, "another model, or other weights or precision: prompt and classes are right"),
    ]
    questions = [prompt, named, equal, close]
    passed = all(question.passed for question in questions)
    cause = None if passed else next(cause for applies, cause in causes if applies)
    return Verification(endpoint.name, len(rows), len(failed), same, bound, required, questions, [], cause)


def _difference(log_shares: Sequence[float], probabilities: Sequence[float]) -> float:
    """Return the total variation distance of two distributions."""
    return sum(abs(math.exp(a) - b) for a, b in zip(log_shares, probabilities, strict=True)) / 2


async def _ask(endpoint: Endpoint, rows: Sequence[JudgedRow]) -> list[Reply]:
    """Ask all rows, some at once."""
    url = f"{endpoint.url.rstrip('/').removesuffix('/v1')}/classify"
    slots = asyncio.Semaphore(endpoint.concurrency)
    async with client_of(endpoint, retries=endpoint.tries - 1) as client:

        async def ask(row: JudgedRow) -> Reply:
            body = {
                "model": endpoint.model,
                "messages": list(row.messages),
                "add_generation_prompt": True,
                **endpoint.body,
            }
            async with slots:
                try:
                    return _reply(await client.post(url, cast_to=object, body=body))
                except Exception as error:  # noqa: BLE001 - any failure is reported
                    return Reply(error=str(failure_of(error, endpoint)))

        return await asyncio.gather(*(ask(row) for row in rows))


def _reply(response: Any) -> Reply:
    """Return the answer in a response. Raises ValueError if it has another form."""
    try:
        (data,), usage = response["data"], response.get("usage")
        probabilities, label = [float(share) for share in data["probs"]], data["label"]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"a reply without data[0].label and probs ({type(error).__name__})") from None
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    return Reply(probabilities, str(label), tokens if isinstance(tokens, int) else 0)
