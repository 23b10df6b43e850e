"""What was worked out last, kept while what it was made from stays: for questions that are asked again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """The newest result by name, in this process only: what people say stays on no further disk."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, T]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, key: str, make: Callable[[], T]) -> T:
        """The result kept under the name if its key is this one, else what `make` gives, which is kept in its place."""
        with self._lock:
            kept = self._kept.get(name)
        if kept is None or kept[0] != key:
            kept = (key, make())
            with self._lock:
                self._kept[name] = kept
        return kept[1]
