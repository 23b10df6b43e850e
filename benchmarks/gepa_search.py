"""GEPA (package ``gepa``, arXiv 2507.19457) over the product's own answers, for prompt_search.py. Not a dependency.

GEPA rewrites one instruction: the reflecting model reads three rows with the answers to them and writes a new instruction.
One that scores better on these rows is scored on the validation rows, and the best there wins. A search begins with the
task's own prompt. Its calls are rows answered by the task's model; reflections are not counted.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_pipeline.baseline.prompt_search import Ask, better_form
from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.prompts import Prompt
from finetune_pipeline.spec.model import TaskSpec

INSTRUCTION = "instruction"
"""Name of the one text that GEPA rewrites."""
VALIDATION_ROWS = 16
"""Rows of a search that score every accepted instruction; the others are reflected on."""
LONGEST, CONTEXT = 200, 8192
"""Most tokens of a reflection, and of a reflection with what it reflects on."""


class Reflector:
    """A GGUF file that writes instructions, in llama.cpp. It samples: a greedy model repeats itself when asked again."""

    def __init__(self, weights: Path) -> None:
        import torch
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(weights)
        settings.n_parallel, settings.n_ctx = 1, CONTEXT
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
        settings.port, settings.use_jinja, settings.warmup, settings.verbosity = 0, True, False, -1
        self.server, self.seed = xllamacpp.Server(settings), 0

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        self.seed += 1
        sampling = {"temperature": 0.7, "top_p": 0.9, "seed": self.seed, "max_tokens": LONGEST}
        answer = self.server.handle_chat_completions({"messages": messages, **sampling})
        return str(answer["choices"][0]["message"]["content"])


class _Adapter:
    """Lets GEPA evaluate an instruction on rows. A row scores what the metric gives it alone, in the better way of answering
    for all rows of the batch, as in :func:`.halving`."""

    propose_new_texts = None

    def __init__(self, spec: TaskSpec, like: Prompt, ask: Ask) -> None:
        self.spec, self.like, self.ask = spec, like, ask

    def prompt(self, instruction: str) -> Prompt:
        """The instruction with the examples of the prompt that the search began with."""
        if instruction == self.spec.system_prompt:
            return self.like
        return replace(self.like, system=instruction, instead_of=self.spec.system_prompt)

    def evaluate(self, batch: list[Example], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        from gepa.core.adapter import EvaluationBatch

        rows = better_form(self.spec, self.ask({"it": self.prompt(candidate[INSTRUCTION])}, batch, "")["it"])
        metric = METRICS[self.spec.metric]
        scores = [metric.rank(metric.value([row], self.spec.output)) for row in rows]
        return EvaluationBatch(list(rows), scores, list(zip(batch, rows, scores, strict=True)))

    def make_reflective_dataset(self, candidate: dict[str, str], evaluated: Any, components: list[str]) -> Any:
        return {
            INSTRUCTION: [
                {
                    "Inputs": example.user_text,
                    "Generated Outputs": row["text"],
                    "Feedback": "Right." if score == 1 else f"Wrong. The right answer is: {example.answer}",
                }
                for example, row, score in evaluated.trajectories
            ]
        }


class _Log:
    """What the reflecting model wrote and what GEPA did with it, to standard error."""

    def log(self, message: str) -> None:
        print(f"gepa: {message}", file=sys.stderr, flush=True)


def gepa_search(spec: TaskSpec, like: Prompt, rows: Sequence[Example], calls: int, ask: Ask, reflector: Any) -> Prompt:
    """Return the prompt that GEPA finds from the task's own, with the examples of `like`.

    calls: GEPA begins no proposal after these; the last one may use up to 5 + VALIDATION_ROWS more. reflector: a
    :class:`Reflector`, or the name of an API model, which GEPA asks through litellm.
    """
    import gepa

    adapter = _Adapter(spec, like, ask)
    found = gepa.optimize(
        seed_candidate={INSTRUCTION: spec.system_prompt},
        trainset=list(rows[VALIDATION_ROWS:]),
        valset=list(rows[:VALIDATION_ROWS]),
        adapter=adapter,
        reflection_lm=reflector,
        max_metric_calls=calls,
        logger=_Log(),
    )
    return adapter.prompt(found.best_candidate[INSTRUCTION])
