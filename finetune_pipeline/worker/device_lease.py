"""A lease on one or more devices, held by file locks that the training process inherits.

The lease outlives a killed parent and ends exactly when the last process that inherited it is gone, so two trainings
never share a device by accident. The kernel does the book-keeping; a stale lock file means nothing.
"""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISREG, S_IWOTH

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.progress import Reminders, spell
from finetune_pipeline.worker.supervised import Stopped


@contextlib.contextmanager
def lease(
    devices: Sequence[str],
    folder: Callable[[str], Path],
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
    folder: where lock files are, see :func:`lock_folder`. holder: words shown to those who wait. log: receives who holds them
    and for how long, at once and now and then. Raises TimeoutError naming the holders; Stopped when `should_stop` gives a reason.
    """
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
        held = {d: _held_by(folder(d), d) for d in single}
        waiting = "; ".join(f"{d}: {words}" for d, words in held.items() if words) or "freed just now"
        if reminders.due():
            log(f"waiting for a free device ({waiting})")
        if reason := should_stop():
            raise Stopped(reason)
        if time.monotonic() > limit:
            what = f"no device became free within {timeout_s:g} s ({waiting})"
            raise TimeoutError(f"{what}; wait for that run or cancel it")
        time.sleep(poll_s)


def members(device: str) -> list[str]:
    """The different devices of a name, in the order in which they are locked."""
    return sorted(set(device.split("+")))


def _take_all(folder: Callable[[str], Path], device: str, holder: str) -> tuple[int, ...] | None:
    handles: list[int] = []
    for part in members(device):
        if (handle := _take(folder(part), part, holder)) is None:
            for taken in handles:
                os.close(taken)
            return None
        handles.append(handle)
    return tuple(handles)


def lock_folder(device: str, home: Path) -> Path:
    """Where a device's lock is kept. Steps of one `home` take turns on the CPU, and other homes know nothing of it; a GPU is
    shared by all that this user runs on this machine, so its lock is in the user's own state folder, which outlives a login."""
    if device == "cpu":
        return home / "locks"
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "finetune_pipeline" / f"devices-{platform.node()}"


def _open(folder: Path, device: str) -> int:
    """Open the lock file, created if missing, for this user only, and never through a link. Raises OutsideError if everybody may
    write to the folder, or what has the file's name is a link or somebody else's."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    safe = os.O_NOFOLLOW | os.O_CLOEXEC
    name = f"{device.replace(':', '_')}.lock"
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | safe)
        try:
            if os.fstat(place).st_mode & S_IWOTH:
                raise OutsideError(f"everyone can write to {folder}, which holds locks; fix: `chmod o-w {folder}`")
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | safe, 0o600, dir_fd=place)
        finally:
            os.close(place)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise OutsideError(f"{folder / name} is a link; fix: remove the link") from error
    status = os.fstat(handle)
    if status.st_uid != os.getuid() or status.st_nlink > 1 or not S_ISREG(status.st_mode):
        os.close(handle)
        raise OutsideError(f"{folder / name} is not a lock file of this user; fix: remove it")
    return handle


def _take(folder: Path, device: str, holder: str) -> int | None:
    handle = _open(folder, device)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, f"{holder or 'a training'}, started by process {os.getpid()}".encode())
    except BaseException as error:  # a full disk: kept open, the file would lock out this process's own next try
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return handle


def _held_by(folder: Path, device: str) -> str:
    """The holder's description and how long it has held the device; empty if it is free."""
    handle = _open(folder, device)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(handle, 1 << 12, 0).decode("utf-8", "replace").strip() or "held"
        return f"{words}, for {spell(time.time() - os.fstat(handle).st_mtime)}"
    else:
        return ""
    finally:
        os.close(handle)
