"""Greedy answers and label log-likelihoods of one causal language model, each prompt computed once.

The tokens all prompts begin with are computed once for the whole set, each prompt's own tokens once, and both the labels
and the free answer go on from that cache. Labels are scored side by side in one pass: every label sees the prompt and
itself. Float32 gives the scores of re-encoding prompt and label to about 1e-5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

Ids = list[int]
LOWEST = torch.finfo(torch.float32).min


@dataclass
class Answer:
    """What a model gave for one prompt. label_scores: sum of log-probabilities of each label's tokens, its end included."""

    text: str = ""
    status: str = "error"
    error: str = ""
    label_scores: list[float] = field(default_factory=list)
    new_tokens: int = 0
    prompt_tokens: int = 0


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's EOS and those of the model's generation config."""
    told = model.generation_config.eos_token_id
    more = told if isinstance(told, list | tuple) else [told]
    return {t for t in [tokenizer.eos_token_id, *more] if t is not None}


def shared_length(prompts: Sequence[Ids]) -> int:
    """Number of leading tokens all prompts share, leaving every prompt at least one of its own."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # the two furthest apart in order share what all share
    common = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return min(common, min(len(p) for p in prompts) - 1)


def can_share_cache(model: Any) -> bool:
    """Whether every layer attends to everything before it, so that caches may be extended and cut at will."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not sliding


def generate_and_score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ids],
    labels: Sequence[Ids],
    *,
    max_new_tokens: int,
    batch_size: int,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """Answer every prompt greedily and score every label after it. Answers come in the order of the prompts.

    prompts: token ids, generation prompt included. labels: token ids of each label, end-of-turn token included; empty
    for free text. Batches hold prompts of similar length, longest first. `tell` gets the number of prompts done.
    A prompt that fails has status ``error`` with the reason; when a batch fails its prompts are tried one by one.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    answers: dict[int, Answer] = {}
    fitting = []
    for i, prompt in enumerate(prompts):
        if context and len(prompt) + max_new_tokens > context:
            answers[i] = Answer(error=f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones exceed the model's "
                                f"context of {context}", prompt_tokens=len(prompt))
        else:
            fitting.append(i)
    share = can_share_cache(model)
    prefix = prompts[fitting[0]][: shared_length([prompts[i] for i in fitting])] if share and fitting else []
    batcher = _Batcher(model, tokenizer, prefix, labels, max_new_tokens)
    order = sorted(fitting, key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), batch_size if share else 1):
        batch = order[start : start + (batch_size if share else 1)]
        answers |= dict(zip(batch, _answer(batcher, [prompts[i] for i in batch], share), strict=True))
        tell(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _answer(batcher: _Batcher, prompts: Sequence[Ids], share: bool) -> list[Answer]:
    """Answers of one batch; one by one if the batch as a whole fails."""
    try:
        return batcher.run(prompts) if share else [batcher.run_plainly(prompts[0])]
    except Exception as error:  # noqa: BLE001 - whatever went wrong becomes the row's recorded status, never a silent loss
        if len(prompts) == 1:
            return [Answer(error=f"{type(error).__name__}: {error}"[:500], prompt_tokens=len(prompts[0]))]
        return [answer for prompt in prompts for answer in _answer(batcher, [prompt], share)]


class _Batcher:
    """Answers batches that begin with the same prefix."""

    def __init__(self, model: Any, tokenizer: Any, prefix: Ids, labels: Sequence[Ids], max_new_tokens: int) -> None:
        self.model, self.tokenizer, self.prefix, self.labels = model, tokenizer, prefix, [list(x) for x in labels]
        self.max_new_tokens, self.ends = max_new_tokens, end_tokens(model, tokenizer)
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(self.ends))
        self._prefix_cache: Any = None

    def _cache(self, rows: int) -> Any:
        """The prefix's cache, repeated for a number of rows."""
        if not self.prefix:
            return DynamicCache(config=self.model.config)
        if self._prefix_cache is None:
            cache = DynamicCache(config=self.model.config)
            self.model(input_ids=self._tensor([self.prefix]), cache=cache, use_cache=True, logits_to_keep=1)
            self._prefix_cache = cache
        cache = copy.deepcopy(self._prefix_cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=self.model.device)

    @torch.inference_mode()
    def run(self, prompts: Sequence[Ids]) -> list[Answer]:
        """Answers of prompts that all begin with the prefix."""
        shared = len(self.prefix)
        own = [p[shared:] for p in prompts]
        width = max(len(s) for s in own)
        ids = self._tensor([[self.pad] * (width - len(s)) + s for s in own])
        seen = self._tensor([[1] * shared + [0] * (width - len(s)) + [1] * len(s) for s in own])
        places = (seen.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        cache = self._cache(len(prompts))
        logits = self.model(input_ids=ids, attention_mask=seen, position_ids=places, cache=cache, use_cache=True,
                            logits_to_keep=1).logits[:, -1].float()
        lengths = seen.sum(-1)
        scores = self._score(logits, cache, seen, lengths) if self.labels else [[] for _ in prompts]
        tokens, ended = self._continue(logits, cache, seen, lengths)
        return [self._finish(prompt, t, e, s) for prompt, t, e, s in zip(prompts, tokens, ended, scores, strict=True)]

    def _score(self, logits: torch.Tensor, cache: Any, seen: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
        """Log-likelihood of every label after every row, all labels in one pass behind the rows' caches."""
        first = torch.log_softmax(logits, -1)
        scores = first[:, [label[0] for label in self.labels]].double()
        inputs, offsets, owner, wanted = [], [], [], []
        for n, label in enumerate(self.labels):
            for j in range(len(label) - 1):
                inputs.append(label[j])
                offsets.append(j)
                owner.append(n)
                wanted.append(label[j + 1])
        if not inputs:
            return scores.tolist()
        rows, known, size = seen.shape[0], seen.shape[1], len(inputs)
        of, at = self._tensor(owner), self._tensor(offsets)
        among = (of[:, None] == of[None, :]) & (at[None, :] <= at[:, None])
        visible = torch.cat([seen.bool()[:, None, :].expand(rows, size, known), among.expand(rows, size, size)], -1)
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=seen.device).masked_fill_(
            ~visible, torch.finfo(self.model.dtype).min)[:, None]
        told = self.model(input_ids=self._tensor([inputs]).expand(rows, size), attention_mask=mask,
                          position_ids=lengths[:, None] + at[None, :], cache=cache, use_cache=True).logits.float()
        cache.crop(-size)
        each = torch.log_softmax(told, -1).gather(-1, self._tensor(wanted).expand(rows, size)[..., None])[..., 0].double()
        scores.index_add_(1, of, each)
        return scores.tolist()

    def _continue(self, logits: torch.Tensor, cache: Any, seen: torch.Tensor, lengths: torch.Tensor
                  ) -> tuple[list[Ids], list[bool]]:
        """Greedy tokens of every row up to its end, and whether it came."""
        rows = seen.shape[0]
        tokens: list[Ids] = [[] for _ in range(rows)]
        ended = [False] * rows
        for step in range(self.max_new_tokens):
            best = logits.argmax(-1)
            for i, token in enumerate(best.tolist()):
                if not ended[i]:
                    ended[i] = token in self.ends
                    if not ended[i]:
                        tokens[i].append(token)
            if all(ended) or step == self.max_new_tokens - 1:
                break
            seen = torch.cat([seen, seen.new_ones(rows, 1)], -1)
            logits = self.model(input_ids=best[:, None], attention_mask=seen, position_ids=(lengths + step)[:, None],
                                cache=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        return tokens, ended

    def _finish(self, prompt: Ids, tokens: Ids, ended: bool, scores: list[float]) -> Answer:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        status = "truncated" if not ended else "ok" if text.strip() else "empty"
        return Answer(text, status, "", scores, len(tokens) + int(ended), len(prompt))

    @torch.inference_mode()
    def run_plainly(self, prompt: Ids) -> Answer:
        """The same without any shared work: prompt and label encoded again for each label, the library's own generate.

        For models whose layers do not all see everything, and the yardstick the tests hold :meth:`run` against.
        """
        scores = []
        for label in self.labels:
            told = self.model(input_ids=self._tensor([prompt + label]), use_cache=False).logits[0].float()
            chances = torch.log_softmax(told[len(prompt) - 1 : -1], -1).double()
            scores.append(float(chances.gather(-1, self._tensor(label)[:, None]).sum()))
        ids = self._tensor([prompt])
        made = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_new_tokens, do_sample=False,
                                   eos_token_id=sorted(self.ends), pad_token_id=self.pad)[0, len(prompt) :].tolist()
        ended = bool(made) and made[-1] in self.ends
        return self._finish(prompt, made[:-1] if ended else made, ended, scores)
