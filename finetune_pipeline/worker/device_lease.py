"""A lease on a device, held by a file lock that the training process inherits.

The lease survives a killed parent and ends when the last process that inherited it ends: two trainings never share a device
by accident. The kernel keeps the lock; a leftover lock file has no effect.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finetune_pipeline.progress import Reminders, spell
from finetune_pipeline.worker.supervised import Stopped


@contextlib.contextmanager
def lease(
    devices: Sequence[str],
    folder: Callable[[str], Path],
    *,
    holder: str = "",
    poll_s: float = 1.0,
    should_stop: Callable[[], str | None] = lambda: None,
    log: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[str, int]]:
    """Wait for one of `devices` and yield (its name, the file descriptor to pass to the child with ``pass_fds``).

    folder: folder of a device's lock file, see :func:`lock_folder`. holder: description for waiting processes. log: receives
    the holders and their times, at once and then occasionally. Raises Stopped if `should_stop` returns a reason.
    """
    reminders = Reminders()
    while True:
        for device in devices:
            handle = _try_lock(folder(device), device, holder)
            if handle is None:
                continue
            try:
                yield device, handle
            finally:
                os.close(handle)  # no LOCK_UN: a child keeps the lease with its copy
            return
        if reminders.due():
            holders = {device: _holder(folder(device), device) for device in devices}
            held_by = "; ".join(f"{device}: {name}" for device, name in holders.items() if name)
            log(f"waiting for a free device ({held_by or 'freed just now'})")
        if reason := should_stop():
            raise Stopped(reason)
        time.sleep(poll_s)


def lock_folder(device: str, home: Path) -> Path:
    """Return the folder of a device's lock. CPU: in `home`, whose steps take turns, independently of other homes. GPU: in the
    user's state folder, which survives a logout, since all runs of this user on this machine share the GPU."""
    if device == "cpu":
        return home / "locks"
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "finetune_pipeline" / f"devices-{platform.node()}"


def _open_lock_file(folder: Path, device: str) -> int:
    """Open the lock file, which is this user's alone and no link; create it if missing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{device.replace(':', '_')}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _try_lock(folder: Path, device: str, holder: str) -> int | None:
    """Lock a device, and write the holder into its file. Returns the open file; None if the device is taken."""
    handle = _open_lock_file(folder, device)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.write(handle, f"{holder or 'a training'}, started by process {os.getpid()}".encode())
    except BaseException as error:  # a full disk, say: an open file would block this process's next try
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return handle


def _holder(folder: Path, device: str) -> str:
    """Return the holder's description and how long it has held the device; empty if the device is free."""
    handle = _open_lock_file(folder, device)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        description = os.pread(handle, 1 << 12, 0).decode("utf-8", "replace").strip() or "held"
        return f"{description}, for {spell(time.time() - os.fstat(handle).st_mtime)}"
    else:
        return ""
    finally:
        os.close(handle)
