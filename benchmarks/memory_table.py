"""Peak memory of training and asking whole models on a GPU: a rule of thumb, the plan, and what PyTorch would allocate.

    python benchmarks/memory_table.py [--whole] > benchmarks/results/DATE-memory-table.txt

No GPU and no weights are needed. The models have published shapes; every step is the product's own, on tensors without data
(finetune_pipeline_tests/rehearsals.py), and the tracker adds up the storages that are alive. Four rows of 405 tokens behind
a beginning of 300, in bfloat16, with gradient checkpointing; two optimiser steps, so that the optimiser has its states.
Blocks are all alike: the tracker runs models of two and of three, and adds what the third one took for each of the others;
--whole runs all blocks (some 10 minutes of one core). The plan is extended alike. Neither column holds what a CUDA
context takes (the plan adds 700 MiB for it). Below it: what the packed attention of one layer keeps for its backward pass,
and its peak, by buckets and as FlexAttention, with a quarter of the tokens as a beginning of 16 rows. Rules of thumb: the
table of hardware in LLaMA-Factory's README.
"""

import datetime
import platform
import sys
import warnings
from typing import Any

import torch

from finetune_pipeline.training.prefix_tree import BUCKETS, FLEX
from finetune_pipeline_tests.fake_gpu import CONFIGS
from finetune_pipeline_tests.rehearsals import rehearse

TRAININGS = [
    ("mistral-7b", "qlora", "6 GB"),
    ("mistral-7b", "lora", "16 GB"),
    ("llama-2-13b", "qlora", "12 GB"),
    ("mistral-7b", "full", "60-120 GB"),
    ("llama-3-8b", "qlora", ""),
    ("gemma-3-4b", "qlora", ""),
]
ANSWERS = [("mistral-7b", False), ("mistral-7b", True)]
ATTENTION = (2048, 4096, 8192, 16384)
LIMIT = 0.1


def measure(case: dict[str, Any], whole: bool) -> tuple[int, int]:
    """(bytes planned, bytes alive at the peak) of the whole model. Raises RuntimeError where the step fails."""
    layers = CONFIGS[case["shape"]]["num_hidden_layers"]
    depths = [layers] if whole else [2, 3]
    results = list(rehearse([{**case, "layers": depth} for depth in depths]))
    if problems := [result["error"] for result in results if "error" in result]:
        raise RuntimeError(problems[0])

    def extended(key: str) -> int:
        first, last = results[0][key], results[-1][key]
        return int(last + (last - first) * (layers - depths[-1]))

    return extended("planned"), extended("peak")


def main() -> int:
    warnings.simplefilter("ignore")
    settings = {"precision": "bfloat16", "batch_size": 4, "micro_batch_size": 4, "gradient_checkpointing": True}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (f"{shape}, train {method}", rule, {"step": "train_step", "shape": shape, "number": 4,
         "settings": {**settings, "method": method, "unquantized_epochs": 0}})
        for shape, method, rule in TRAININGS
    ]  # fmt: skip
    cases += [
        (f"{shape}, {'compare merged model, float32' if wide else 'evaluate 16 rows, bfloat16'}", "",
         {"step": "answer", "shape": shape, "number": 16, "new_tokens": 4, "comparing": wide})
        for shape, wide in ANSWERS
    ]  # fmt: skip
    print(f"{datetime.date.today()}, torch {torch.__version__}, {platform.machine()}, no GPU")
    print(f"{'':44} {'rule of thumb':>13} {'plan':>9} {'tracker':>9} {'plan off':>8}")
    worst = 0.0
    for name, rule, case in cases:
        planned, peak = measure(case, "--whole" in sys.argv)
        off = planned / peak - 1
        worst = max(worst, abs(off))
        print(f"{name:44} {rule:>13} {planned / 1e9:>6.1f} GB {peak / 1e9:>6.1f} GB {off:>+8.1%}", flush=True)
    print(f"furthest off: {worst:.1%}, allowed {LIMIT:.0%}")
    print(f"\n{'mistral-7b, attention of one layer':44} {'buckets':>21} {'FlexAttention':>21}")
    print(f"{'':44} {'kept':>10} {'peak':>10} {'kept':>10} {'peak':>10}")
    attends = [
        {"step": "attend", "shape": "mistral-7b", "layers": 1, "kernel": kernel, "tokens": tokens}
        for tokens in ATTENTION
        for kernel in (BUCKETS, FLEX)
    ]
    found = list(rehearse(attends))
    for tokens, buckets, flex in zip(ATTENTION, found[::2], found[1::2], strict=True):
        cells = [result[key] / 1e6 for result in (buckets, flex) for key in ("kept", "peak")]
        print(f"{f'{tokens} tokens':44} " + " ".join(f"{cell:>7,.0f} MB" for cell in cells))
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
