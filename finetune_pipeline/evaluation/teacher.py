"""Answers of a teacher: asked within a budget, compared with each other, and kept where enough of them are the same.

Several answers to one row cost more than one, and say how far to believe it: a row on which the teacher disagrees with itself is
where it errs most often (self-consistency, Wang et al. 2023).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from finetune_pipeline.data.answer_equality import answer_key
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.call_ledger import CallLedger, TokenPrice
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.openai_endpoint import EndpointAnswers, ask, unknown_calls
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput
from finetune_pipeline.spec.teacher import TeacherSpec

BYTES_PER_TOKEN = 3
"""Bytes of text per token in an estimate: fewer than in most languages, so that the estimate is rather too high."""
FORM, DISAGREES = "form", "agreement"
"""Reasons to leave a row out: its answer is not in the declared form; too few of its answers are the same."""
TRIAL = 20
"""First answers that are looked at before the others are bought: a teacher with none of them in form is not asked on."""


class Agreed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The teacher's answers to one row.

    Attributes:
        id: Of the row.
        answers: Those that came; of one that was cut off or empty, an empty text.
        answer: The most frequent one; the first of equally frequent ones.
        agreement: The share of the answers asked for that are the same as it.
        reason: Why the row is left out; empty if it is kept.
    """

    id: str
    answers: list[str]
    answer: str = ""
    agreement: float = 0.0
    reason: str = ""


class Bought(Facts, frozen=True, kw_only=True):
    """What was asked and paid. calls: answers asked for, those of earlier runs included. spent_usd: of all calls so far.
    form_refused: how the endpoint refused, in this run, to decode under the schema; empty if it did not."""

    calls: int = 0
    spent_usd: float = 0.0
    form_refused: str = ""


def agreed(row_id: str, answers: Sequence[Answer], output: AnyOutput, min_agreement: float) -> Agreed:
    """Decide what the teacher answers to a row, and whether it is kept. A call that failed agrees with no answer; where too few
    agree since calls failed, the kind of the first failure is the reason."""
    came = [answer for answer in answers if answer.status != "error"]
    if not came:
        return Agreed(row_id, [], reason=answers[0].error.partition(":")[0])
    texts = [answer.text.strip() if answer.status == "ok" else "" for answer in came]
    result = agreed_texts(row_id, texts, output, min_agreement, len(answers))
    if result.reason == DISAGREES and (failed := [answer for answer in answers if answer.status == "error"]):
        result = msgspec.structs.replace(result, reason=failed[0].error.partition(":")[0])
    return result


def agreed_texts(
    row_id: str, texts: Sequence[str], output: AnyOutput, min_agreement: float, asked: int | None = None
) -> Agreed:
    """Decide what a teacher that gave these answers answers to a row, and whether it is kept. asked: answers asked for, if more."""
    counts = Counter(answer_key(text, output) for text in texts)
    key, votes = max(counts.items(), key=lambda item: item[1])  # the first of equals
    answer = next(text for text in texts if answer_key(text, output) == key)
    agreement = votes / (asked or len(texts))
    reason = ""
    if not in_form(answer, output):
        reason = FORM
    elif agreement < min_agreement - 1e-9:
        reason = DISAGREES
    return Agreed(row_id, [*texts], answer, round(agreement, 4), reason)


def in_form(answer: str, output: AnyOutput) -> bool:
    """Whether an answer is not empty and in the declared form."""
    return bool(answer) and not form_problems(answer, output)


def prompt_of(spec: TaskSpec, teacher: TeacherSpec, example: Example) -> list[Message]:
    """Return the conversation that the teacher gets for a row, which may end with its answer."""
    turns = [m for m in example.messages if m["role"] != "system"]
    if turns[-1]["role"] == "assistant":
        turns.pop()
    return [{"role": "system", "content": teacher.prompt or spec.system_prompt}, *turns]


