"""Adapter that lets lm-evaluation-harness query a model of this pipeline, through the answer cache.

Texts become tokens exactly as in lm_eval's own HFLM, but a text too long for the model is an error and never truncated.
"""

import math
from collections.abc import Container, Sequence
from itertools import groupby
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from finetune_pipeline.evaluation.answering import Answerer
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.shared_reading import Ids

LONGEST_WINDOW = 2048
"""Window length in tokens for the likelihood of a whole text; longer texts are read window by window."""
NO_ANSWER = (math.nan, False)


class AnswererLM(TemplateLM):  # type: ignore[misc]
    """greedy_tasks: names of the tasks that ask whether greedy decoding gives the continuation; the others get False.

    failed: {(task, row): why it could not be answered}; lm_eval gets NaN or an empty text for these.
    """

    def __init__(self, answerer: Answerer, batch_size: int, stage: str, greedy_tasks: Container[str]) -> None:
        super().__init__()
        self.answerer, self.batch_size, self.stage, self.greedy_tasks = answerer, batch_size, stage, greedy_tasks
        self.tokenizer = answerer.tokenizer
        self.failed: dict[tuple[str, int], str] = {}

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return int(begin) if begin is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return "own"  # names a cache of lm_eval that is not used

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        if add_special_tokens is None and string.startswith(self.tokenizer.decode([self.prefix_token_id])):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = []
        for request in requests:
            context, text = request.args
            if context:
                pairs.append(self._encode_pair(context, text))
                continue
            ids = self.tok_encode(text, add_special_tokens=False)
            begins = ids[:1] == [self.prefix_token_id]
            pairs.append((ids[:1], ids[1:]) if begins else ([self.prefix_token_id], ids))
        return self._likelihoods(requests, pairs)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        longest = min(self.answerer.context_length or LONGEST_WINDOW, LONGEST_WINDOW)
        owners, pairs = [], []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, longest, 1):
                owners.append(request)
                pairs.append(make_disjoint_window(window))
        totals = dict.fromkeys(map(id, requests), 0.0)
        # one at a time: the logits of a single window may fill the memory
        for request, (score, _) in zip(owners, self._likelihoods(owners, pairs, batch_size=1), strict=True):
            totals[id(request)] += score
        return [totals[id(request)] for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        texts: dict[int, str] = {}
        settings = [request.args[1] for request in requests]
        limits = [int(options.get("max_gen_toks") or options.get("max_new_tokens") or 256) for options in settings]
        for tokens in sorted(set(limits)):
            indices = [i for i, n in enumerate(limits) if n == tokens]
            prompts = [self.tok_encode(requests[i].args[0]) for i in indices]
            for i, answer in zip(indices, self._ask(prompts, None, tokens, self.batch_size), strict=True):
                texts[i], until = answer.text, settings[i].get("until") or []
                ends = [until] if isinstance(until, str) else until
                for end in (*ends, self.tokenizer.decode([self.eot_token_id])):
                    texts[i] = texts[i].split(end, maxsplit=1)[0] if end else texts[i]
                if answer.status == "error":
                    self._fail(requests[i], answer.error)
        return [texts[i] for i in range(len(requests))]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise RuntimeError("lm_eval asked past the cache of answers, which 0.4 does not: install lm_eval<0.5")

    def _likelihoods(
        self, requests: Sequence[Any], pairs: Sequence[tuple[Ids, Ids]], batch_size: int | None = None
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding gives it) of each pair. Asks consecutive pairs with one context together."""
        answers = [NO_ANSWER] * len(pairs)
        groups: dict[int, list[list[int]]] = {}  # by the number of tokens to generate
        for _, group_indices in groupby(range(len(pairs)), key=lambda i: (requests[i].task_name, pairs[i][0])):
            indices = list(group_indices)
            limit, length = self.answerer.context_length, max(len(pairs[i][0]) + len(pairs[i][1]) for i in indices)
            if limit is not None and length > limit + 1:  # the last token is never read
                for i in indices:
                    self._fail(requests[i], f"{length} tokens are more than the model's {limit}")
                continue
            needs_greedy = requests[indices[0]].task_name in self.greedy_tasks
            tokens = max(len(pairs[i][1]) for i in indices) if needs_greedy else 1
            groups.setdefault(1 << (tokens - 1).bit_length(), []).append(indices)
        for tokens, group in sorted(groups.items()):
            prompts, texts = [pairs[p[0]][0] for p in group], [[pairs[i][1] for i in p] for p in group]
            group_answers = self._ask(prompts, texts, tokens, batch_size or self.batch_size)
            for indices, answer in zip(group, group_answers, strict=True):
                for i, score in zip(indices, answer.label_scores or [math.nan] * len(indices), strict=True):
                    if not math.isfinite(score):
                        self._fail(requests[i], answer.error or "a likelihood is not a number")
                    length = len(pairs[i][1])
                    answers[i] = (score, length <= tokens and answer.new_ids[:length] == pairs[i][1])
        return answers

    def _ask(self, prompts: list[Ids], texts: list[list[Ids]] | None, tokens: int, batch_size: int) -> Sequence[Answer]:
        return self.answerer.answers(prompts, texts, tokens, batch_size, self.stage, "tasks")

    def _fail(self, request: Any, why: str) -> None:
        self.failed.setdefault((request.task_name, request.doc_id), why)
