"""Whether this pipeline works on a card, as Markdown: kernels, memory against the plan, speed against plain TRL, answers.

    python benchmarks/gpu_acceptance.py > CARD.md     # at most 8 minutes on one card; ends with code 2 where there is no GPU
    python benchmarks/gpu_acceptance.py --tiny        # every path with tiny models, on the CPU too; its speeds mean nothing

Takes about 25 GB of disk for models with random weights, which are deleted at the end. Vocabulary and tokenizer are those of
the bundled model, everything else has the shape of Mistral-7B or of smaller ones. Rows: a system prompt of about 300 tokens
that all share, texts of 20 to 120 words, answers of one word; every word from a small vocabulary, seed fixed. Plain TRL is the
script of benchmarks/training_throughput.py (float16, 4 rows a batch, gradient checkpointing as it is needed at this size);
ours is the real training job with its defaults. `tokens/s`: of the rows as they are, so what packing saves counts. `MFU`: 4
operations for a parameter and token (the frozen weights have no gradients), against a large product of matrices in the
precision of the training, timed on the same card. Exit code 1: a kernel is wrong, or memory is further from the plan than
15%.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from training_tasks import make_base
from training_throughput import in_child, ours

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.models.hardware import cpu_model
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.loading import pick_device, resolve_precision
from finetune_pipeline.planning.answering import PromptBatch, answering_memory
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.worker.kernels import check_kernels


def shape_of(hidden: int, inner: int, layers: int, heads: int, key_heads: int, head: int) -> dict[str, int]:
    """Settings of a Mistral of that shape."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head,
    }


SHAPES = {
    "0.4B": shape_of(1024, 2816, 24, 16, 8, 64),
    "1B": shape_of(2048, 5632, 22, 32, 8, 64),
    "3B": shape_of(3072, 8192, 28, 24, 8, 128),
    "7B": shape_of(4096, 14336, 32, 32, 8, 128),
}
TINY = {name: shape_of(64 * n, 128 * n, 2, 4, 2, 16) for n, name in enumerate(SHAPES, 1)}
MEMORY_OFF = 0.15
NEW_TOKENS = 32
WORDS = "ticket order pump valve invoice login page error phone team plan site crew".split()


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """A random model with the bundled one's tokenizer, in the transformers format, in bfloat16."""
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(make_base(folder.parent)))
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


def matmul_flops(device: Any, precision: Any) -> float:
    """Operations a second of a large product of matrices: what this device can do."""
    import torch

    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=precision) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def table(title: str, *columns: str) -> None:
    print(f"\n## {title}\n")
    row(*columns)
    row(*("---" for _ in columns))


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


