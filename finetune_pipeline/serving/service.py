"""The chat service: prompts the champion as in the evaluation, logs its answers and the feedback to them, and loads the new
champion when it changes."""

from __future__ import annotations

import time
import uuid
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Any

import msgspec

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, append_line
from finetune_pipeline.data.readers.records import RawStream, read_lines
from finetune_pipeline.engine.files import hold
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.production.log_files import SERVED, SERVED_LOCK
from finetune_pipeline.serving.requests import BadRequest, Chat, parse_chat, parse_feedback
from finetune_pipeline.spec.model import Task

WAITING = 64
"""Maximum number of requests that wait for the model; more are refused with status 503."""
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Champion:
    """The model to serve.

    Attributes:
        model: Folder of the model, see models.identity.Served.
        adapter: Folder of the adapter, or None.
        precision: That of the evaluation (evaluation.precision).
    """

    task: str
    version: int
    model: Path
    adapter: Path | None
    system_prompt: str
    max_new_tokens: int
    precision: str = "serving"

    @property
    def name(self) -> str:
        """The model's name for clients and in the logs."""
        return f"{self.task}:{self.version}"


class LoadedModel:
    """A champion in memory. Callers of `answer` must hold `turn`: one answer is generated at a time."""

    def __init__(self, champion: Champion) -> None:
        from transformers.utils.logging import disable_progress_bar

        from finetune_pipeline.models.chat import load_tokenizer
        from finetune_pipeline.models.loading import load_for_prediction, pick_device

        self.champion = champion
        disable_progress_bar()  # the operator's terminal is for requests and errors
        self._model = load_for_prediction(champion.model, pick_device(), champion.adapter, champion.precision)
        self._tokenizer = load_tokenizer(champion.model)
        self.turn = Lock()

    def answer(self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int | None, gone: Event) -> Answer:
        """Answer a conversation (without its system turn) greedily, with at most the length that the evaluation allowed.

        Raises:
            BadRequest: Prompt and answer do not fit into the model's context, or the client has `gone`.
            FindingsError: The chat template refuses the turns.
            RuntimeError: The model fails.
        """
        from finetune_pipeline.models.chat import encode_prompt
        from finetune_pipeline.models.inference.generation import generate_and_score

        turns = [{"role": "system", "content": self.champion.system_prompt}, *(dict(m) for m in messages)]
        limit = min(max_new_tokens or self.champion.max_new_tokens, self.champion.max_new_tokens)
        prompt = encode_prompt(self._tokenizer, turns)
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if context and len(prompt) + limit > context:
            message = (
                f"the prompt has {len(prompt)} tokens and the answer up to {limit}: more than the model's {context}"
            )
            raise BadRequest(message, "messages", code="context_length_exceeded")

        def stop_if_gone(*_: object) -> None:
            if gone.is_set():
                raise CancelledError  # no Exception, which would count as a failed row and be repeated

        try:
            with self._model.register_forward_pre_hook(stop_if_gone):  # before each token
                (reply,) = generate_and_score(
                    self._model, self._tokenizer, [prompt], None, limit, 1, stage="serve", name=self.champion.name
                )
        except CancelledError:
            raise BadRequest("the client has closed the connection", status=499, code="cancelled") from None
        except MemoryError as error:
            raise RuntimeError(str(error)) from None
        if reply.status == "error":
            raise RuntimeError(reply.error)
        return reply


class Service:
    """One task's model and log. Thread-safe.

    Args:
        find: Returns the current champion, or raises OutsideError (there is none, or it cannot be loaded).
        writer: Writes the log.
        tell: Informs the operator.
    """

    def __init__(
        self, task: Task, find: Callable[[], Champion], writer: LogWriter, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.task, self._find, self._writer, self._tell = task, find, writer, tell
        self.loaded = LoadedModel(find())
        self.since = int(time.time())
        self.problems: dict[str, str] = {}
        self._waiting_slots = BoundedSemaphore(WAITING)
        self._lock = Lock()
        self._ids = set(writer.ids())
        self._stop = Event()

    @property
    def model(self) -> str:
        return self.loaded.champion.name

    def health(self) -> dict[str, Any]:
        status = "degraded" if self.problems else "ok"
        return {"status": status, "task": self.task.name, "model": self.model, "problems": dict(self.problems)}

    def models(self) -> dict[str, Any]:
        """Return the one model in OpenAI's list format."""
        model = {"id": self.model, "object": "model", "created": self.since, "owned_by": self.task.spec.owner}
        return {"object": "list", "data": [model]}

    def chat(self, body: Any, gone: Event) -> tuple[Chat, dict[str, Any]]:
        """Return the request and its completion, logged unless the client sets ``store: false``. Raises BadRequest."""
        loaded = self.loaded  # read once: the champion may change meanwhile
        name = loaded.champion.name
        chat = parse_chat(body, loaded.champion.system_prompt, [name, self.task.name])
        if not self._waiting_slots.acquire(blocking=False):
            raise BadRequest(f"{WAITING} requests are already waiting: try again later", status=503, code="overloaded")
        try:
            with loaded.turn:
                if self._stop.is_set():
                    raise BadRequest("this server is stopping", status=503, code="stopping")
                reply = loaded.answer(chat.messages, chat.max_tokens, gone)
        except FindingsError as error:
            raise BadRequest(str(error), "messages") from error
        except RuntimeError as error:
            self._tell(f"an answer failed: {error}")
            raise BadRequest(f"the model failed: {error}", status=500) from error
        finally:
            self._waiting_slots.release()
        answer_id = f"chatcmpl-{uuid.uuid4().hex}"
        text = reply.text.strip()
        if chat.store:
            self._log({"id": answer_id, "messages": chat.messages, "output": text, "model_version": name}, chat.user)
            with self._lock:
                self._ids.add(answer_id)
        message = {"role": "assistant", "content": text, "refusal": None}
        finish_reason = "length" if reply.status == "truncated" else "stop"
        return chat, {
            "id": answer_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}],
            "usage": {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.new_tokens,
                "total_tokens": reply.prompt_tokens + reply.new_tokens,
            },
        }

    def feedback(self, body: Any) -> dict[str, Any]:
        """Log feedback to an answer of this server. Raises BadRequest, with status 404 for an unknown id."""
        answer_id, feedback, user = parse_feedback(body, self.task.spec)
        with self._lock:
            is_known = answer_id in self._ids
        if not is_known:
            raise BadRequest(f"no answer has the id {answer_id!r:.80}", "id", 404, "not_found")
        self._log({"id": answer_id, "feedback": feedback}, user)
        return {"id": answer_id, "stored": feedback}

    def _log(self, row: dict[str, Any], user: str | None) -> None:
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
            has_changed = champion.version != self.loaded.champion.version
            if has_changed:
                self.loaded = LoadedModel(champion)
        except Exception as error:  # noqa: BLE001 - the registry may be unreachable; answering continues
            problem = f"{type(error).__name__}: {error}"
            if self.problems.get("champion") != problem:
                self._tell(f"the champion cannot be looked up or loaded: {problem}")
            self.problems["champion"] = problem
            return False
        self.problems.pop("champion", None)
        if has_changed:
            self._tell(f"serving {self.model} now")
        return has_changed

    def watch(self) -> None:
        """Check periodically for a new champion, until :meth:`close`."""

        def poll() -> None:
            while not self._stop.wait(_POLL_SECONDS):
                self.renew()

        Thread(target=poll, daemon=True, name="champion").start()

    def close(self) -> None:
        """Refuse all requests that wait for the model; the one that it is answering is finished."""
        self._stop.set()


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

    def write(self, row: Mapping[str, Any]) -> None:
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
