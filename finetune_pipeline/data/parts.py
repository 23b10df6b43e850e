"""Stages work part by part; a part whose inputs have not changed is taken over from an earlier artifact.

A stage's folder holds ``parts.json`` (the parts in order: key, and what else the stage notes) and one folder
``parts/<key>/`` each, with ``examples.jsonl`` and other files. The key is a digest of everything the part was made
from, so that an equal key means equal content; taking a part over is making hard links. ``digests.json`` in each part
names the SHA-256 of its files: whoever digests the artifact need only read this list.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from finetune_pipeline.artifacts import DIGESTS, digest_file, digest_json, read_json, write_json
from finetune_pipeline.data.examples import INDEX

_WORTH_A_POOL = 3
Item = TypeVar("Item")
Result = TypeVar("Result")


def part_key(*made_from: Any) -> str:
    """24 hex digits of the digest of everything a part is made from (plain JSON)."""
    return digest_json(list(made_from))[:24]


def write_index(out: Path, parts: Sequence[dict[str, Any]]) -> None:
    """Name the parts of a stage, in order."""
    write_json(out / INDEX, list(parts), durable=False)


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The parts of a stage, in order."""
    parts: list[dict[str, Any]] = read_json(folder / INDEX)
    return parts


def seal_part(making: Path, final: Path) -> None:
    """Write the digests of a part's files and move the part to its place in one step."""
    files = sorted(p for p in making.iterdir() if p.is_file())
    write_json(making / DIGESTS, {p.name: digest_file(p) for p in files}, durable=False)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():  # two equal blocks of one file: the first one's part stands for both
        shutil.rmtree(making)
        return
    os.rename(making, final)


def take_over(name: str, key: str, out: Path, earlier: Iterable[Path]) -> bool:
    """Link the part ``<name>/<key>`` of the first earlier folder that has it. False when none has."""
    stage = f"{out}/{name}"
    if os.path.isdir(f"{stage}/{key}"):
        return True
    for folder in earlier:
        source = f"{folder}/{name}/{key}"
        if os.path.isfile(f"{source}/{DIGESTS}"):
            making = f"{stage}/.taking-{key}"
            os.makedirs(making, exist_ok=True)
            for file in os.listdir(source):  # plain strings: there are hundreds of parts
                link(f"{source}/{file}", f"{making}/{file}")
            os.rename(making, f"{stage}/{key}")
            return True
    return False


def link(source: str | Path, target: str | Path) -> None:
    """A hard link, or a copy where the file system makes none. Both files are never written again."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)


def joined(out: Path, name: str, parts: Iterable[Path]) -> None:
    """Write ``out/name``: the files of this name in the part folders, one after the other."""
    with (out / name).open("wb") as whole:
        for part in parts:
            if (part / name).stat().st_size:
                with (part / name).open("rb") as piece:
                    shutil.copyfileobj(piece, whole, 1 << 20)


class Workers:
    """Runs a function over items: here while the work is small, in a pool of processes once it is not.

    Results come in the order of the items; at most two items per process are under way, so memory stays bounded. A few
    items are run here in any case: starting processes would take longer.
    """

    def __init__(self, large: bool, processes: int | None = None) -> None:
        self._count = min(processes or available_cores(), 8) if large else 1
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """function(item) for every item, in order. What it raises is raised here."""
        coming = iter(items)
        first = list(islice(coming, _WORTH_A_POOL)) if self._count > 1 else []
        if len(first) < _WORTH_A_POOL:
            yield from map(function, chain(first, coming))
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, mp_context=get_context("spawn"), initializer=_end_with_parent)
        waiting: list[Future[Result]] = []
        try:
            for item in chain(first, coming):
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > 2 * self._count:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {self._count} worker processes ended by itself, most likely for lack of memory: "
                "close other programs, or run on a machine with more memory, and start again"
            ) from error


def _end_with_parent() -> None:
    """A process of the pool whose parent is killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
