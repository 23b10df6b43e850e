"""Kernels are loaded without scipy.linalg, and what needs it has it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import finetune_pipeline.data.compiling
assert "numba.np.arraymath" in sys.modules and "scipy.linalg" not in sys.modules
import numba, numpy
two = numba.njit(lambda a: numpy.dot(a, a))(numpy.full((2, 2), 3.0))
assert (two == 18).all() and "scipy.linalg" in sys.modules
print("both")
"""


def test_scipy_waits_until_it_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == "both\n", done.stderr