class Acceptance:
    """Writes the report's tables and remembers whether all is well."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        import torch

        self.folder, self.tiny, self.well = folder, tiny, True
        self.device = pick_device()
        self.gpu = self.device.type == "cuda"
        self.precision = resolve_precision("auto", self.device)
        self.card = torch.cuda.get_device_name(0) if self.gpu else f"no GPU: {cpu_model()}, speeds mean nothing"
        self.peak = matmul_flops(self.device, self.precision)
        print(f"# {self.card}\n")
        print(f"{date.today()}, torch {torch.__version__}, {str(self.precision).removeprefix('torch.')}; ", end="")
        print(f"a large product of matrices: {self.peak / 1e12:.3g} TFLOPS\n")

    def rows(self, name: str, number: int, seed: int) -> Path:
        return make_rows(self.folder / f"{name}.jsonl", number, 30 if self.tiny else 300, seed)

    def near(self, measured: float, planned: float) -> str:
        """How far the plan is off. On the CPU a tiny model's peak is that of the libraries: it decides nothing."""
        if not measured:
            return "–"
        off = planned / measured - 1
        self.well &= not self.gpu or abs(off) <= MEMORY_OFF
        return f"{off:+.0%}"

    def kernels(self) -> None:
        table("Kernels", "kernel", "right", "difference", "limit", "s")
        for kernel in check_kernels(self.device, self.precision):
            self.well &= kernel.right
            difference = "–" if kernel.difference is None else f"{kernel.difference:.1e}"
            row(kernel.name, kernel.problem or kernel.right, difference, kernel.limit, kernel.seconds)

    def train(self, model: Path, name: str, rows: int, methods: tuple[str, ...], against: bool) -> None:
        train, validation = self.rows("train", rows, 1), self.rows("validation", 8, 2)
        for method in methods:
            settings = TrainingSpec(method=method, epochs=1, unquantized_epochs=0, evals_per_epoch=1).model_dump()
            planner = Planner(model, read_examples(train), read_examples(validation), self.device.type)
            planned = planner.memory(settings).total / 2**20
            tokens = planner.rows("train", settings).tokens
            place = self.folder / name / method
            measured = {"ours": ours(model, train, validation, settings, place / "ours", threads=1)}
            if against:
                job = {"base": str(model), "train": str(train), "epochs": 1, "seed": 0, "out": str(place / "trl")}
                job |= {"four_bit": method == "qlora", "defaults": False, "gradient_checkpointing": True}
                measured["plain TRL"] = in_child("baseline", job, place / "trl", threads=1)
            for who, figures in measured.items():
                seconds = figures["train_seconds"]
                peak = figures.get("peak_gpu_memory_mib" if self.gpu else "peak_memory_mib", 0) or 0
                share = 4 * planner.shape.parameters * tokens / seconds / self.peak
                use = "–" if self.tiny else f"{share:.0%}"
                ratio = f"{measured['plain TRL']['train_seconds'] / seconds:.2f}" if against else "–"
                plan = (f"{planned:.0f}", self.near(peak, planned)) if who == "ours" else ("–", "–")
                row(f"{name} {method}", who, f"{tokens / seconds:.0f}", use, ratio, f"{peak:.0f}", *plan)

    def answers(self, model: Path) -> None:
        import torch

        table(f"Answers of {NEW_TOKENS} tokens", "rows at once", "new tokens/s", "peak MiB", "plan MiB", "off")
        asked = Answerer(model)
        prompts = [encode_prompt(asked.tokenizer, e.prompt_messages) for e in read_examples(self.rows("asked", 32, 3))]
        asked.answers(prompts[:2], None, 2, 2)
        shared = next(i for i in range(min(map(len, prompts))) if len({p[i] for p in prompts}) > 1)
        width = compute_width("auto", self.device.type)
        for size in (1, 4, 16, 32):
            if self.gpu:
                torch.cuda.reset_peak_memory_stats()
            began, some = time.perf_counter(), prompts[:size]
            made = asked.answers(some, None, NEW_TOKENS, size)
            seconds = time.perf_counter() - began
            peak = torch.cuda.max_memory_allocated() / 2**20 if self.gpu else 0.0
            batch = PromptBatch(size, max(map(len, some)), shared, NEW_TOKENS, 0)
            planned = answering_memory(model_shape(model), batch, width=width, device=self.device.type).total / 2**20
            speed = sum(a.new_tokens for a in made) / seconds
            row(size, f"{speed:.0f}", f"{peak:.0f}" if peak else "–", f"{planned:.0f}", self.near(peak, planned))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and not given.tiny:
        print("no GPU here: nothing was measured (--tiny runs the same code with tiny models)")
        return 2
    began = time.monotonic()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="gpu-acceptance-"))
    report = Acceptance(folder, given.tiny)
    report.kernels()
    table("Training", "model", "who", "tokens/s", "MFU", "times as fast", "peak MiB", "plan MiB", "off")
    shapes = TINY if given.tiny else SHAPES
    last = list(shapes)[-1]
    for name, shape in shapes.items():
        model = make_model(folder / "models" / name, shape)
        rows = 32 if given.tiny or name != last else given.rows
        report.train(model, name, rows, ("qlora", "lora") if name == last else ("qlora",), against=name == last)
        if name == last:
            report.answers(model)
        shutil.rmtree(model)
    print(f"\n{'Accepted' if report.well else 'NOT accepted'}, after {time.monotonic() - began:.0f} s.")
    return 0 if report.well else 1


if __name__ == "__main__":
    sys.exit(main())
