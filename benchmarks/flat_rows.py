"""Rows of single texts in JSON Lines: microseconds of CPU a row by the short way, and rule by rule, in one process.

    python benchmarks/flat_rows.py --rows 20000

The rows are made from a seed (about 600 bytes), all sound; every figure includes the canonical row and its id.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from finetune_pipeline.data.judging import judge_block
from finetune_pipeline.data.readers.blocks import Block
from finetune_pipeline.spec import TaskSpec

WORDS = [
    "export",
    "import",
    "sync",
    "login",
    "invoice",
    "report",
    "calendar",
    "crew",
    "tablet",
    "route",
    "photo",
    "signature",
    "map",
    "offline",
    "update",
]
SHAPES = {
    "text_label": {"text": 60, "label": 20},
    "prompt_completion": {"prompt": 60, "completion": 20},
    "instruction": {"instruction": 50, "input": 10, "output": 20},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    rng = random.Random(0)
    spec = TaskSpec.model_validate(
        {"name": "bench", "description": "x", "system_prompt": "Answer.", "output": {"kind": "text"}}
    )
    for name, keys in SHAPES.items():
        made = [{key: " ".join(rng.choices(WORDS, k=words)) for key, words in keys.items()} for _ in range(rows)]
        block = Block("a", "lines", 1, b"".join(json.dumps(row).encode() + b"\n" for row in made))
        judge_block(block, spec, fast_from=0)  # compiles, or loads, the kernels
        taken = []
        for fast_from in (0, 1 << 40):
            began = time.process_time()
            judged = judge_block(block, spec, fast_from=fast_from)
            taken.append((time.process_time() - began) / rows * 1e6)
            assert judged.kept == rows
        short, long = taken
        print(f"{name:20} short way {short:5.1f} us a row, rule by rule {long:5.1f}, ratio {long / short:.1f}")


if __name__ == "__main__":
    main()
