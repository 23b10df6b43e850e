"""Parsing and validating chat rows: rows per CPU second of one core, extra memory, and the planted faults missed.

    python benchmarks/parsing.py --rows 1000000

Every method reads the same file (benchmarks/chat_rows.py) in a process of its own, after its imports and a warm-up on
a small file; memory is the peak above what the process held then. `ours`: this package, with canonical rows, ids and
findings; `guide`: json.loads and the rules fine-tuning guides give (a list of messages, known roles, text, an assistant);
`pydantic`: typed models and the same rules. A kind of fault is missed when one of its lines is not found. Ends with code 1
when this package misses a fault or refuses a sound row.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chat_rows import SYSTEM_PROMPT, write_chat_rows

WARM_ROWS = 2_000


def ours(path: Path) -> set[int]:
    """Lines this package quarantines."""
    from finetune_pipeline.data.readers.any_file import read_records
    from finetune_pipeline.data.validate.validation import in_blocks, validate_block
    from finetune_pipeline.spec import TaskSpec

    spec = TaskSpec.model_validate(
        {"name": "bench", "description": "x", "system_prompt": SYSTEM_PROMPT, "output": {"kind": "text"}}
    )
    bad: set[int] = set()
    for block in in_blocks(read_records(path, "raw/a.jsonl", spec), "raw/a.jsonl"):
        result = validate_block(block, spec)
        bad.update(row["line"] for row in result.quarantine)
        assert result.rows_in == result.kept + len(result.quarantine)
    return bad


def guide(path: Path) -> set[int]:
    """Lines that json.loads and a guide's rules refuse."""
    bad: set[int] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                bad.add(number)
                continue
            messages = row.get("messages") if isinstance(row, dict) else None
            if not isinstance(messages, list) or not messages:
                bad.add(number)
                continue
            for message in messages:
                if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
                    bad.add(number)
                    break
                content = message.get("content")
                if not isinstance(content, str) or not content:
                    bad.add(number)
                    break
            if not any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages):
                bad.add(number)
    return bad


def pydantic(path: Path) -> set[int]:
    """Lines that typed models and the same rules refuse."""
    from typing import Annotated, Literal

    from pydantic import BaseModel, Field, TypeAdapter, ValidationError

    class Message(BaseModel):
        role: Literal["system", "user", "assistant"]
        content: Annotated[str, Field(min_length=1)]

    class Row(BaseModel):
        messages: Annotated[list[Message], Field(min_length=1)]

    Message.model_rebuild(_types_namespace={"Literal": Literal, "Annotated": Annotated, "Field": Field})
    Row.model_rebuild(_types_namespace={"Message": Message, "Annotated": Annotated, "Field": Field})
    adapter = TypeAdapter(Row)
    bad: set[int] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = adapter.validate_json(line)
            except ValidationError:
                bad.add(number)
                continue
            if not any(m.role == "assistant" for m in row.messages):
                bad.add(number)
    return bad


METHODS: dict[str, Callable[[Path], set[int]]] = {"ours": ours, "guide": guide, "pydantic": pydantic}


def measure(method: str, path: Path, warm: Path, told: Path) -> None:
    """Run one method in this process and write its figures."""
    import psutil

    METHODS[method](warm)
    before = psutil.Process().memory_info().rss
    began, wall = time.process_time(), time.perf_counter()
    bad = METHODS[method](path)
    used, waited = time.process_time() - began, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told.write_text(
        json.dumps({"cpu": used, "wall": waited, "mebibytes": max(0, peak - before) / 2**20, "bad": sorted(bad)})
    )


def measured(method: str, path: Path, warm: Path) -> dict[str, Any]:
    """The figures of one method, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        command = [sys.executable, __file__, "--method", method, "--file", str(path), "--warm", str(warm)]
        subprocess.run([*command, "--told", str(told)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        result: dict[str, Any] = json.loads(told.read_text())
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3, help="the best of so many runs counts")
    for hidden in ("--method", "--file", "--warm", "--told"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.method:
        measure(given.method, Path(given.file), Path(given.warm), Path(given.told))
        return 0
    with tempfile.TemporaryDirectory(prefix="parsing-") as folder:
        path, warm = Path(folder) / "rows.jsonl", Path(folder) / "warm.jsonl"
        planted = write_chat_rows(path, given.rows, seed=0)
        write_chat_rows(warm, WARM_ROWS, seed=1)
        size = path.stat().st_size
        kinds = Counter(planted.values())
        print(f"{given.rows} rows of {size / given.rows:.0f} bytes, {len(planted)} broken in {len(kinds)} ways")
        print(
            f"{'method':15} {'rows/CPU s':>11} {'ratio':>6} {'CPU s':>7} {'MiB':>6} {'missed':>7} {'false':>6}  missed kinds"
        )
        best: dict[str, dict[str, Any]] = {}
        for name in METHODS:
            runs = [measured(name, path, warm) for _ in range(given.runs)]
            best[name] = min(runs, key=lambda r: r["cpu"])
        for name, figures in best.items():
            bad = set(figures["bad"])
            missed = Counter(kind for line, kind in planted.items() if line not in bad)
            rate, ratio = given.rows / figures["cpu"], best["guide"]["cpu"] / figures["cpu"]
            print(
                f"{name:15} {rate:11,.0f} {ratio:6.2f} {figures['cpu']:7.2f} {figures['mebibytes']:6.0f} "
                f"{sum(missed.values()):7} {len(bad - set(planted)):6}  {', '.join(sorted(missed)) or 'none'}"
            )
    return 0 if set(best["ours"]["bad"]) == set(planted) else 1


if __name__ == "__main__":
    sys.exit(main())
