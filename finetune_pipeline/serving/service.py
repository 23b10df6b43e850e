"""The chat service: prompts the champion as in the evaluation, logs its answers and the feedback to them, and loads the new
champion when it changes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Any, TypeVar

import msgspec

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, append_line
from finetune_pipeline.data.readers.records import RawStream, read_lines
from finetune_pipeline.engine.files import hold
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.production.choosing import REFUSAL
from finetune_pipeline.production.log_files import SERVED, SERVED_LOCK
from finetune_pipeline.production.share_rows import Assignment
from finetune_pipeline.serving.classify import classification, parse_classify
from finetune_pipeline.serving.fallback import Fallback
from finetune_pipeline.serving.loading import AnyServed, Loaded, load
from finetune_pipeline.serving.logprobs import logprobs
from finetune_pipeline.serving.requests import BadRequest, Chat, parse_chat, parse_feedback
from finetune_pipeline.serving.rollout import FollowedRollout
from finetune_pipeline.serving.served import Served
from finetune_pipeline.serving.shadow import Shadow
from finetune_pipeline.serving.share import Share
from finetune_pipeline.serving.sureness import AnySureness, sureness
from finetune_pipeline.spec.model import Task

T = TypeVar("T")
WAITING = 64
"""Maximum number of requests that wait for the model; more are refused with status 503."""
_POLL_SECONDS = 2.0


class Service:
    """One task's model and log. Thread-safe.

    Args:
        find: Returns the current champion, or raises OutsideError (there is none, or it cannot be loaded).
        writer: Writes the log.
        tell: Informs the operator.
        fallback: Answers what the champion passes on; None: nobody does here.
        shadow: Answers the same rows behind the champion, for the log alone; None: nobody does here.
        share: Answers a share of the conversations in place of the champion; None: nobody does here.
        rollout: Brings shadow and share as its stages ask for them; None: they stay as given.
    """

    def __init__(
        self,
        task: Task,
        find: Callable[[], AnyServed],
        writer: LogWriter,
        tell: Callable[[str], None] = lambda _: None,
        fallback: Fallback | None = None,
        shadow: Shadow | None = None,
        share: Share | None = None,
        rollout: FollowedRollout | None = None,
    ) -> None:
        self.task, self._find, self._writer, self._tell, self._fallback = task, find, writer, tell, fallback
        self.loaded, self._shadow, self._share, self._rollout = load(find()), shadow, share, rollout
        self.since = int(time.time())
        self.problems: dict[str, str] = {}
        self._follow()
        self._waiting_slots = BoundedSemaphore(WAITING)
        self._lock = Lock()
        self._ids = set(writer.ids())
        self._stop = Event()

    @property
    def model(self) -> str:
        return self.loaded.served.name

    def health(self) -> dict[str, object]:
        status = "degraded" if self.problems else "ok"
        shadow, share = self._shadow, self._share
        second = {"shadow": shadow.facts()} if shadow else {}
        second |= {"share": share.facts()} if share else {}
        return {
            "status": status,
            "task": self.task.name,
            "model": self.model,
            "problems": dict(self.problems),
            **second,
        }

    def models(self) -> dict[str, object]:
        """Return the one model in OpenAI's list format."""
        model = {"id": self.model, "object": "model", "created": self.since, "owned_by": self.task.spec.owner}
        return {"object": "list", "data": [model]}

    def chat(self, body: Any, gone: Event) -> tuple[Chat, dict[str, object]]:
        """Return the request and its completion, logged unless the client sets ``store: false``. Raises BadRequest."""
        champion = self.loaded  # read once: it may change meanwhile
        chat = parse_chat(body, champion.served.system_prompt, self._names(champion), champion.served.json_schema)

        def ask(loaded: Loaded) -> tuple[Answer, float, dict[str, object] | None]:
            reply, seconds = self._answer(loaded, chat, gone)
            return reply, seconds, self._logprobs(loaded, chat, reply)

        loaded, assignment, (reply, seconds, scored) = self._assigned(champion, chat, gone, ask)
        name = loaded.served.name
        served = self._served(chat, reply.text.strip(), scored, _sureness(loaded, chat, reply))
        answer_id = self._keep("chatcmpl", name, chat, served, seconds, assignment)
        message = {"role": "assistant", "content": served.text, "refusal": served.refusal}
        finish_reason = "length" if reply.status == "truncated" and not served.answered_by else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": served.logprobs}
        return chat, {
            "id": answer_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [{**choice, **served.facts()}],
            "usage": {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.new_tokens,
                "total_tokens": reply.prompt_tokens + reply.new_tokens,
            },
        }

    def _logprobs(self, loaded: Loaded, chat: Chat, reply: Answer) -> dict[str, object] | None:
        """Return the field `logprobs` of an answer; None if it was not asked for. Raises BadRequest if there are none."""
        if chat.alternatives is None:
            return None
        tokens = loaded.tokens(reply, chat.alternatives)
        if tokens is None:
            raise BadRequest(
                f"the answers of {loaded.served.name}, a simple model, have no probabilities: omit 'logprobs'",
                "logprobs",
            )
        return logprobs(tokens)

    def classify(self, body: Any, gone: Event) -> dict[str, object]:
        """Return a classifier's probabilities in the form of vLLM; logged as :meth:`chat` does. Raises BadRequest."""
        champion = self.loaded
        _classes(champion)
        request = parse_classify(body, champion.served.system_prompt, self._names(champion))

        def ask(loaded: Loaded) -> tuple[Answer, float, list[str]]:
            classes = _classes(loaded)
            return *self._answer(loaded, request, gone), classes

        loaded, assignment, (reply, seconds, classes) = self._assigned(champion, request, gone, ask)
        name = loaded.served.name
        served = Served(reply.text, sure=_sureness(loaded, request, reply))
        answer_id = self._keep("classify", name, request, served, seconds, assignment)
        return classification(answer_id, name, reply, classes, served.facts())

    def _names(self, champion: Loaded) -> list[str]:
        """Return the names of a model that requests may have. None of them chooses who answers."""
        share = self._share
        return [champion.served.name, self.task.name, *([share.name] if share else [])]

    def _assigned(
        self, champion: Loaded, chat: Chat, gone: Event, ask: Callable[[Loaded], T]
    ) -> tuple[Loaded, Assignment | None, T]:
        """Ask the model that a conversation is assigned to; the champion if the candidate fails. Returns who answered, the
        assignment, and the answer. Raises BadRequest."""
        share = self._share
        assignment = share.assign(chat, champion.served.name) if share else None
        if share and assignment and assignment.chosen:
            if share.loaded is None:
                share.failed(share.facts()["problem"])
                return champion, assignment, ask(champion)
            try:
                answer = ask(share.loaded)
                share.answered()
                return share.loaded, assignment, answer
            except (BadRequest, MemoryError) as error:
                if gone.is_set() or (isinstance(error, BadRequest) and error.status == 503):
                    raise
                share.failed(str(error) or type(error).__name__)
        return champion, assignment, ask(champion)

    def _answer(self, loaded: Loaded, chat: Chat, gone: Event) -> tuple[Answer, float]:
        """Answer a conversation when it is its turn. Returns the answer and its seconds. Raises BadRequest."""
        if not self._waiting_slots.acquire(blocking=False):
            raise BadRequest(f"{WAITING} requests are already waiting: try again later", status=503, code="overloaded")
        try:
            shadow = self._shadow
            with shadow.paused() if shadow else nullcontext(), loaded.turn:
                if self._stop.is_set():
                    raise BadRequest("this server is stopping", status=503, code="stopping")
                start = time.perf_counter()
                answer = loaded.answer(chat.messages, chat.max_tokens, gone, chat.constrained, chat.alternatives)
                return answer, time.perf_counter() - start
        except FindingsError as error:
            raise BadRequest(str(error), "messages") from error
        except RuntimeError as error:
            self._tell(f"an answer failed: {error}")
            raise BadRequest(f"the model failed: {error}", status=500) from error
        finally:
            self._waiting_slots.release()

    def _served(self, chat: Chat, text: str, scored: dict[str, object] | None, sure: AnySureness | None) -> Served:
        """Return what the client gets: the champion's answer, or if that is passed on, the fallback's or the declared refusal."""
        own = Served(text, sure=sure, logprobs=scored)
        if sure is None or not sure.passed_on:
            return own
        second = self._fallback.answer(chat.messages, chat.store) if self._fallback else None
        if self._fallback and second:
            if second.text is not None:
                self.problems.pop("fallback", None)
                return Served(second.text, sure=sure, answered_by=self._fallback.name, second=second, own=text)
            if self.problems.get("fallback") != second.problem:
                self._tell(f"the fallback did not answer: {second.problem}")
            self.problems["fallback"] = second.problem
        if refusal := self.task.spec.automation.refusal:
            return Served(None, sure=sure, refusal=refusal, answered_by=REFUSAL, second=second, own=text)
        return replace(own, second=second)

    def _keep(
        self, kind: str, name: str, chat: Chat, served: Served, seconds: float, assignment: Assignment | None
    ) -> str:
        """Log an answer and how sure it is, unless the client does not want that; the shadow gets its row. Returns its id."""
        answer_id = f"{kind}-{uuid.uuid4().hex}"
        if chat.store:
            row: dict[str, object] = {"id": answer_id, "messages": chat.messages, "output": served.logged}
            row |= {"model_version": name} | served.facts() | served.metadata()
            if assignment:
                row["share"] = msgspec.structs.asdict(assignment) | {"seconds": seconds}
            self._log(row, chat.user)
            with self._lock:
                self._ids.add(answer_id)
            if shadow := self._shadow:
                own = served.logged if served.own is None else served.own
                shadow.offer(answer_id, chat, name, own, seconds)
        return answer_id

    def feedback(self, body: Any) -> dict[str, object]:
        """Log feedback to an answer of this server. Raises BadRequest, with status 404 for an unknown id."""
        answer_id, feedback, user = parse_feedback(body, self.task.spec)
        with self._lock:
            is_known = answer_id in self._ids
        if not is_known:
            raise BadRequest(f"no answer has the id {answer_id!r:.80}", "id", 404, "not_found")
        self._log({"id": answer_id, "feedback": feedback}, user)
        return {"id": answer_id, "stored": feedback}

    def _log(self, row: dict[str, object], user: str | None) -> None:
        """Write a row to the log. Raises BadRequest if it fails: the client must know that the row is not used for training."""
        row = {**row, "timestamp": datetime.now(UTC).isoformat(), **({"user": user} if user else {})}
        try:
            self._writer.write(row)
        except OSError as error:
            self.problems["log"] = f"{self._writer.path}: {error.strerror}"
            self._tell(f"a row could not be logged: {self.problems['log']}")
            raise BadRequest(f"this could not be logged: {error.strerror}", status=500) from error
        self.problems.pop("log", None)

    def renew(self) -> bool:
        """Load the current champion if it has changed, and return whether it has.

        If it cannot be loaded, :meth:`health` reports that, and the old one keeps serving.
        """
        try:
            champion = self._find()
            has_changed = champion.name != self.loaded.served.name
            if has_changed:
                second = self._share.loaded if self._share and self._share.name == champion.name else None
                self.loaded = second or load(champion)
        except Exception as error:  # noqa: BLE001 - the registry may be unreachable; answering continues
            problem = f"{type(error).__name__}: {error}"
            if self.problems.get("champion") != problem:
                self._tell(f"the champion cannot be looked up or loaded: {problem}")
            self.problems["champion"] = problem
            return False
        self.problems.pop("champion", None)
        if has_changed:
            self._tell(f"serving {self.model} now")
        self._follow()
        return has_changed

    def _follow(self) -> None:
        """Follow the rollout. If that fails, :meth:`health` reports it, and it is tried again with the next :meth:`renew`."""
        if self._rollout is None:
            return
        try:
            self._rollout.renew()
        except Exception as error:  # noqa: BLE001 - the candidate may be missing or too large; answering continues
            problem = f"{type(error).__name__}: {error}"
            if self.problems.get("rollout") != problem:
                self._tell(f"the rollout cannot be followed: {problem}")
            self.problems["rollout"] = problem
        else:
            self.problems.pop("rollout", None)
        self._shadow, self._share = self._rollout.shadow, self._rollout.share

    def watch(self) -> None:
        """Check periodically for a new champion, until :meth:`close`."""

        def poll() -> None:
            while not self._stop.wait(_POLL_SECONDS):
                self.renew()

        Thread(target=poll, daemon=True, name="champion").start()

    def close(self) -> None:
        """Refuse all requests that wait for the model; the one that it is answering is finished."""
        self._stop.set()
        if self._shadow:
            self._shadow.close()


