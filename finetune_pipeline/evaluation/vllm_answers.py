"""The same answers by vLLM, where it is installed: same tokens in, greedily, in float32; it batches by itself.

What fails for one row fails for that row: a batch that raises is tried again row by row.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from finetune_pipeline import progress
from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.evaluation.constrained import Grammar
from finetune_pipeline.evaluation.generated import Answer
from finetune_pipeline.evaluation.generation import Ids
from finetune_pipeline.models.chat import end_ids
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.training.faults import JobError
from finetune_pipeline.training.reporting import say

_AT_ONCE = 256
"""Rows given to vLLM together; what is answered is kept after each lot."""


def require_vllm() -> None:
    """Raises JobError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise JobError(
            "evaluation.engine is vllm, and vllm is not installed\n"
            "fix: pip install vllm (it needs a GPU), or set evaluation.engine: transformers"
        )


class VllmAnswerer(Answerer):
    """One model under vLLM. Raises JobError where that is not installed, or for a prefix, which it cannot load."""

    engine = "vllm"
    packages = ("vllm", "torch")

    def __init__(self, *args: Any, **more: Any) -> None:
        require_vllm()
        super().__init__(*args, **more)
        if self.adapter is not None:
            raise JobError("vLLM cannot load a trained prefix\nfix: set evaluation.engine: transformers")

    @cached_property
    def model(self) -> Any:
        """vLLM's LLM."""
        from vllm import LLM  # type: ignore[import-not-found]

        began = time.monotonic()
        model = LLM(
            model=str(model_folder(self.folder)),
            dtype="float32",
            seed=0,
            enable_prefix_caching=True,
            trust_remote_code=False,
        )
        self.seconds["load"] += time.monotonic() - began
        return model

    def _compute(
        self,
        prompts: Sequence[Ids],
        labels: Sequence[Sequence[Ids]] | None,
        max_new_tokens: int,
        batch_size: int,
        stage: str,
        name: str,
        known: Mapping[int, Answer],
        keep: Callable[[Mapping[int, Answer]], None],
        grammar: Grammar | None,
    ) -> list[Answer]:
        assert grammar is None  # predict restricts no answers of this engine
        answers = [known.get(i) or Answer(prompt_tokens=len(p)) for i, p in enumerate(prompts)]
        missing = [i for i in range(len(prompts)) if i not in known]
        for at in range(0, len(missing), _AT_ONCE):
            rows = missing[at : at + _AT_ONCE]
            try:
                self._answer(rows, prompts, labels, max_new_tokens, answers)
            except Exception as error:  # noqa: BLE001 - the rows are tried one by one; what fails is told in its row
                say(f"{stage}: {len(rows)} rows failed ({type(error).__name__}: {error}); trying them one by one")
                for i in rows:
                    try:
                        self._answer([i], prompts, labels, max_new_tokens, answers)
                    except Exception as reason:  # noqa: BLE001
                        told = f"{type(reason).__name__}: {reason}"
                        answers[i] = Answer(status="error", error=told, prompt_tokens=len(prompts[i]))
            keep({i: answers[i] for i in rows})
            progress.tell(stage, name, step=len(known) + at + len(rows), of=len(prompts))
        return answers

    def _answer(
        self,
        rows: Sequence[int],
        prompts: Sequence[Ids],
        labels: Sequence[Sequence[Ids]] | None,
        max_new_tokens: int,
        answers: list[Answer],
    ) -> None:
        from vllm import SamplingParams

        ends = end_ids(self.tokenizer)
        asked = [{"prompt_token_ids": list(prompts[i])} for i in rows]
        written = self.model.generate(
            asked,
            SamplingParams(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=sorted(ends)),
            use_tqdm=False,
        )
        scores: list[list[float]] = [[] for _ in rows]
        if labels is not None:
            packed = [(place, ids) for place, i in enumerate(rows) for ids in labels[i]]
            read = self.model.generate(
                [{"prompt_token_ids": [*prompts[rows[place]], *ids]} for place, ids in packed],
                SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0),
                use_tqdm=False,
            )
            for (place, ids), told in zip(packed, read, strict=True):
                own = zip(told.prompt_logprobs[-len(ids) :], ids, strict=True)
                scores[place].append(float(sum(by_token[token].logprob for by_token, token in own)))
        for i, told, score in zip(rows, written, scores, strict=True):
            self._fill(answers[i], told.outputs[0], score, ends)

    def _fill(self, answer: Answer, told: Any, scores: list[float], ends: set[int]) -> None:
        """vLLM leaves the end token out where it was not asked to stop at it by number; whether it came is in the reason."""
        ids = list(told.token_ids)
        text = ids[:-1] if ids and ids[-1] in ends else ids
        answer.new_ids, answer.new_tokens, answer.label_scores = ids, len(ids), scores
        answer.text = self.tokenizer.decode(text, skip_special_tokens=True)
        ended = told.finish_reason == "stop"
        answer.status = "truncated" if not ended else "ok" if answer.text.strip() else "empty"
