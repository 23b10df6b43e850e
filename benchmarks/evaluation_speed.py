"""CPU cost of evaluation against the usual way, for the same answers.

    python benchmarks/evaluation_speed.py [--rows 40] [--only likelihoods long labels shots] [--precision float32]

Baseline of generation: one row at a time with `model.generate`, greedy, with the same limit of new tokens as ours (12 for
labels, as in the task; 50 elsewhere, as in tutorials). Baseline of label likelihoods: lm-evaluation-harness on the same
tokens, in batches of 8 sorted by length; it encodes prompt and label again for every label. The baselines' model is as
transformers loads it. Ours: evaluation.answering with its cache. Same weights (bundled model), rows, process, thread and
precision: float32, where texts must be equal and scores within 1e-4, or with `--precision serving` the one in which models
are judged, where the last bits depend on the batch layout, so that equal texts are only counted.

Without shots, the baseline of likelihoods reads fewer than 20 times our tokens (printed), so reading less cannot meet that
limit; it stays. Before the clocks start, both sides answer a few rows, since a virtual machine is slow on first use of memory.
CPU seconds count, since the machine may be shared. The base model is not trained on the task and does not stop, so both sides
write all new tokens.

Measures: finetune_pipeline/models/inference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_tasks import ROOT, make_base
from finetune_pipeline.engine.files import SeenFiles
from finetune_pipeline.evaluation import answering
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.predict import encode_labels
from finetune_pipeline.evaluation.prompts import with_turns
from finetune_pipeline.models.chat import common_prefix, encode_prompt
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.shared_reading import Ids
from finetune_pipeline.models.loading import inference_dtype
from finetune_pipeline.spec import load_task

LIMITS = {"labels": 8.0, "long answers": 3.0, "label likelihoods": 20.0, "label likelihoods, 4 shots": 20.0}
GUIDE_TOKENS = 50
LIKELIHOOD_BATCH = 8


@dataclass
class Cost:
    cpu: float = 0.0
    wall: float = 0.0


@contextmanager
def timed(cost: Cost) -> Iterator[None]:
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    cost.cpu += time.process_time() - cpu
    cost.wall += time.perf_counter() - wall


def rows_of(task: str, file: str, number: int) -> list[list[dict[str, str]]]:
    """Read evenly spaced chats of a shipped file."""
    lines = (ROOT / "data" / task / "raw" / file).read_text("utf-8").splitlines()
    chosen = [json.loads(lines[i * len(lines) // number]) for i in range(number)]
    return [row["messages"] for row in chosen]


@torch.no_grad()
def guide(model: Any, tokenizer: Any, prompts: list[Ids], cost: Cost, longest: int = GUIDE_TOKENS) -> list[str]:
    """Generate as tutorials do: a row at a time, at most `longest` new tokens."""
    texts = []
    with timed(cost):
        for prompt in prompts:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
            texts.append(tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True))
    return texts


def harness(model: Any, tokenizer: Any, prompts: list[Ids], labels: list[list[Ids]], cost: Cost) -> list[list[float]]:
    """Score labels with lm-evaluation-harness: every label after its prompt, which is encoded again."""
    harness_model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=LIKELIHOOD_BATCH)
    requests = [(("", ""), p, ids) for p, row_labels in zip(prompts, labels, strict=True) for ids in row_labels]
    with timed(cost):
        results = harness_model._loglikelihood_tokens(requests, disable_tqdm=True)
    scores = iter(score for score, _ in results)
    return [[next(scores) for _ in row_labels] for row_labels in labels]


def token_ratio(prompts: list[Ids], labels: list[list[Ids]]) -> float:
    """Tokens read when every label is encoded with its prompt, relative to reading nothing twice."""
    shared = common_prefix(prompts)
    repeated = sum(len(p) + len(ids) - 1 for p, row_labels in zip(prompts, labels, strict=True) for ids in row_labels)
    once = sum(len(p) - shared for p in prompts) + sum(len(ids) - 1 for row_labels in labels for ids in row_labels)
    return repeated / (shared + once)


class Parts:
    """Measures the CPU seconds of each part of our evaluation."""

    def __init__(self) -> None:
        self.cost: dict[str, Cost] = defaultdict(Cost)
        self._methods = {name: getattr(Reader, name) for name in ("__init__", "read", "greedy", "continuations")}

    def __enter__(self) -> Parts:
        for name, method in self._methods.items():
            setattr(Reader, name, self._timed(name, method))
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self._methods.items():
            setattr(Reader, name, method)

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with timed(self.cost[name]):
                return method(*args)

        return run

    def summary(self, whole: Cost) -> str:
        names = {"__init__": "shared prefix", "read": "rest of prompts", "greedy": "writing", "continuations": "labels"}
        parts = {names[k]: c.cpu for k, c in self.cost.items()}
        parts["everything else"] = whole.cpu - sum(parts.values())
        return ", ".join(f"{k} {v:.2f}" for k, v in parts.items())


class Bench:
    def __init__(self, base: Path, folder: Path, precision: str) -> None:
        self.base, self.folder, self.precision = base, folder, precision
        answerer = Answerer(base, precision=precision)
        self.model, self.tokenizer = answerer.model, answerer.tokenizer
        self.plain = AutoModelForCausalLM.from_pretrained(
            model_folder(base), dtype=inference_dtype(base, precision, torch.device("cpu"))
        ).eval()
        self.missed_limits: list[str] = []

    def encoded(self, chats: list[Any], shots: list[Any]) -> list[Ids]:
        turns = [m for shot in shots for m in shot if m["role"] != "system"]
        return [encode_prompt(self.tokenizer, with_turns(chat[:-1], turns)) for chat in chats]

    def ours(
        self, name: str, prompts: list[Ids], labels: Any, longest: int, batch: int, loaded: bool = True
    ) -> tuple[list[Answer], Cost, str]:
        """Answer as the product does, with its cache. `loaded`: the model is in memory already, as the baseline's is."""
        folder = self.folder / "cache"
        cache = AnswerCache(folder / f"{name}.sqlite", 64) if name else None
        answerer = Answerer(self.base, None, cache, SeenFiles(folder / "seen.json"), self.precision)
        if loaded:
            answerer.model, answerer.tokenizer = self.model, self.tokenizer
            _ = answerer.digest
        cost = Cost()
        with Parts() as parts, timed(cost):
            answers = answerer.answers(prompts, labels, longest, batch, "benchmark", name)
        return answers, cost, parts.summary(cost)

    def warm(self, prompts: list[Ids], labels: Any) -> None:
        """Run a batch of each kind on each side, untimed."""
        guide(self.plain, self.tokenizer, prompts[:2], Cost())
        harness(self.plain, self.tokenizer, prompts[:2], labels[:2], Cost())
        self.ours("", prompts[:16], labels[:16], 12, 16)

    def from_cache(self, name: str, prompts: list[Ids], labels: Any, longest: int, batch: int) -> Cost:
        """Answer again from the cache. No model may be loaded; its files are digested again."""
        (self.folder / "cache" / "seen.json").unlink(missing_ok=True)
        loader = answering.load_for_prediction
        answering.load_for_prediction = None  # type: ignore[assignment]
        try:
            answers, cost, _ = self.ours(name, prompts, labels, longest, batch, loaded=False)
        finally:
            answering.load_for_prediction = loader
        assert len(answers) == len(prompts)
        return cost

    def compare(
        self, name: str, prompts: list[Ids], labels: Any, longest: int, batch: int, before: Cost
    ) -> list[Answer]:
        """Print the cost of ours, without and with cached answers, against the baseline's."""
        answers, after, parts = self.ours(name, prompts, labels, longest, batch)
        again = self.from_cache(name, prompts, labels, longest, batch)
        ratio, limit = before.cpu / after.cpu, LIMITS.get(name)
        verdict = "" if limit is None else f" (limit {limit:g}: {'met' if ratio >= limit else 'MISSED'})"
        if limit is not None and ratio < limit:
            self.missed_limits.append(name)
        print(f"\n{name}: {ratio:.1f} times{verdict}")
        for who, cost in (("baseline", before), ("ours", after)):
            rate = len(prompts) / cost.cpu
            print(f"  {who:13} {cost.cpu:8.2f} CPU s, {cost.wall:8.2f} wall, {rate:6.2f} rows a CPU second")
            if cost is after:
                print(f"                of which {parts}")
        share = again.cpu / after.cpu
        print(
            f"  {'again':13} {again.cpu:8.2f} CPU s, {again.wall:8.2f} wall, from the cache ({share:.1%})", flush=True
        )
        return answers

    def same_texts(self, answers: list[Answer], texts: list[str]) -> None:
        """Count the equal texts; in float32 all must be equal."""
        same = sum(answer.text == text for answer, text in zip(answers, texts, strict=True))
        assert same == len(texts) or self.precision != "float32", f"only {same} of {len(texts)} texts are the same"
        print(f"                {same} of {len(texts)} texts are the same")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--base", type=Path, help="artifact of a base model made before")
    parser.add_argument("--only", nargs="*", default=["likelihoods", "long", "labels", "shots"])
    parser.add_argument("--precision", choices=("float32", "serving"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = options.base or make_base(Path(folder))
        bench = Bench(base, Path(folder), options.precision)
        machine, dtype = platform.processor() or platform.machine(), bench.plain.dtype
        print(f"{machine}, torch {torch.__version__}, one thread, {options.rows} rows, {dtype}")
        measure(bench, options.rows, options.only)
    return 1 if bench.missed_limits else 0


def measure(bench: Bench, rows: int, only: list[str]) -> None:
    triage, intake = (load_task(ROOT / "data" / name).spec for name in ("ticket_triage", "order_intake"))
    tickets = rows_of("ticket_triage", "helpdesk_2026_q1.jsonl", rows)
    shots = rows_of("ticket_triage", "helpdesk_2026_q2.jsonl", 8)
    batch, short = triage.baseline.batch_size, triage.baseline.max_new_tokens
    plain = bench.encoded(tickets, [])
    labels = encode_labels(bench.tokenizer, [t[:-1] for t in tickets], triage.labels)
    bench.warm(plain, labels)
    if "likelihoods" in only:
        few = [bench.encoded(tickets, shots[:k]) for k in (0, 4)]
        for name, prompts in zip(("label likelihoods", "label likelihoods, 4 shots"), few, strict=True):
            before = Cost()
            scores = harness(bench.plain, bench.tokenizer, prompts, labels, before)
            answers = bench.compare(name, prompts, labels, 1, batch, before)
            pairs = [zip(x, y.label_scores, strict=True) for x, y in zip(scores, answers, strict=True)]
            worst = max(abs(theirs - ours) for row in pairs for theirs, ours in row)
            assert worst < 1e-4 or bench.precision != "float32", f"scores differ by {worst}"
            ratio = (
                f"{len(triage.labels)} labels; the baseline reads {token_ratio(prompts, labels):.1f} times the tokens"
            )
            print(f"                scores differ by at most {worst:.1e}; {ratio}")
    if "labels" in only:
        for name, longest in (("labels", short), ("labels, 50 tokens", GUIDE_TOKENS)):
            before = Cost()
            texts = guide(bench.plain, bench.tokenizer, plain, before, longest)
            bench.same_texts(bench.compare(name, plain, None, longest, batch, before), texts)
    longer = {"labels, 8 shots": bench.encoded(tickets, shots) if "shots" in only else []}
    longer["long answers"] = (
        bench.encoded(rows_of("order_intake", "inbox_spring.jsonl", rows), []) if "long" in only else []
    )
    for (name, prompts), size in zip(longer.items(), (batch, intake.baseline.batch_size), strict=True):
        if prompts:
            before = Cost()
            texts = guide(bench.plain, bench.tokenizer, prompts, before)
            bench.same_texts(bench.compare(name, prompts, None, GUIDE_TOKENS, size, before), texts)


if __name__ == "__main__":
    sys.exit(main())