def _classes(loaded: Loaded) -> list[str]:
    """Return the classes of a classifier. Raises BadRequest for another model."""
    classes: list[str] = getattr(loaded, "classes", [])
    if not classes:
        name = loaded.served.name
        raise BadRequest(f"{name} is no classifier: ask /v1/chat/completions", status=404, code="not_found")
    return classes


def _sureness(loaded: Loaded, chat: Chat, reply: Answer) -> AnySureness | None:
    """Return how sure an answer is; None if nothing is known about the model's probabilities."""
    as_evaluated = loaded.always_constrained or not chat.constrained
    return sureness(reply, loaded.labels, loaded.served.probability, as_evaluated, loaded.fields)


class _LoggedRow(msgspec.Struct):
    """What identifies a row of the log as an answer: feedback has no output."""

    id: str
    output: str | None = None


class LogWriter:
    """Appends rows to ``served.jsonl`` of a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / SERVED
        self._lock = Lock()

    def write(self, row: Mapping[str, object]) -> None:
        """Append one row, which a kill of this process no longer loses. Raises OSError if it cannot be written."""
        with self._lock, hold(self.path.with_name(SERVED_LOCK)):
            append_line(self.path, row, 0o600, sync=False)

    def ids(self) -> Iterator[str]:
        """Yield the ids of the answers in the file and its rotated versions."""
        for path in sorted(p for p in self.path.parent.glob(f"{SERVED}*") if p.is_file()):
            with RawStream(path) as stream:
                for line in read_lines(stream.buffered(), MAX_LINE_BYTES):
                    try:
                        row = msgspec.json.decode(line.data, type=_LoggedRow)
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue  # reported when production logs are ingested
                    if row.output is not None:
                        yield row.id
