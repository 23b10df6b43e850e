"""Speed-up of each training optimization: one forward and backward pass over the same rows, in turn, in one process.

    python benchmarks/training_levers.py                                      # data/ticket_triage
    python benchmarks/training_levers.py --instructions instruction-data.json # rows without a shared prefix

Prints the CPU time of a pass (the fastest of the rounds) and the ratio to another line. The first lines add one optimization
after another, from plain padded float32 to what the training job does; the others remove one from that, or add one that the
job does not use.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_tasks import make_base, make_splits
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.training import fused, packing
from finetune_pipeline.training.model import build
from finetune_pipeline.training.prefix_tree import Segment
from finetune_pipeline.training.rows import encode_split
from finetune_pipeline.worker.process import keep_freed_memory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Variant:
    """One way to compute a pass. against: the name of the variant it is compared with."""

    name: str
    against: str
    dtype: torch.dtype = torch.bfloat16
    method: str = "lora"
    collator: str = "shared"
    fuse: bool = True
    all_logits: bool = False
    keep_dequantized: bool = False
    checkpointing: bool = False
    keep_freed_memory: bool = True
    rows: int = 8


FIRST = "plain: float32, padded, all logits"
OURS = "and fused LoRA, norms, dropout and loss (ours)"
VARIANTS = [
    Variant(FIRST, FIRST, torch.float32, collator="padded", fuse=False, all_logits=True),
    Variant("and bfloat16", FIRST, collator="padded", fuse=False, all_logits=True),
    Variant("and logits only from the first loss on", "and bfloat16", collator="padded", fuse=False),
    Variant(
        "and rows packed into one sequence", "and logits only from the first loss on", collator="packed", fuse=False
    ),
    Variant("and shared beginnings", "and rows packed into one sequence", fuse=False),
    Variant(OURS, "and shared beginnings"),
    Variant("ours in float32", OURS, torch.float32),
    Variant("ours without shared beginnings", OURS, collator="packed"),
    Variant("ours, padded", OURS, collator="padded"),
    Variant("ours, 4-bit base", OURS, method="qlora"),
    Variant("ours, 4-bit base kept dequantized", "ours, 4-bit base", method="qlora", keep_dequantized=True),
    Variant("ours with gradient checkpointing", OURS, checkpointing=True),
    Variant("ours, large blocks mapped anew (glibc's own limits)", OURS, keep_freed_memory=False),
    Variant("ours, 16 rows a pass (time per 8)", OURS, rows=16),
    Variant("ours, 32 rows a pass (time per 8)", OURS, rows=32),
]


def no_prefix_tree(rows: list[dict[str, Any]]) -> tuple[list[Segment], list[Segment]]:
    """In place of the prefix tree: every row is its own segment."""
    return [], [Segment(i, 0, len(row["ids"]), -1) for i, row in enumerate(rows)]


@contextlib.contextmanager
def keep_dequantized(enabled: bool) -> Iterator[None]:
    """Keep the weights dequantized from four bits in memory."""
    cache: dict[int, torch.Tensor] = {}
    dequantize = fused._weight

    def weight(layer: Any, dtype: torch.dtype) -> torch.Tensor:
        if id(layer) not in cache:
            cache[id(layer)] = dequantize(layer, dtype)
        return cache[id(layer)]

    with mock.patch.object(fused, "_weight", weight) if enabled else contextlib.nullcontext():
        yield


@dataclass
class Bench:
    """The rows, and models that are built once."""

    base: Path
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    models: dict[Any, Any] = field(default_factory=dict)

    def model(self, v: Variant) -> Any:
        key = (v.dtype, v.method, v.fuse, v.checkpointing)
        if key not in self.models:
            settings = {**self.settings, "method": v.method, "gradient_checkpointing": v.checkpointing}
            model = build(self.base, settings, v.dtype, CPU, None, "").model
            if v.checkpointing:
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            supported, reason = packing.supports_shared_prefix(model)
            if not supported:
                raise RuntimeError(reason)
            if v.fuse:
                fused.fuse(model)
            self.models[key] = model.train()
        return self.models[key]

    def step(self, v: Variant) -> Callable[[], None]:
        """Return a function that makes one pass over the variant's rows."""
        model, rows = self.model(v), self.rows[: v.rows]

        def run() -> None:
            if v.collator == "padded":
                batch = packing.padded_batch(rows)
            else:
                tree = packing.prefix_tree if v.collator == "shared" else no_prefix_tree
                with mock.patch.object(packing, "prefix_tree", tree):
                    batch = packing.packed_collator(model)(rows)
            if v.all_logits:
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                logits = logits[:, -batch["logits_to_keep"] :].flatten(0, 1)[batch["logit_positions"]]
            else:
                logits = packing.logits_to_learn(model, batch)
            if v.fuse:
                losses = fused.token_losses(logits, batch["labels"])
            else:
                losses = torch.nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="none")
            losses.mean().backward()
            model.zero_grad(set_to_none=True)

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=Path, help="JSON file of {instruction, input, output} rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--only", nargs="*", help="parts of the names of the lines to measure")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="training-levers-"))
    base = make_base(folder, "chatml" if arguments.instructions else None)
    train, _, settings = make_splits(folder, arguments.instructions)
    tokenizer = load_tokenizer(base)
    encoded = encode_split(tokenizer, read_examples(train)[:32], 1 << 20, "fail").rows
    rows = [{"id": r.id, "ids": r.ids, "loss": r.loss} for r in encoded]
    bench = Bench(base, {**settings, "unquantized_epochs": 0.0}, rows)
    chosen = [v for v in VARIANTS if not arguments.only or any(part in v.name for part in arguments.only)]
    times: dict[str, list[float]] = {v.name: [] for v in chosen}
    for turn in range(arguments.rounds + 1):
        for variant in chosen:
            keep_freed_memory(*(() if variant.keep_freed_memory else (32 << 20, 64 << 20)))
            v = variant if turn else replace(variant, rows=2)  # the first turn is a warm-up
            with keep_dequantized(v.keep_dequantized):
                run = bench.step(v)
                if v.keep_dequantized:
                    run()
                began = time.process_time()
                run()
                seconds = time.process_time() - began
            if turn:
                times[v.name].append(seconds * 8 / v.rows)
    best = {name: min(values) for name, values in times.items()}
    print(f"{len(rows[:8])} rows of {sum(len(r['ids']) for r in rows[:8]) / 8:.0f} tokens, {arguments.rounds} rounds")
    print(f"{'':50} {'CPU s':>7} {'times as fast':>14} as")
    for v in chosen:
        gain = f"{best[v.against] / best[v.name]:.2f}" if v.against in best else "?"
        print(f"{v.name:50} {best[v.name]:7.2f} {gain:>14} {v.against}")


if __name__ == "__main__":
    main()