def ask_teacher(
    spec: TaskSpec,
    teacher: TeacherSpec,
    examples: Sequence[Example],
    ledger: CallLedger,
    stage: str,
    may_buy: bool = True,
    beaten_by: Sequence[str] = (),
    training: bool = False,
) -> tuple[list[list[Answer]], Bought]:
    """Ask for every answer that the ledger does not have. Returns the answers to each row, and what they cost.

    Args:
        may_buy: False: every answer must be in the ledger.
        beaten_by: Simple models that are surely better than the teacher: then nothing more is bought.
        training: The answers are training rows: nothing is made of them before every call was taken, and no more are bought of a
            teacher whose first answers are never in form.

    Raises:
        FindingsError: Answers are missing, and may not be bought.
        JobError: The teacher is worse than a simple model, the endpoint cannot be used as configured or answers nothing, or the
            estimate exceeds what is left of the budget: then nothing was sent. With `training`, calls were not taken, or the first
            answers are not in form.
    """
    assert teacher.endpoint is not None
    try:
        endpoint = Endpoint.of(teacher.endpoint, teacher.endpoint.model)
    except ValueError as error:
        fix = "correct the address, or set the key where the pipeline runs"
        raise JobError(f"teacher.endpoint: {error}\nfix: {fix}") from error
    draws = [draw for _ in examples for draw in range(teacher.answers)]
    prompts = [prompt for example in examples for prompt in [prompt_of(spec, teacher, example)] * teacher.answers]
    tools = [example.tools for example in examples for _ in range(teacher.answers)]
    unknown = unknown_calls(endpoint, prompts, tools, draws, spec.answer_length, ledger)
    if unknown and beaten_by:
        raise JobError(
            f"teacher: on people's sealed rows {' and '.join(beaten_by)} is surely better than the teacher, so no more of its "
            f"answers are bought ({len(unknown):,} calls)\nfix: describe every label in teacher.prompt, or take another "
            "teacher; a changed prompt is judged anew"
        )
    schema = spec.output.json_schema if isinstance(spec.output, JsonOutput) else None
    if not isinstance(schema, dict) or "response_format" in endpoint.body:  # null there: none is sent
        schema = None
    unknown = [{"response_format": schema, **body} for body in unknown] if schema else unknown
    refuse_above_budget(unknown, spec.answer_length, ledger)
    if unknown and not may_buy:
        estimate = estimate_usd(unknown, spec.answer_length, ledger.price)
        message = f"{len(unknown):,} answers of the teacher are not bought yet, for about ${estimate:.2f}"
        fix = f"`finetune run {spec.name} --stage data` buys them, within teacher.budget_usd ${ledger.budget_usd:g}"
        raise FindingsError([Finding("teacher.not_bought", "error", "task.yaml: teacher", message, fix)])
    size, form_refused = teacher.answers, ""
    try:
        if training and len(examples) >= TRIAL:
            first = slice(0, TRIAL * size, size)
            trial = ask(
                endpoint, prompts[first], spec.answer_length, tools=tools[first], ledger=ledger, draws=draws[first],
                schema=schema, stage=stage, name=endpoint.name,
            )  # fmt: skip
            _refuse_without_form(trial.answers, spec.output)
            if form_refused := trial.form_refused:
                schema = None
        result = ask(
            endpoint, prompts, spec.answer_length, tools=tools, ledger=ledger, draws=draws, schema=schema, stage=stage,
            name=endpoint.name,
        )  # fmt: skip
    except EndpointError as error:
        missing = len(unknown_calls(endpoint, prompts, tools, draws, spec.answer_length, ledger))
        raise JobError(
            f"teacher.endpoint: {error}; {ledger.answers:,} answers are kept, and ${ledger.spent_usd:.2f} spent so far; once it "
            f"answers again, `finetune run {spec.name}` buys the other {missing:,} only"
        ) from error
    if training and (result.not_taken or result.over_budget):
        raise JobError(_unfinished(spec, result, ledger))
    answers = [result.answers[i : i + size] for i in range(0, len(prompts), size)]
    return answers, Bought(
        calls=len(prompts), spent_usd=round(ledger.spent_usd, 6), form_refused=form_refused or result.form_refused
    )


def _refuse_without_form(answers: Sequence[Answer], output: AnyOutput) -> None:
    """Raise JobError if all of these answers came, and none is in the declared form."""
    if any(answer.status == "error" or in_form(answer.text.strip(), output) for answer in answers):
        return
    text = answers[0].text.strip()
    shown = repr(text[:100]) if text else "nothing"
    raise JobError(
        f"teacher: none of its first {len(answers)} answers is in the declared form, so no more are bought; the first is "
        f"{shown}\nfix: say in teacher.prompt how to answer, with nothing before or after it and no fences, or allow more tokens"
    )


def _unfinished(spec: TaskSpec, result: EndpointAnswers, ledger: CallLedger) -> str:
    """Say which calls have no answer yet, and what to do."""
    kept = f"{ledger.answers:,} answers are kept, and ${ledger.spent_usd:.2f} spent so far"
    if result.over_budget:
        return (
            f"teacher: {result.over_budget:,} calls were not sent, since they might exceed what is left of teacher.budget_usd; "
            f"{kept}\nfix: raise teacher.budget_usd, or lower teacher.rows or teacher.answers; what is kept is not bought again"
        )
    return (
        f"teacher: {result.not_taken:,} calls were not taken by the endpoint (busy, or no connection); {kept}"
        f"\nfix: `finetune run {spec.name}` asks for these only; lower teacher.endpoint.concurrency if that repeats"
    )


def refuse_above_budget(bodies: Sequence[Mapping[str, object]], new_tokens: int, ledger: CallLedger) -> None:
    """Raise JobError if these calls are estimated to cost more than what is left of the budget."""
    estimate = estimate_usd(bodies, new_tokens, ledger.price)
    left = ledger.budget_usd - ledger.spent_usd
    if estimate <= left:
        return
    fitting = int(len(bodies) * left / estimate) if left > 0 else 0
    raise JobError(
        f"teacher: {len(bodies):,} calls would cost about ${estimate:.2f}, and ${max(left, 0):.2f} are left of teacher.budget_usd "
        f"${ledger.budget_usd:.2f}: nothing was sent\nfix: raise teacher.budget_usd, or lower teacher.rows or teacher.answers; "
        f"about {fitting:,} calls fit"
    )


def estimate_usd(bodies: Sequence[Mapping[str, Any]], new_tokens: int, price: TokenPrice) -> float:
    """Estimate the cost of calls: a token for every three bytes of their texts and schemas, and answers of full length."""
    texts = sum(len(m["content"].encode("utf-8", "replace")) for body in bodies for m in body["messages"])
    if bodies and "response_format" in bodies[0]:
        texts += len(bodies) * len(msgspec.json.encode(bodies[0]["response_format"]))
    return price.of(texts / BYTES_PER_TOKEN, new_tokens * len(bodies))
