"""Lets a second model answer the champion's rows behind it, for the log alone: `finetune serve --shadow`.

The second model works in a process of its own, at the lowest priority, and stops before its next token while the champion has a
request. The champion's threads put rows into a queue of limited length and never wait for it: what does not fit is dropped and
counted. Each answer becomes a line of the log with the key `shadow` (:mod:`finetune_pipeline.production.shadow_rows`).
"""

import contextlib
import ctypes
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Any

import msgspec

from finetune_pipeline.data.examples import Message
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.production.shadow_rows import ShadowAnswer
from finetune_pipeline.serving.loading import AnyServed, Loaded, load
from finetune_pipeline.serving.requests import BadRequest, Chat

WAITING_ROWS = 256
"""Maximum number of rows that wait for the second model; further ones are dropped."""
_PAUSE_SECONDS = 0.002
"""How often the second model looks whether the champion has nothing to do any more."""
LOWEST_PRIORITY = 19


class _Question(msgspec.Struct):
    """What the second model is asked: what the champion was asked."""

    messages: list[Message]
    max_tokens: int | None
    constrained: bool


class _Reply(msgspec.Struct):
    """What it says: its answer or the problem, and how long it took without the pauses."""

    output: str | None
    problem: str
    seconds: float


class _Row(msgspec.Struct):
    """A row that the champion has answered."""

    id: str
    chat: Chat
    champion: str
    output: str
    seconds: float


class Shadow:
    """A second model behind the champion. Thread-safe.

    Args:
        served: The second model.
        write: Writes a line of the log; raises OSError.
        tell: Informs the operator.

    Raises:
        OutsideError: The model cannot be loaded.
    """

    def __init__(
        self, served: AnyServed, write: Callable[[Mapping[str, object]], None], tell: Callable[[str], None]
    ) -> None:
        self.name, self._write, self._tell = served.name, write, tell
        self._rows: Queue[_Row] = Queue(WAITING_ROWS)
        self._counts: Counter[str] = Counter()
        self._requests, self._lock, self._problem, self._is_closed = 0, Lock(), "", False
        context = get_context("spawn")
        self._busy = context.RawValue(ctypes.c_byte, 0)  # without a lock: the champion must never wait for this process
        self._connection, other_end = context.Pipe()
        self._process = context.Process(
            target=_answer_rows, args=(served, other_end, self._busy), daemon=True, name="shadow"
        )
        self._process.start()
        other_end.close()
        try:
            problem = self._connection.recv_bytes().decode()
        except EOFError:
            self._process.join()
            problem = f"its process ended with {self._process.exitcode}, most likely for lack of memory"
        if problem:
            raise OutsideError(f"{self.name}, which was to answer behind the champion, cannot be loaded: {problem}")
        Thread(target=self._work, daemon=True, name="shadow").start()

    def facts(self) -> dict[str, object]:
        """Return what has become of the rows since the start, how many wait, and why the second model has ended."""
        counts = {name: self._counts[name] for name in ("answered", "failed", "dropped", "not_logged", "is_champion")}
        return {"model": self.name, "waiting": self._rows.qsize(), **counts, "problem": self._problem}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the second model while the champion has a request."""
        with self._lock:
            self._requests += 1
            self._busy.value = 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                self._busy.value = self._requests > 0

    def offer(self, row_id: str, chat: Chat, champion: str, output: str, seconds: float) -> None:
        """Queue a row that the champion has answered; drop and count it if the queue is full or the second model has ended."""
        if champion == self.name:
            self._count("is_champion", f"{self.name} is the champion now: its rows get no second answer")
            return
        try:
            if self._problem or self._is_closed:
                raise Full
            self._rows.put_nowait(_Row(row_id, chat, champion, output, seconds))
        except Full:
            self._count("dropped", f"rows that {self.name} has no time for are dropped")

    def _count(self, name: str, message: str = "", number: int = 1) -> None:
        """Count rows; inform the operator of the first."""
        with self._lock:
            is_first = not self._counts[name]
            self._counts[name] += number
        if message and is_first:
            self._tell(f"{message}; /health counts them")

    def close(self) -> None:
        """End the second model; rows that wait for it stay without a second answer."""
        self._is_closed = True
        self._process.kill()
        self._process.join()

    def _work(self) -> None:
        while not self._is_closed:
            row = self._rows.get()
            question = _Question(row.chat.messages, row.chat.max_tokens, row.chat.constrained)
            try:
                self._connection.send_bytes(msgspec.json.encode(question))
                reply = msgspec.json.decode(self._connection.recv_bytes(), type=_Reply)
            except (EOFError, OSError):
                if not self._is_closed:
                    self._process.join()
                    self._problem = f"its process ended with {self._process.exitcode}; start the server again"
                    self._count("dropped", number=1 + self._rows.qsize())
                    self._tell(f"{self.name} answers no more behind the champion: {self._problem}")
                return
            self._log(row, reply)

    def _log(self, row: _Row, reply: _Reply) -> None:
        answer = ShadowAnswer(
            self.name, reply.output, row.champion, row.output, reply.seconds, row.seconds, reply.problem
        )
        user = {"user": row.chat.user} if row.chat.user else {}
        line = {"id": row.id, "timestamp": datetime.now(UTC).isoformat(), "messages": row.chat.messages, **user}
        try:
            self._write({**line, "shadow": msgspec.to_builtins(answer)})
        except OSError as error:
            self._count("not_logged", f"second answers could not be logged: {error.strerror}")
            return
        self._count("failed" if reply.output is None else "answered")


class _Pause(Event):
    """Tells a model before each token that its client is still there, after the champion's requests. seconds: spent waiting."""

    def __init__(self, busy: Any) -> None:
        super().__init__()
        self._busy, self.seconds = busy, 0.0

    def is_set(self) -> bool:
        start = time.perf_counter()
        while self._busy.value:
            time.sleep(_PAUSE_SECONDS)
        self.seconds += time.perf_counter() - start
        return False


def _answer_rows(served: AnyServed, connection: Connection, busy: Any) -> None:
    """Answer questions until the other end closes: the second model's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    parent = parent_process()
    assert parent is not None
    Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
    try:
        loaded = load(served)
    except Exception as error:  # noqa: BLE001 - the server reports it
        connection.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    connection.send_bytes(b"")
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = msgspec.json.decode(connection.recv_bytes(), type=_Question)
            connection.send_bytes(msgspec.json.encode(_reply(loaded, question, busy)))


def _reply(loaded: Loaded, question: _Question, busy: Any) -> _Reply:
    pause, output, problem = _Pause(busy), None, ""
    pause.is_set()  # simple models do not look
    pause.seconds, start = 0.0, time.perf_counter()
    try:
        answer = loaded.answer(question.messages, question.max_tokens, pause, question.constrained)
        output = answer.text.strip()
    except (BadRequest, FindingsError, RuntimeError, MemoryError) as error:
        problem = str(error) or type(error).__name__
    return _Reply(output, problem, max(0.0, time.perf_counter() - start - pause.seconds))
