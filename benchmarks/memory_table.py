"""Peak GPU memory of training and inference of whole models: a rule of thumb, the plan, and PyTorch's own allocations.

    python benchmarks/memory_table.py [--whole] > benchmarks/results/DATE-memory-table.txt

Needs no GPU and no weights. The models have published shapes; every step is the product's own, on tensors without data
(finetune_pipeline_tests/rehearsals.py), and a tracker adds up the live storages. Four rows of 405 tokens after a shared prefix
of 300, in bfloat16, with gradient checkpointing; two optimizer steps, so that the optimizer has its states. All blocks are
equal: the tracker runs models of two and three blocks and extrapolates, as for the plan; --whole runs all blocks (about 10
minutes of one core). Neither column includes the CUDA context (the plan adds 700 MiB for it). The second table: memory that
the packed attention of one layer keeps for its backward pass, and its peak, with buckets and FlexAttention, with a quarter of
the tokens as the shared prefix of 16 rows. Rules of thumb: the hardware table in LLaMA-Factory's README.

Measures: finetune_pipeline/planning.
"""

import argparse
import datetime
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
ANSWERS = [("mistral-7b", "answer"), ("mistral-7b", "compare"), ("llama-3-8b", "compare")]
ATTENTION = (2048, 4096, 8192, 16384)
LIMIT = 0.25


def measure(case: dict[str, Any], whole: bool) -> tuple[int, int]:
    """Return the planned and the peak live bytes of the whole model. Raises RuntimeError if the step fails."""
    layers = CONFIGS[case["shape"]]["num_hidden_layers"]
    depths = [layers] if whole else [2, 3]
    results = list(rehearse([{**case, "layers": depth} for depth in depths]))
    if problems := [result["error"] for result in results if "error" in result]:
        raise RuntimeError(problems[0])

    def extrapolated(key: str) -> int:
        first, last = results[0][key], results[-1][key]
        return int(last + (last - first) * (layers - depths[-1]))

    return extrapolated("planned"), extrapolated("peak")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="run all blocks instead of extrapolating")
    whole = parser.parse_args().whole
    warnings.simplefilter("ignore")
    settings = {"precision": "bfloat16", "batch_size": 4, "micro_batch_size": 4, "gradient_checkpointing": True}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (f"{shape}, train {method}", rule, {"step": "train_step", "shape": shape, "number": 4,
         "settings": {**settings, "method": method, "unquantized_epochs": 0}})
        for shape, method, rule in TRAININGS
    ]  # fmt: skip
    cases += [
        (f"{shape}, {'compare merge, 16 rows' if step == 'compare' else 'evaluate 16 rows, bfloat16'}", "",
         {"step": step, "shape": shape, "number": 16, "new_tokens": 4})
        for shape, step in ANSWERS
    ]  # fmt: skip
    print(f"{datetime.date.today()}, torch {torch.__version__}, {platform.machine()}, no GPU")
    print(f"{'':44} {'rule of thumb':>13} {'plan':>9} {'tracker':>9} {'plan off':>8}")
    worst = 0.0
    for name, rule, case in cases:
        planned, peak = measure(case, whole)
        off = planned / peak - 1
        worst = max(worst, abs(off))
        print(f"{name:44} {rule:>13} {planned / 1e9:>6.1f} GB {peak / 1e9:>6.1f} GB {off:>+8.1%}", flush=True)
    print(f"furthest off: {worst:.1%}, allowed {LIMIT:.0%}")
    print(f"\n{'mistral-7b, attention of one layer':44} {'buckets':>21} {'FlexAttention':>21}")
    print(f"{'':44} {'kept':>10} {'peak':>10} {'kept':>10} {'peak':>10}")
    cases_of_attention = [
        {"step": "attend", "shape": "mistral-7b", "layers": 1, "kernel": kernel, "tokens": tokens}
        for tokens in ATTENTION
        for kernel in (BUCKETS, FLEX)
    ]
    results = list(rehearse(cases_of_attention))
    for tokens, buckets, flex in zip(ATTENTION, results[::2], results[1::2], strict=True):
        cells = [result[key] / 1e6 for result in (buckets, flex) for key in ("kept", "peak")]
        print(f"{f'{tokens} tokens':44} " + " ".join(f"{cell:>7,.0f} MB" for cell in cells))
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
