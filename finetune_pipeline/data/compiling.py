"""Compiling with numba, with a cache that works from a read-only installation and in pools of processes.

Every kernel has one signature and is compiled, or read from numba's cache, when its module is imported: five seconds the
first time, 0.4 from then on, most of it numba itself. The cache is numba's own: ``NUMBA_CACHE_DIR``, else
``__pycache__`` beside the module, else the user's cache folder; where none can be written, a temporary folder of the
process. Entries are written by renaming and hold the same code whoever compiled it, so processes may race.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba


def _without_scipy_at_first() -> None:
    """Load numba's array functions without scipy.linalg, which numba would import only to note whether it is there.

    That takes a third of the time numba itself needs. What calls BLAS still asks for it when it is compiled; kernels here
    never do. Where a version of numba is built otherwise, nothing is changed.
    """
    if "numba.np.arraymath" in sys.modules or importlib.util.find_spec("scipy") is None:
        return
    linalg: Any = importlib.import_module("numba.np.linalg")
    asked = getattr(linalg, "ensure_blas", None)
    if asked is None or "numba.np.arraymath" in sys.modules:
        return
    linalg.ensure_blas = lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = asked


_without_scipy_at_first()


def compiled(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: numba.njit with this signature, without the interpreter lock; division follows numpy."""
    config: Any = numba.config
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, **options)(function)
        except RuntimeError as error:  # numba's way to say that no folder can be written
            if "cannot cache" not in str(error):
                raise
        config.CACHE_DIR = tempfile.mkdtemp(prefix="numba-")
        atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
        return numba.njit(signature, **options)(function)

    return compile_it


def helper(function: Callable[..., Any]) -> Any:
    """A decorator for what only kernels of the same file call: compiled as a part of them, never loaded by itself."""
    return numba.njit(nogil=True, error_model="numpy")(function)
