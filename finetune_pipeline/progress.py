"""Progress of a run, told by any process of it: one JSON object a line, appended to the file FINETUNE_PROGRESS names.

Appends of a short line with O_APPEND are not torn between processes, so many may write to one file.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

VARIABLE = "FINETUNE_PROGRESS"


def tell(stage: str, message: str = "", **numbers: Any) -> None:
    """Append one line of progress: `stage` (asset name), a short message, and numbers such as step, of, loss, seconds_left."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    line = json.dumps({"time": time.time(), "stage": stage, "message": message, **numbers}, default=str) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
