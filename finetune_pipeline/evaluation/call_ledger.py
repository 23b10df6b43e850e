"""The ledger of paid calls: no answer is bought twice, and all calls together stay within a budget, whenever a process dies.

A call is recorded before it is sent, with the most that it can cost, and again with its answer and what it did cost. Of a call
that was sent, and whose answer never came because the process died, nobody knows whether it was paid for: it counts at its most,
and is not sent again. A request that the endpoint certainly did not process is taken out again.
"""

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.models.inference.generated import Answer

INTERRUPTED = "interrupted: it was sent by a run that ended before the answer came"
"""Error of an answer whose call was sent and never ended."""
_KEPT = ("text", "status", "error", "prompt_tokens", "new_tokens")
_TABLE = "CREATE TABLE IF NOT EXISTS calls (key BLOB PRIMARY KEY, most REAL NOT NULL, dollars REAL, answer TEXT, seconds REAL)"


@dataclass(frozen=True)
class TokenPrice:
    """Dollars per million tokens of prompts and of answers."""

    prompt: float
    new: float

    def of(self, prompt_tokens: float, new_tokens: float) -> float:
        return (self.prompt * prompt_tokens + self.new * new_tokens) / 1e6


class CallLedger:
    """The ledger in a file. One process at a time may use it.

    Args:
        budget_usd: What all its calls may cost.

    Raises:
        DamagedFile: The file is no ledger: what was paid for is not known.
    """

    def __init__(self, path: Path, price: TokenPrice, budget_usd: float) -> None:
        self.path, self.price, self.budget_usd = path, price, budget_usd
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        try:
            self._file.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self._file.close()
            raise DamagedFile(f"{path} is damaged: {error}", "put back a copy of it") from error
        self._spent = self._sum()
        self._began: dict[bytes, float] = {}

    def close(self) -> None:
        self._file.close()

    @property
    def spent_usd(self) -> float:
        """Dollars of all calls so far; those without a known cost count at their most."""
        return self._spent

    @property
    def answers(self) -> int:
        """Number of answers of all calls so far."""
        return int(self._file.execute("SELECT count(*) FROM calls WHERE answer IS NOT NULL").fetchone()[0])

    def find(self, keys: Sequence[bytes]) -> dict[int, Answer]:
        """Return the answers of earlier calls, by index in `keys`; of those that never ended, :data:`INTERRUPTED`."""
        answers = {}
        for i, key in enumerate(keys):
            row = self._file.execute("SELECT answer FROM calls WHERE key = ?", [key]).fetchone()
            if row is not None:
                fields = {"status": "error", "error": INTERRUPTED} if row[0] is None else json.loads(row[0])
                answers[i] = Answer(**fields)
        return answers

    def begin(self, key: bytes, prompt_tokens: int, new_tokens: int) -> bool:
        """Record a call before it is sent, with the most tokens it can cost. Returns False, and records nothing, if it might exceed
        the budget."""
        most = self.price.of(prompt_tokens, new_tokens)
        if self._spent + most > self.budget_usd:
            return False
        self._file.execute("INSERT INTO calls VALUES (?, ?, NULL, NULL, NULL)", [key, most])
        self._spent += most
        self._began[key] = time.monotonic()
        return True

    def end(self, key: bytes, answer: Answer, tokens: tuple[int, int] | None) -> None:
        """Record the answer of a call. tokens: of prompt and answer; None if the endpoint did not say."""
        dollars = None if tokens is None else self.price.of(*tokens)
        most = self._most(key)
        written = json.dumps({name: getattr(answer, name) for name in _KEPT})
        seconds = time.monotonic() - self._began.pop(key)
        values = [dollars, written, seconds, key]
        self._file.execute("UPDATE calls SET dollars = ?, answer = ?, seconds = ? WHERE key = ?", values)
        self._spent += 0.0 if dollars is None else dollars - most

    def release(self, key: bytes) -> None:
        """Take a call out that the endpoint certainly did not process."""
        self._spent -= self._most(key)
        self._file.execute("DELETE FROM calls WHERE key = ?", [key])

    @property
    def milliseconds(self) -> float | None:
        """Median time of the calls that ended, in milliseconds; None without one."""
        rows = self._file.execute("SELECT seconds FROM calls WHERE seconds IS NOT NULL").fetchall()
        return round(1000 * median(seconds for (seconds,) in rows), 1) if rows else None

    def _most(self, key: bytes) -> float:
        return float(self._file.execute("SELECT most FROM calls WHERE key = ?", [key]).fetchone()[0])

    def _sum(self) -> float:
        return float(self._file.execute("SELECT coalesce(sum(coalesce(dollars, most)), 0) FROM calls").fetchone()[0])
