"""Another model that answers what the champion is not sure of: an OpenAI-style endpoint with the task's best prompt.

It is asked once, within a time limit and a monthly budget. Whatever goes wrong is no error of the server, which then answers as
declared.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.documents import PASSAGES, read_passages
from finetune_pipeline.data.examples import Example, Message, examples_of, read_examples
from finetune_pipeline.engine.files import hold, read_json, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.evaluation.prompts import Retriever, conversations, read_prompts
from finetune_pipeline.evaluation.rivals import Baseline, best_api_prompt
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.planning.prices import ApiPrice, PriceList, newest_price
from finetune_pipeline.planning.serving_costs import Call, call_price
from finetune_pipeline.spec.model import Task
from finetune_pipeline.spec.outputs import AnyOutput

LEDGER = "fallback.json"


class Month(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars spent on a task's fallback, and the number of paid requests, in a month (UTC) such as 2026-12."""

    month: str
    dollars: float = 0.0
    requests: int = 0


class Spending:
    """The ledger of a task's fallback, a file that processes share.

    A request's largest cost is written down before it is sent, and replaced by its true cost after it: a process that dies between
    has spent it.

    Args:
        path: The ledger's file.
        limit: Dollars a month.
    """

    def __init__(self, path: Path, limit: float) -> None:
        self.path, self.limit = path, limit

    def month(self) -> Month:
        """Return what this month has cost so far."""
        now = datetime.now(UTC).strftime("%Y-%m")
        kept = msgspec.convert(read_json(self.path, Month), Month) if self.path.exists() else Month(month=now)
        return kept if kept.month == now else Month(month=now)

    def reserve(self, most: float) -> bool:
        """Write down the largest cost of a request. Returns False, and writes nothing, if that would exceed the limit."""
        with self._held():
            month = self.month()
            if month.dollars + most > self.limit:
                return False
            self._write(Month(month=month.month, dollars=month.dollars + most, requests=month.requests + 1))
            return True

    def settle(self, reserved: float, cost: float) -> None:
        """Replace the reserved cost of a request by its true one."""
        with self._held():
            month = self.month()
            self._write(msgspec.structs.replace(month, dollars=max(0.0, month.dollars - reserved) + cost))

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with hold(self.path.with_suffix(".lock")):
            yield

    def _write(self, month: Month) -> None:
        write_json(self.path, msgspec.to_builtins(month))


@dataclass(frozen=True)
class SecondAnswer:
    """What the fallback answered.

    Attributes:
        text: None if it gave no answer in the declared form in time and within the budget; `problem` then says why.
        dollars: By the price list; 0 from the cache.
    """

    text: str | None = None
    problem: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0

    def facts(self) -> dict[str, object]:
        """Return what the log keeps of it, besides the text."""
        facts = {"prompt_tokens": self.prompt_tokens, "new_tokens": self.new_tokens, "dollars": round(self.dollars, 8)}
        return facts | ({"problem": self.problem} if self.problem else {})


class Fallback:
    """A model at an endpoint with a prompt. Thread-safe.

    Args:
        system_prompt: That of the task, which the prompt may replace.
        longest: Tokens of an answer.
        price: Of the model's tokens.
        cache: None asks every time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: Prompt,
        retriever: Retriever | None,
        system_prompt: str,
        output: AnyOutput,
        longest: int,
        price: ApiPrice,
        spending: Spending,
        cache: AnswerCache | None = None,
    ) -> None:
        self.endpoint, self.price, self.spending = endpoint, price, spending
        self._prompt, self._retriever, self._system_prompt = prompt, retriever, system_prompt
        self._output, self._longest, self._cache = output, longest, cache

    @property
    def name(self) -> str:
        """Model and host, which mark its answers."""
        return self.endpoint.name

    def answer(self, messages: Sequence[Message], keep: bool = True) -> SecondAnswer:
        """Answer a conversation without its system turn. keep: whether the answer may be stored in the cache."""
        system: list[Message] = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
        turns: list[Message] = [*system, *messages, {"role": "assistant", "content": ""}]
        ((question, *_),) = conversations([Example("", turns)], self._prompt, self._retriever)
        # no token is shorter than a byte
        length = len(json.dumps(question, ensure_ascii=False).encode("utf-8", "replace"))
        most = call_price(self.price, Call(length, self._longest))
        if not self.spending.reserve(most):
            return SecondAnswer(problem=f"budget: ${self.spending.limit:g} a month are spent")
        cost = most
        try:
            asked = ask(self.endpoint, [question], self._longest, cache=self._cache if keep else None, stage="serve")
            cost = call_price(self.price, Call(asked.spent.prompt_tokens, asked.spent.new_tokens))
        except EndpointError as error:
            cost = 0.0
            return SecondAnswer(problem=str(error).splitlines()[0])
        finally:
            self.spending.settle(most, cost)
        (reply,), spent = asked.answers, asked.spent
        text = reply.text.strip()
        problem = reply.error
        if reply.status == "truncated":
            problem = f"wrong form: the answer is longer than {self._longest} tokens"
        elif not problem and (wrong := form_problems(text, self._output)):
            problem = f"wrong form: {wrong[0][1]}"
        return SecondAnswer(None if problem else text, problem, spent.prompt_tokens, spent.new_tokens, cost)


def fallback_of(task: Task, store: ArtifactStore, prices: PriceList, cache: AnswerCache | None) -> Fallback:
    """Return the task's fallback: the model of baseline.endpoint with its best prompt on validation. Raises OutsideError with what
    is missing, and what to do."""
    spec = task.spec
    declared = spec.baseline.endpoint
    if declared is None:
        raise OutsideError("task.yaml names no model to fall back to", "set baseline.endpoint, or omit --fallback")
    if spec.automation.max_error is None:
        raise OutsideError("nothing is ever passed on without a promise", "set automation.max_error, and run the task")
    baseline = store.newest(task.name, "few_shot_baseline")
    best = best_api_prompt(baseline.read(Baseline).prompts) if baseline else None
    splits = store.find(task.name, "splits", baseline.inputs["train_split"]) if baseline else None
    if baseline is None or best is None or splits is None:
        raise OutsideError(f"the prompts of {declared.model} were not tried yet", f"run `finetune run {task.name}`")
    price = newest_price((price for price in prices.apis if not price.tuned), declared.model)
    if price is None:
        fix = f"add a line with unit million_served to {prices.path.name} in the task's folder; of a free model with price 0"
        raise OutsideError(f"{prices.path} has no price of {declared.model}, so that the budget cannot be kept", fix)
    try:
        endpoint = replace(Endpoint.of(declared, declared.model), timeout=spec.automation.fallback_seconds, tries=1)
    except ValueError as error:
        raise OutsideError(
            f"baseline.endpoint: {error}", "correct it, or set the variable where `serve` runs"
        ) from None
    folder = store.check(baseline).folder
    passages = folder / PASSAGES
    train = read_examples(examples_of(store.check(splits).folder, "train"))
    return Fallback(
        endpoint,
        read_prompts(folder)[best],
        Retriever(train, read_passages(passages) if passages.exists() else []),
        spec.system_prompt,
        spec.output,
        spec.answer_length,
        price,
        Spending(store.state_folder(task.name) / LEDGER, spec.automation.fallback_dollars),
        cache,
    )
