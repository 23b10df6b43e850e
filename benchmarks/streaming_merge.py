"""Merging an adapter a few rows at a time, against PEFT's ``merge_and_unload``: memory, time, and whether the bits agree.

    python benchmarks/streaming_merge.py

Two checkpoints of random bfloat16 weights are written on the spot into a temporary folder, each with a random adapter
(rank 16 on all linear layers, float32), and deleted afterwards:

1b   the shape of Llama-3.2-1B (2.5 GB, tied head), merged in both ways; every tensor of the two results is compared
7b   the shape of Mistral-7B (14.5 GB in three files, 29 GB on disk with the merge), merged in pieces only

Every figure is of a fresh process: peak of its resident memory (VmHWM), seconds of wall clock and of CPU.
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
_SHARD = 5 << 30
_POOL = 1 << 23


def linear_layers(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Name of every adapted layer to (outputs, inputs)."""
    width, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    keys = shape["num_key_value_heads"] * head
    one = {
        "self_attn.q_proj": (shape["num_attention_heads"] * head, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, shape["num_attention_heads"] * head),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    return {f"model.layers.{i}.{n}": s for i in range(shape["num_hidden_layers"]) for n, s in one.items()}


def tensors(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint, in the order of the layers."""
    width, vocabulary = shape["hidden_size"], shape["vocab_size"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    found |= {f"{n}.weight": s for n, s in linear_layers(shape).items()}
    for i in range(shape["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{i}.{norm}.weight"] = (width,)
    found["model.norm.weight"] = (width,)
    if not shape["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, width)
    return found


def write_base(folder: Path, shape: dict[str, Any]) -> None:
    """The random checkpoint, in files of up to 5 GB, written a piece at a time."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape, indent=1))
    generator = torch.Generator().manual_seed(0)
    pool = (torch.randn(_POOL, generator=generator) * 0.02).bfloat16()
    shards: list[dict[str, StoredTensor]] = [{}]
    for name, size in tensors(shape).items():
        planned = new_tensor("BF16", size)
        if sum(p.size for p in shards[-1].values()) + planned.size > _SHARD:
            shards.append({})
        shards[-1][name] = planned
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]

    def random_pieces(size: int) -> Iterator[torch.Tensor]:
        left = size // 2
        while left:
            start = int(torch.randint(0, _POOL // 2, (1,), generator=generator))
            piece = pool[start : start + min(left, _POOL // 2)]
            yield piece
            left -= len(piece)

    sizes = {name: shape.size for shard in shards for name, shape in shard.items()}
    for file, shard in zip(names, shards, strict=True):
        write_tensors(folder / file, shard, lambda name: random_pieces(sizes[name]), {"format": "pt"})
    index = {n: file for file, shard in zip(names, shards, strict=True) for n in shard}
    total = sum(p.size for shard in shards for p in shard.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def write_adapter(folder: Path, shape: dict[str, Any]) -> None:
    """A random adapter as PEFT would have saved it."""
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
    """What people do otherwise: the whole model in memory, in its own type."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, use_safetensors=True)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out / "model")


def measured(way: str, folder: Path, out: Path) -> dict[str, float]:
    """Merge in a process of its own. Returns {mib, seconds, cpu_seconds}."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--out", str(out)]
    quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def child(way: str, folder: Path, out: Path) -> None:
    """One merge, measured from within."""
    if way == "peft":  # the time to import libraries is no time to merge
        import peft  # noqa: F401
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    began, before = time.monotonic(), os.times()
    (merge if way == "pieces" else by_peft)(folder / "base", folder / "adapter", out)
    seconds, used = time.monotonic() - began, os.times()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    mib = int(status["VmHWM"].split()[0]) / 1024
    cpu = used.user + used.system - before.user - before.system
    print(json.dumps({"mib": mib, "seconds": seconds, "cpu_seconds": cpu}))


def compare(one: Path, two: Path) -> tuple[int, int, int]:
    """(tensors, numbers, numbers with other bits) of two model folders."""
    left, right = Checkpoint(one), Checkpoint(two)
    if set(left.place) != set(right.place):
        raise SystemExit(f"other tensors: {sorted(set(left.place) ^ set(right.place))[:5]}")
    numbers = different = 0
    for name, file in left.place.items():
        for rows in file.blocks(name):
            a, b = file.rows(name, *rows), right.place[name].rows(name, *rows)
            numbers += a.numel()
            different += int((a.view(torch.int16) != b.view(torch.int16)).sum())
    return len(left.place), numbers, different


def changed_share(base: Path, merged: Path) -> float:
    """Share of the numbers that the merge changed: that something happened at all."""
    _, numbers, different = compare(base, merged)
    return different / numbers


def machine() -> str:
    """Processor, threads and versions, in a line."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [row.split(":", 1)[1].strip() for row in info.splitlines() if row.startswith("model name")]
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "peft", "safetensors"))
    return (
        f"{names[0] if names else 'processor'}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}"
    )


def line(what: str, told: dict[str, float]) -> None:
    print(
        f"  {what:<28}{told['mib']:>8.0f} MiB{told['seconds']:>9.1f} s{told['cpu_seconds']:>9.1f} s of CPU", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), action="append", help="Only this one.")
    parser.add_argument("--way", choices=["pieces", "peft"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        child(arguments.way, arguments.folder, arguments.out)
        return
    print(machine())
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
            own = measured("pieces", root, root / "pieces")
            line("in pieces", own)
            bound = 3 * largest / 2**20 + 300
            print(f"  bound (3 x largest + 300 MiB) {bound:.0f} MiB: {'kept' if own['mib'] < bound else 'BROKEN'}")
            share = changed_share(root / "base", root / "pieces" / "model")
            print(f"  numbers changed by the merge  {share:.1%}")
            if size == "1b":
                peft = measured("peft", root, root / "peft")
                line("PEFT merge_and_unload", peft)
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
