"""Whether this pipeline works on a GPU, as Markdown: kernels, memory against the plan, speed against plain TRL, merges, answers.

    python benchmarks/gpu_acceptance.py > CARD.md     # at most 8 minutes on one GPU; exit code 2 without one
    python benchmarks/gpu_acceptance.py --tiny        # every path with tiny models, on the CPU too; its speeds mean nothing

Needs about 25 GB of disk for models with random weights, which are deleted at the end. They have the tokenizer of the bundled
model and the shape of Mistral-7B or smaller ones. Rows: a shared system prompt of about 300 tokens, texts of 20 to 120 words,
answers of one word, from a small vocabulary with a fixed seed. Plain TRL is the guide's script of training_throughput.py
(float16, 4 rows a batch, with gradient checkpointing, which this size needs); ours is the real training job with its
defaults. `tokens/s` counts the tokens of the rows, so what packing saves counts. `MFU`: 4 operations per parameter and token
(frozen weights have no gradients), relative to a large matrix product in the same precision on the same GPU.
The adapter of the smallest model is merged and compared as the step `merged_model` does. Exit code 1: a kernel or the merge is
wrong, or memory is more than 25% off the plan.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_kernels import check_kernels
from benchmarks.training_tasks import make_base, run_job
from benchmarks.training_throughput import in_child, ours
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models.chat import common_prefix, encode_prompt
from finetune_pipeline.models.hardware import cpu_model
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.loading import pick_device, resolve_precision
from finetune_pipeline.planning.answering import PromptBatch, answering_memory
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.training import TrainingSpec


def shape_of(hidden: int, inner: int, layers: int, heads: int, key_heads: int, head: int) -> dict[str, int]:
    """Return the settings of a Mistral model of this shape."""
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
MEMORY_OFF = 0.25
NEW_TOKENS = 32
WORDS = "ticket order pump valve invoice login page error phone team plan site crew".split()


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """Save a random bfloat16 model with the bundled model's tokenizer, in the transformers format."""
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
    """Write examples in the pipeline's own format."""
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
    """Floating-point operations per second of a large matrix product on this device."""
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
    """Writes the report's tables. accepted: whether every check passed so far."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        import torch

        self.folder, self.tiny, self.accepted = folder, tiny, True
        self.device = pick_device()
        self.gpu = self.device.type == "cuda"
        self.precision = resolve_precision("auto", self.device)
        self.card = torch.cuda.get_device_name(0) if self.gpu else f"no GPU: {cpu_model()}, speeds mean nothing"
        self.peak = matmul_flops(self.device, self.precision)
        print(f"# {self.card}\n")
        print(f"{date.today()}, torch {torch.__version__}, {str(self.precision).removeprefix('torch.')}; ", end="")
        print(f"a large matrix product: {self.peak / 1e12:.3g} TFLOPS\n")

    def rows(self, name: str, number: int, seed: int) -> Path:
        return make_rows(self.folder / f"{name}.jsonl", number, 30 if self.tiny else 300, seed)

    def check_memory(self, measured: float, planned: float) -> str:
        """How far the plan is off. On a CPU it decides nothing: a tiny model's peak is that of the libraries."""
        if not measured:
            return "–"
        off = planned / measured - 1
        self.accepted &= not self.gpu or abs(off) <= MEMORY_OFF
        return f"{off:+.0%}"

    def kernels(self) -> None:
        table("Kernels", "kernel", "right", "difference", "limit", "s")
        for kernel in check_kernels(self.device, self.precision):
            self.accepted &= kernel.right
            difference = "–" if kernel.difference is None else f"{kernel.difference:.1e}"
            row(kernel.name, kernel.problem or kernel.right, difference, kernel.limit, kernel.seconds)

    def train(self, model: Path, name: str, rows: int, methods: tuple[str, ...], with_trl: bool) -> None:
        train, validation = self.rows("train", rows, 1), self.rows("validation", 8, 2)
        for method in methods:
            settings = TrainingSpec(method=method, epochs=1, unquantized_epochs=0, evals_per_epoch=1)
            planner = Planner(model, read_examples(train), read_examples(validation), self.device.type)
            planned = planner.memory(settings).total / 2**20
            tokens = planner.rows("train", settings).tokens
            place = self.folder / name / method
            measured = {"ours": ours(model, train, validation, settings, place / "ours", threads=1)}
            if with_trl:
                job = {"base": str(model), "train": str(train), "epochs": 1, "seed": 0, "out": str(place / "trl")}
                job |= {"four_bit": method == "qlora", "defaults": False, "gradient_checkpointing": True}
                measured["plain TRL"] = in_child("baseline", job, place / "trl", threads=1)
            for trainer, figures in measured.items():
                seconds = figures["train_seconds"]
                peak = figures.get("peak_gpu_memory_mib" if self.gpu else "peak_memory_mib", 0) or 0
                share = 4 * planner.shape.parameters * tokens / seconds / self.peak
                mfu = "–" if self.tiny else f"{share:.0%}"
                ratio = f"{measured['plain TRL']['train_seconds'] / seconds:.2f}" if with_trl else "–"
                plan = (f"{planned:.0f}", self.check_memory(peak, planned)) if trainer == "ours" else ("–", "–")
                row(f"{name} {method}", trainer, f"{tokens / seconds:.0f}", mfu, ratio, f"{peak:.0f}", *plan)

    def merge(self, model: Path, name: str, method: str) -> None:
        table("Merge", "model", "right", "mean KL, nats per token", "same answers", "stored in", "s", "peak MiB")
        place = self.folder / name / method
        job = MergeJob(
            base=model,
            adapter=place / "ours/out/adapter",
            examples=self.folder / "validation.jsonl",
            labels=[],
            max_new_tokens=8,
            batch_size=4,
            out=place / "merged",
            parity_rows=8,
        )
        began = time.perf_counter()
        measured = run_job(job, place / "merge")
        seconds, facts = time.perf_counter() - began, read_json(place / "merged/result.json")
        parity = facts["parity"]
        self.accepted &= bool(parity["right"])
        shown = f"{parity['mean_kl']:.1e}", f"{parity['same_greedy_share']:.0%}", facts["dtype"], f"{seconds:.0f}"
        peak = measured.get("peak_gpu_memory_mib" if self.gpu else "peak_memory_mib") or 0
        row(f"{name} {method}", parity["right"], *shown, f"{peak:.0f}" if peak else "–")

    def answers(self, model: Path) -> None:
        import torch

        table(f"Answers of {NEW_TOKENS} tokens", "rows at once", "new tokens/s", "peak MiB", "plan MiB", "off")
        answerer = Answerer(model)
        prompts = [
            encode_prompt(answerer.tokenizer, e.prompt_messages) for e in read_examples(self.rows("answers", 32, 3))
        ]
        answerer.answers(prompts[:2], None, 2, 2)  # warm-up
        shared = common_prefix(prompts)
        width = compute_width("auto", self.device.type)
        for size in (1, 4, 16, 32):
            if self.gpu:
                torch.cuda.reset_peak_memory_stats()
            began, batch_prompts = time.perf_counter(), prompts[:size]
            answers = answerer.answers(batch_prompts, None, NEW_TOKENS, size)
            seconds = time.perf_counter() - began
            peak = torch.cuda.max_memory_allocated() / 2**20 if self.gpu else 0.0
            batch = PromptBatch(size, max(map(len, batch_prompts)), shared, NEW_TOKENS, 0)
            planned = answering_memory(model_shape(model), batch, width=width, device=self.device.type).total / 2**20
            speed = sum(answer.new_tokens for answer in answers) / seconds
            row(
                size, f"{speed:.0f}", f"{peak:.0f}" if peak else "–", f"{planned:.0f}", self.check_memory(peak, planned)
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available() and not arguments.tiny:
        print("no GPU here: nothing was measured (--tiny runs the same code with tiny models)")
        return 2
    began = time.monotonic()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="gpu-acceptance-"))
    report = Acceptance(folder, arguments.tiny)
    report.kernels()
    table("Training", "model", "trainer", "tokens/s", "MFU", "times as fast", "peak MiB", "plan MiB", "off")
    shapes = TINY if arguments.tiny else SHAPES
    first, last = next(iter(shapes)), list(shapes)[-1]
    for name, shape in shapes.items():
        model = make_model(folder / "models" / name, shape)
        rows = 32 if arguments.tiny or name != last else arguments.rows
        report.train(model, name, rows, ("qlora", "lora") if name == last else ("qlora",), with_trl=name == last)
        if name == last:
            report.answers(model)
        if name != first:
            shutil.rmtree(model)
    report.merge(folder / "models" / first / "random", first, "qlora")
    print(f"\n{'Accepted' if report.accepted else 'NOT accepted'}, after {time.monotonic() - began:.0f} s.")
    return 0 if report.accepted else 1


if __name__ == "__main__":
    sys.exit(main())
