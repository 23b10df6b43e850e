"""GEPA (package ``gepa``, arXiv 2507.19457) over the product's own answers, for prompt_search.py. Not a dependency.

GEPA rewrites one instruction: the reflecting model reads three rows with their answers and writes a new instruction. One that
scores better on these rows is scored on the validation rows, and the best there wins. A search begins with the task's own
prompt. Calls are rows answered by the task's model; reflections are not counted.
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
"""Rows that score every accepted instruction; the others are for reflection."""
MAX_REFLECTION_TOKENS, CONTEXT_TOKENS = 200, 8192


class Reflector:
    """A GGUF model in llama.cpp that writes instructions. It samples, since a greedy model would repeat itself."""

    def __init__(self, weights: Path) -> None:
        import torch
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(weights)
        settings.n_parallel, settings.n_ctx = 1, CONTEXT_TOKENS
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
        settings.port, settings.use_jinja, settings.warmup, settings.verbosity = 0, True, False, -1
        self.server, self.seed = xllamacpp.Server(settings), 0

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        self.seed += 1
        sampling = {"temperature": 0.7, "top_p": 0.9, "seed": self.seed, "max_tokens": MAX_REFLECTION_TOKENS}
        answer = self.server.handle_chat_completions({"messages": messages, **sampling})
        return str(answer["choices"][0]["message"]["content"])


class _Adapter:
    """Lets GEPA evaluate an instruction on rows. A row's score is the metric of that row alone, in the form of answer that is
    better for the whole batch, as in :func:`.halving`."""

    propose_new_texts = None

    def __init__(self, spec: TaskSpec, like: Prompt, ask: Ask) -> None:
        self.spec, self.like, self.ask = spec, like, ask

    def prompt(self, instruction: str) -> Prompt:
        """The instruction, with the examples of the initial prompt."""
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
    """Prints GEPA's log to standard error."""

    def log(self, message: str) -> None:
        print(f"gepa: {message}", file=sys.stderr, flush=True)


def gepa_search(spec: TaskSpec, like: Prompt, rows: Sequence[Example], calls: int, ask: Ask, reflector: Any) -> Prompt:
    """Search with GEPA from the task's own prompt, with the examples of `like`. Returns the best prompt.

    Args:
        spec: The task.
        like: The initial prompt.
        rows: Rows to search on.
        calls: GEPA begins no proposal after these; the last one may use up to 5 + VALIDATION_ROWS more.
        ask: Answers rows.
        reflector: A :class:`Reflector`, or the name of an API model, which GEPA calls through litellm.
    """
    import gepa

    adapter = _Adapter(spec, like, ask)
    result = gepa.optimize(
        seed_candidate={INSTRUCTION: spec.system_prompt},
        trainset=list(rows[VALIDATION_ROWS:]),
        valset=list(rows[:VALIDATION_ROWS]),
        adapter=adapter,
        reflection_lm=reflector,
        max_metric_calls=calls,
        logger=_Log(),
    )
    return adapter.prompt(result.best_candidate[INSTRUCTION])
