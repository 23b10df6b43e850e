"""Tests of the pipeline. CONTRIBUTING.md describes the conventions."""

import os
import sys

# Many containers set this variable. The hundreds of processes that tests start would then each compile every module again,
# which doubles their import time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
