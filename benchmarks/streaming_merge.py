"""Merging an adapter a few rows at a time against PEFT's ``merge_and_unload``: memory, time, and whether the bits agree.

    python benchmarks/streaming_merge.py [--size 1b]

Two checkpoints of random bfloat16 weights, each with a random adapter (rank 16 on all linear layers, float32), are written to
a temporary folder and deleted afterwards:

1b   the shape of Llama-3.2-1B (2.5 GB, tied head), merged in both ways; every tensor of the two results is compared
7b   the shape of Mistral-7B (14.5 GB in three files, 29 GB on disk with the merge), merged in pieces only

Every merge is a fresh process: peak of its resident memory (VmHWM), seconds of wall clock and CPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.models.hardware import cpu_model
from finetune_pipeline.models.merging import merge
from finetune_pipeline.models.model_files import INDEX, StoredTensor
from finetune_pipeline.models.streaming import new_tensor, write_tensors
from finetune_pipeline.models.weights import Checkpoint

SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
    "7b": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    },
}
RANK, ALPHA = 16, 32
LIMIT_GIB = 2.5
_SHARD_BYTES = 5 << 30
_POOL_SIZE = 1 << 23
"""Random numbers that the weights are cut from."""


def linear_layers(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every adapted layer by name."""
    width, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    keys = shape["num_key_value_heads"] * head
    of_layer = {
        "self_attn.q_proj": (shape["num_attention_heads"] * head, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, shape["num_attention_heads"] * head),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    return {f"model.layers.{i}.{n}": s for i in range(shape["num_hidden_layers"]) for n, s in of_layer.items()}


def tensors(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the checkpoint, in the order of the layers."""
    width, vocabulary = shape["hidden_size"], shape["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    shapes |= {f"{n}.weight": s for n, s in linear_layers(shape).items()}
    for i in range(shape["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{norm}.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not shape["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, width)
    return shapes


def write_base(folder: Path, shape: dict[str, Any]) -> None:
    """Write the random checkpoint in files of up to 5 GB, a piece at a time."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape, indent=1))
    generator = torch.Generator().manual_seed(0)
    pool = (torch.randn(_POOL_SIZE, generator=generator) * 0.02).bfloat16()
    shards: list[dict[str, StoredTensor]] = [{}]
    for name, size in tensors(shape).items():
        tensor = new_tensor("BF16", size)
        if sum(p.size for p in shards[-1].values()) + tensor.size > _SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]

    def random_pieces(size: int) -> Iterator[torch.Tensor]:
        left = size // 2
        while left:
            start = int(torch.randint(0, _POOL_SIZE // 2, (1,), generator=generator))
            piece = pool[start : start + min(left, _POOL_SIZE // 2)]
            yield piece
            left -= len(piece)

    sizes = {name: tensor.size for shard in shards for name, tensor in shard.items()}
    for file, shard in zip(names, shards, strict=True):
        write_tensors(folder / file, shard, lambda name: random_pieces(sizes[name]), {"format": "pt"})
    index = {n: file for file, shard in zip(names, shards, strict=True) for n in shard}
    total = sum(p.size for shard in shards for p in shard.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def write_adapter(folder: Path, shape: dict[str, Any]) -> None:
    """Write a random adapter as PEFT saves it."""
    folder.mkdir(parents=True)
    layers = linear_layers(shape)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": sorted({n.rpartition(".")[2] for n in layers}),
        "base_model_name_or_path": "random",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    stored = {}
    for name, (outputs, inputs) in layers.items():
        stored[f"base_model.model.{name}.lora_A.weight"] = new_tensor("F32", (RANK, inputs))
        stored[f"base_model.model.{name}.lora_B.weight"] = new_tensor("F32", (outputs, RANK))
    generator = torch.Generator().manual_seed(1)
    write_tensors(
        folder / "adapter_model.safetensors",
        stored,
        lambda name: [torch.randn(stored[name].shape, generator=generator) * 0.01],
        {"format": "pt"},
    )


def by_peft(base: Path, adapter: Path, out: Path) -> None:
    """Merge the usual way: with the whole model in memory, in its own type."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, use_safetensors=True)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out / "model")


def measure(way: str, folder: Path, out: Path) -> dict[str, float]:
    """Merge in a new process. Returns {mib, seconds, cpu_seconds}."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--out", str(out)]
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(way: str, folder: Path, out: Path) -> None:
    """Merge in this process and print the measurements."""
    if way == "peft":  # importing the libraries does not count
        import peft  # noqa: F401
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    began, before = time.monotonic(), os.times()
    (merge if way == "pieces" else by_peft)(folder / "base", folder / "adapter", out)
    seconds, after = time.monotonic() - began, os.times()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mib = int(status["VmHWM"].split()[0]) / 1024
    cpu = after.user + after.system - before.user - before.system
    print(json.dumps({"mib": mib, "seconds": seconds, "cpu_seconds": cpu}))


def compare(first: Path, second: Path) -> tuple[int, int, int]:
    """Compare two model folders. Returns the counts of tensors, numbers, and numbers whose bits differ."""
    left, right = Checkpoint(first), Checkpoint(second)
    if set(left.place) != set(right.place):
        raise SystemExit(f"different tensors: {sorted(set(left.place) ^ set(right.place))[:5]}")
    numbers = different = 0
    for name, file in left.place.items():
        for rows in file.blocks(name):
            a, b = file.rows(name, *rows), right.place[name].rows(name, *rows)
            numbers += a.numel()
            different += int((a.view(torch.int16) != b.view(torch.int16)).sum())
    return len(left.place), numbers, different


def print_cost(title: str, cost: dict[str, float]) -> None:
    times = f"{cost['seconds']:>9.1f} s{cost['cpu_seconds']:>9.1f} s of CPU"
    print(f"  {title:<28}{cost['mib']:>8.0f} MiB{times}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), action="append", help="only this one")
    parser.add_argument("--way", choices=["pieces", "peft"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        child(arguments.way, arguments.folder, arguments.out)
        return
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "peft", "safetensors"))
    print(f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}")
    for size in arguments.size or sorted(SHAPES):
        shape = SHAPES[size]
        total = sum(new_tensor("BF16", s).size for s in tensors(shape).values())
        largest = max(new_tensor("BF16", s).size for s in tensors(shape).values())
        root = Path(tempfile.mkdtemp(prefix="streaming-merge-"))
        try:
            if shutil.disk_usage(root).free < 3 * total:
                raise SystemExit(f"{size} needs {3 * total / 1e9:.0f} GB of disk below {root.parent} (set TMPDIR)")
            write_base(root / "base", shape)
            write_adapter(root / "adapter", shape)
            name = shape["architectures"][0].removesuffix("ForCausalLM")
            print(f"{size}: {name} shape, {total / 1e9:.2f} GB in bfloat16, largest tensor {largest / 2**20:.0f} MiB")
            own = measure("pieces", root, root / "pieces")
            print_cost("in pieces", own)
            bound = 3 * largest / 2**20 + 300
            print(f"  bound (3 x largest + 300 MiB) {bound:.0f} MiB: {'kept' if own['mib'] < bound else 'BROKEN'}")
            _, numbers, changed = compare(root / "base", root / "pieces" / "model")
            print(f"  numbers changed by the merge  {changed / numbers:.1%}")
            if size == "1b":
                peft = measure("peft", root, root / "peft")
                print_cost("PEFT merge_and_unload", peft)
                count, numbers, different = compare(root / "pieces" / "model", root / "peft" / "model")
                print(
                    f"  PEFT / in pieces              {peft['mib'] / own['mib']:.1f} x memory, "
                    f"{peft['seconds'] / own['seconds']:.2f} x time, "
                    f"{peft['cpu_seconds'] / own['cpu_seconds']:.2f} x CPU"
                )
                print(f"  {count} tensors, {numbers:,} numbers: {different} with other bits than PEFT's")
            else:
                print(f"  target {LIMIT_GIB} GiB: {'kept' if own['mib'] < LIMIT_GIB * 1024 else 'BROKEN'}")
        finally:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
