"""Tests of the pipeline; how they are written is in CONTRIBUTING.md."""

import os
import sys

# Set in many containers. Each of the hundreds of processes that tests start would compile again all that it imports, which
# is half of what importing costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
