"""QLoRA and LoRA on a GPU, on a model of the Mistral-7B shape with random weights, against plain TRL on the same card.

    python benchmarks/gpu_training.py            # ends with code 2 where there is no GPU
    python benchmarks/gpu_training.py --tiny     # every path with a tiny model, on the CPU too; its figures mean nothing

Takes about 15 GB of disk for the model, which is deleted at the end. Vocabulary and tokenizer are those of the bundled
model, everything else has Mistral-7B's shape. Rows: a system prompt of about 300 tokens that all share, texts of 20 to
120 words, answers of one word; every word from a small vocabulary, seed fixed. Plain TRL is the script of
benchmarks/training_throughput.py (float16, 4 rows a batch, gradient checkpointing as it is needed at this size); ours is
the real training job with its defaults. Printed: rows a second of the training loop (ours with its validation passes),
peak memory of the card.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from training_tasks import make_base
from training_throughput import in_child, ours

from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.spec.training import TrainingSpec

MISTRAL = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
WORDS = (
    "ticket",
    "order",
    "pump",
    "valve",
    "invoice",
    "login",
    "page",
    "error",
    "phone",
    "team",
    "plan",
    "site",
    "crew",
)


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """A random model with the bundled one's tokenizer, in the transformers format, in bfloat16."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(model_folder(make_base(folder)))
    config = MistralConfig(
        vocab_size=len(tokenizer),
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=4096,
        **shape,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = MistralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    out = folder / "random"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return out


def make_rows(path: Path, number: int, prompt_words: int, seed: int) -> Path:
    """Examples in the pipeline's own format."""
    draw = random.Random(seed)
    prompt = " ".join(random.Random(0).choices(WORDS, k=prompt_words))
    with path.open("w", encoding="utf-8") as file:
        for i in range(number):
            text = " ".join(draw.choices(WORDS, k=draw.randint(20, 120)))
            turns = [("system", prompt), ("user", f"{i} {text}"), ("assistant", draw.choice(WORDS))]
            row: dict[str, Any] = {
                "id": f"row{seed}-{i}",
                "messages": [{"role": role, "content": content} for role, content in turns],
                "label": None,
                "group": None,
                "origin": "synthetic",
                "source": {"file": path.name, "line": i + 1},
                "tags": [],
            }
            file.write(json.dumps(row) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and not given.tiny:
        print("no GPU here: nothing was measured (--tiny runs the same code with a tiny model)")
        return 2
    card = (
        torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU: figures of a tiny model mean nothing"
    )
    folder = given.folder or Path(tempfile.mkdtemp(prefix="gpu-training-"))
    rows = min(given.rows, 32) if given.tiny else given.rows
    model = make_model(folder, TINY if given.tiny else MISTRAL)
    train = make_rows(folder / "train.jsonl", rows, 30 if given.tiny else 300, seed=1)
    validation = make_rows(folder / "validation.jsonl", 8, 30 if given.tiny else 300, seed=2)
    print(f"{card}; torch {torch.__version__}; {rows} rows")
    print(f"{'':6} {'':10} {'rows/s':>8} {'ratio':>6} {'GPU MiB':>9}")
    for method in ("qlora", "lora"):
        settings = TrainingSpec(method=method, epochs=1, unquantized_epochs=0, evals_per_epoch=1).model_dump()
        job = {
            "base": str(model),
            "train": str(train),
            "epochs": 1,
            "seed": 0,
            "four_bit": method == "qlora",
            "gradient_checkpointing": True,
            "out": str(folder / method / "trl"),
        }
        theirs = in_child("baseline", job, folder / method / "trl", threads=1)
        own = ours(model, train, validation, settings, folder / method / "ours", threads=1)
        for name, measured in (("plain TRL", theirs), ("ours", own)):
            seconds, memory = measured["train_seconds"], measured.get("peak_gpu_memory_mib", 0)
            ratio = theirs["train_seconds"] / seconds
            print(f"{method:6} {name:10} {rows / seconds:8.2f} {ratio:6.2f} {memory:9.0f}")
    shutil.rmtree(folder / "random")
    return 0


if __name__ == "__main__":
    sys.exit(main())
