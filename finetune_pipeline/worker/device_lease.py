"""A lease on a device, or on several at once, held by file locks which the training process inherits.

The lease outlives a killed parent and ends exactly when the last process that inherited it is gone, so two trainings
never share a device by accident. The kernel does the book-keeping; a stale lock file means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finetune_pipeline.reminders import Reminders, spell
from finetune_pipeline.worker.supervised import Stopped


@contextlib.contextmanager
def lease(
    devices: Sequence[str],
    folder: Path,
    *,
    holder: str = "",
    timeout_s: float = 24 * 3600.0,
    poll_s: float = 1.0,
    should_stop: Callable[[], str | None] = lambda: None,
    log: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Wait for one of `devices` and yield (its name, file descriptors to pass to the child with ``pass_fds``).

    A name such as ``cuda:0+cuda:1`` stands for all of its devices: they are locked in one order everywhere, and where one
    is taken those before it are given back at once, so that no two waiters can hold what the other needs.
    folder: where lock files are; the same for all processes that share the devices. holder: words shown to those who
    wait. log: told who holds them and for how long, at once and now and then while it waits. Raises TimeoutError naming
    the holders; Stopped when `should_stop` gives a reason while waiting.
    """
    if not devices:
        raise ValueError("no device to lease: name at least one, for example cpu")
    folder.mkdir(parents=True, exist_ok=True)
    limit, reminders = time.monotonic() + timeout_s, Reminders()
    while True:
        for device in devices:
            handles = _take_all(folder, device, holder)
            if handles is None:
                continue
            try:
                yield device, handles
            finally:
                for handle in handles:
                    os.close(handle)  # no LOCK_UN: the child's copy keeps the lease as long as the child lives
            return
        single = dict.fromkeys(part for device in devices for part in members(device))
        held = {d: _held_by(_lock_file(folder, d)) for d in single}
        waiting = "; ".join(f"{d}: {words}" for d, words in held.items() if words) or "freed just now"
        if reminders.due():
            log(f"waiting for a free device ({waiting})")
        if reason := should_stop():
            raise Stopped(reason)
        if time.monotonic() > limit:
            raise TimeoutError(
                f"no device became free within {timeout_s:g} s ({waiting}); wait for that run or cancel it"
            )
        time.sleep(poll_s)


def members(device: str) -> list[str]:
    """The different devices of a name, in the order in which they are locked."""
    return sorted(set(device.split("+")))


def _take_all(folder: Path, device: str, holder: str) -> tuple[int, ...] | None:
    handles: list[int] = []
    for part in members(device):
        handle = _take(_lock_file(folder, part), holder)
        if handle is None:
            for taken in handles:
                os.close(taken)
            return None
        handles.append(handle)
    return tuple(handles)


def _lock_file(folder: Path, device: str) -> Path:
    return folder / f"{device.replace(':', '_')}.lock"


def _take(path: Path, holder: str) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    os.ftruncate(handle, 0)
    os.write(handle, f"{holder or 'a training'}, started by process {os.getpid()}".encode())
    return handle


def _held_by(path: Path) -> str:
    """The holder's words, and for how long it has had the device; empty when nobody holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = path.read_text("utf-8", "replace").strip() or "held"
        return f"{words}, for {spell(time.time() - path.stat().st_mtime)}"
    else:
        return ""
    finally:
        os.close(handle)
