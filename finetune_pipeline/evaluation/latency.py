"""Measures the latency of single calls: the ``latency`` action of the child process."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline import progress
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.predict import retriever_of
from finetune_pipeline.evaluation.prompts import conversations
from finetune_pipeline.models.chat import encode_prompt
from finetune_pipeline.reporting import say


def latency(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a job of :func:`finetune_pipeline.worker.jobs.latency_job`. Returns (facts, measured).

    Leaves out each prompt's first call, which warms up kernels and memory. Does not use the answer cache.
    """
    examples = sorted(read_examples(Path(job["examples"])), key=lambda e: e.id)[: job["calls"] + 1]
    answerer = Answerer(Path(job["model"]), precision=job["precision"])
    retriever = retriever_of(job, job["prompts"].values())
    milliseconds: dict[str, dict[str, float]] = {}
    for name, prompt in job["prompts"].items():
        times = []
        for example, choices in zip(examples, conversations(examples, prompt, retriever), strict=True):
            began = time.perf_counter()
            ids = encode_prompt(answerer.tokenizer, choices[0], example.tools)
            answerer.answers([ids], None, job["max_new_tokens"], 1)
            times.append(1000 * (time.perf_counter() - began))
            progress.tell(job["stage"], f"{name}, one call at a time", step=len(times), of=len(examples))
        p50, p95 = np.quantile(times[1:] or times, (0.5, 0.95))
        milliseconds[name] = {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}
        say(f"{job['stage']}: {name}: one call alone takes {p50:,.0f} ms (95%: {p95:,.0f} ms)")
    return {"calls": len(examples) - 1}, {"latency": milliseconds}
