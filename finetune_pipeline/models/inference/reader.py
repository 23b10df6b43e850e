"""Reads many prompts as one batch behind their common prefix, and continues them: greedily, or along given texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from finetune_pipeline.models.inference.constrained import Grammar
from finetune_pipeline.models.inference.shared_reading import Ids, Tree, branch, has_plain_layers, with_room
from finetune_pipeline.models.inference.trial import APART, PLAIN, way_of_reading

_PASS_TOKENS = 2048
"""Tokens that a CPU reads in one pass: a layer's results then stay in its caches, and the allocator reuses their memory.
Up to 1.7 times as many tokens per second as a pass of 16,384 (two cores, 135M parameters)."""

_MIN_LENGTH_SHARE = 0.7
"""Minimum length of a row, as a share of the longest row's, to be padded and read with it."""
_MIN_PASS_TOKENS = 256
"""Tokens that make a pass worth its overhead: shorter rows then start a new pass."""


@dataclass
class Written:
    """The tokens of an answer, their log-probabilities, and the most likely tokens at each place, if they were asked for."""

    ids: Ids = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)


@dataclass
class Prefilled:
    """A prefilled batch of prompts. mask [rows, length]: 1 for tokens, 0 for padding; logits [rows, vocabulary]: of the next
    token; uncached_prefix: tokens of the common prefix if the cache does not hold it, else 0."""

    cache: DynamicCache
    mask: Tensor
    logits: Tensor
    uncached_prefix: int

    def rows(self, chosen: Sequence[int]) -> Prefilled:
        """Return some rows as a batch of their own."""
        if list(chosen) == list(range(len(self.logits))):
            return self
        keep = torch.tensor(chosen, device=self.mask.device)
        cache = branch(self.cache)
        cache.reorder_cache(keep)  # type: ignore[arg-type]  # any tensor of integers; batch_select_indices knows no states
        return Prefilled(cache, self.mask[keep], self.logits[keep], self.uncached_prefix)


def _joined(parts: Sequence[Prefilled]) -> Prefilled:
    """Join separately read batches into one, left-padded to the longest."""
    masks = [part.mask for part in parts]
    longest = max(mask.shape[1] for mask in masks)
    cache = branch(parts[0].cache)
    for joined_layer, *layers in zip(cache.layers, *(part.cache.layers for part in parts), strict=True):
        for name in ("keys", "values"):
            states = [getattr(layer, name) for layer in layers]
            setattr(joined_layer, name, torch.cat([F.pad(t, (0, 0, longest - t.shape[2], 0)) for t in states]))
    return Prefilled(
        cache,
        torch.cat([F.pad(mask, (longest - mask.shape[1], 0)) for mask in masks]),
        torch.cat([part.logits for part in parts]),
        parts[0].uncached_prefix,
    )


class Reader:
    """A model that has read the prompts' common prefix. `prefix` empty: there is none. way: of :mod:`.trial`.

    Models with sliding windows are read PLAIN: they count the padding between the prefix and a row's own tokens, and the
    windows would be too short. So are models with states (of linear attention), which cannot hide a token.
    """

    def __init__(self, model: Any, prefix: Ids, way: str | None = None) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        requested = way or way_of_reading(model, Reader)
        self.way = requested if has_plain_layers(self.cache) else PLAIN
        self.prefix = 0 if self.way == PLAIN else len(prefix)
        if self.prefix:
            ids = torch.tensor([prefix], device=model.device)
            self.model(input_ids=ids, cache=self.cache, use_cache=True, logits_to_keep=1)

    def read(self, prompts: Sequence[Ids]) -> Prefilled:
        """Read the rest of each prompt, on a CPU a few prompts at a time. Pass whole prompts; they must begin with the prefix."""
        tails = [p[self.prefix :] for p in prompts]
        without_prefix = len(tails) > 1 and self.prefix > 0 and self.way == APART
        # only plain caches can be joined
        passes = self._passes([len(t) for t in tails]) if has_plain_layers(self.cache) else [list(range(len(tails)))]
        parts = [self._read_pass([tails[i] for i in rows], without_prefix) for rows in passes]
        batch = parts[0] if len(parts) == 1 else _joined(parts)
        read_order = [i for rows in passes for i in rows]
        return batch.rows([read_order.index(i) for i in range(len(prompts))])

    def _read_pass(self, tails: Sequence[Ids], without_prefix: bool) -> Prefilled:
        """Read some prompts' tokens after the prefix in one pass. without_prefix: their cache does not contain the prefix; they
        attend to the reader's own cache of it."""
        longest = max(len(t) for t in tails)
        uncached_prefix, cached = (self.prefix, 0) if without_prefix else (0, self.prefix)
        ids = torch.zeros(len(tails), longest, dtype=torch.long)
        mask = torch.ones(len(tails), cached + longest, dtype=torch.long)
        for i, tail in enumerate(tails):
            ids[i, longest - len(tail) :] = torch.tensor(tail)
            mask[i, cached : cached + longest - len(tail)] = 0
        cache = DynamicCache(config=self.model.config) if without_prefix else branch(self.cache)
        if cached:
            cache.batch_repeat_interleave(len(tails))
        mask = mask.to(self.model.device)
        positions = uncached_prefix + (mask.cumsum(1) - 1).clamp(min=0)[:, cached:]
        logits = self._logits(ids.to(self.model.device), mask, positions, cache, uncached_prefix, logits_to_keep=1)
        return Prefilled(cache, mask, logits[:, -1], uncached_prefix)

    def _logits(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache, uncached_prefix: int, **options: Any
    ) -> Tensor:
        """Return the logits of `ids` behind a batch's cache; uncached_prefix: of :class:`Prefilled`."""
        if uncached_prefix:
            options["common_prefix"] = self.cache
        options |= {"attention_mask": mask, "position_ids": positions, "cache": cache, "use_cache": True}
        logits: Tensor = self.model(input_ids=ids, **options).logits
        return logits

    def continuations(self, batch: Prefilled, texts: Sequence[Sequence[Ids]]) -> list[list[Tensor]]:
        """Return the logits [tokens, vocabulary] that predict each token of every continuation of every row.
        texts[row] lists that row's continuations; each attends to the row's prompt and itself. The batch is not changed."""
        if self.way == PLAIN:
            return self._continue_plain(batch, texts)
        trees_by_texts = {id(row): Tree.of(row) for row in texts}  # most rows share one list of labels
        trees = [trees_by_texts[id(row)] for row in texts]
        results: list[list[Tensor]] = [[] for _ in trees]
        for rows in self._passes([len(tree.tokens) for tree in trees]):
            for i, logits in zip(rows, self._continue_trees(batch.rows(rows), [trees[i] for i in rows]), strict=True):
                results[i] = logits
        return results

    def _passes(self, tokens: Sequence[int]) -> list[list[int]]:
        """Return which rows to read together, given each row's tokens: on a CPU rows of similar length, to need little
        padding."""
        if self.model.device.type != "cpu":
            return [list(range(len(tokens)))]
        passes: list[list[int]] = []
        longest = room = 0
        for row in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
            if room < longest or (tokens[row] < longest * _MIN_LENGTH_SHARE and room < _PASS_TOKENS - _MIN_PASS_TOKENS):
                room = 0
            if room == 0:
                longest, room = tokens[row], _PASS_TOKENS
                passes.append([])
            passes[-1].append(row)
            room -= longest
        return passes

    def _continue_trees(self, batch: Prefilled, trees: Sequence[Tree]) -> list[list[Tensor]]:
        """:meth:`continuations` of each row's tree, all in one pass."""
        first_logits = [[batch.logits[i : i + 1] for _ in tree.paths] for i, tree in enumerate(trees)]
        width = max(len(tree.tokens) for tree in trees)
        if width == 0:
            return first_logits
        rows, past = batch.mask.shape
        ids = torch.zeros(rows, width, dtype=torch.long)
        depth = torch.zeros(rows, width, dtype=torch.long)
        tree_masks = torch.zeros(rows, width, width, dtype=torch.bool)
        for i, tree in enumerate(trees):
            n = len(tree.tokens)
            ids[i, :n], depth[i, :n] = torch.tensor(tree.tokens), torch.tensor(tree.depth)
            tree_masks[i, :n, :n] = tree.sees
        device = self.model.device
        allowed = torch.cat([batch.mask[:, None, :].bool().expand(rows, width, past), tree_masks.to(device)], 2)
        mask = torch.zeros(rows, 1, width, past + width, dtype=batch.logits.dtype, device=device)
        mask.masked_fill_(~allowed[:, None], torch.finfo(mask.dtype).min)
        positions = batch.uncached_prefix + batch.mask.sum(1, keepdim=True) + depth.to(device)
        logits = self._logits(ids.to(device), mask, positions, branch(batch.cache), batch.uncached_prefix)
        return [
            [torch.cat([first, logits[i, path]]) for first, path in zip(row_logits, trees[i].paths, strict=True)]
            for i, row_logits in enumerate(first_logits)
        ]

    def _continue_plain(self, batch: Prefilled, texts: Sequence[Sequence[Ids]]) -> list[list[Tensor]]:
        """:meth:`continuations` read PLAIN: one pass for each of a row's texts."""
        results: list[list[Tensor]] = [[] for _ in texts]
        for text_index in range(max(map(len, texts))):
            rows = [i for i, row in enumerate(texts) if text_index < len(row)]
            part = batch.rows(rows)
            inputs = [texts[i][text_index][:-1] for i in rows]
            width = max(map(len, inputs))
            logits = part.logits[:, None]
            if width:
                ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in inputs], device=self.model.device)
                mask = torch.cat([part.mask, part.mask.new_ones(len(rows), width)], 1)
                positions = part.mask.sum(1, keepdim=True) + torch.arange(width, device=self.model.device)
                following = self._logits(ids, mask, positions, branch(part.cache), 0)
                logits = torch.cat([logits, following], 1)
            for i, text, row_logits in zip(rows, inputs, logits, strict=True):
                results[i].append(row_logits[: len(text) + 1])
        return results

    def greedy(
        self,
        batch: Prefilled,
        max_new_tokens: int,
        ends: set[int],
        grammar: Grammar | None = None,
        alternatives: int = 0,
    ) -> list[Written]:
        """Decode greedily among the tokens that `grammar` allows, until an end token (kept) or max_new_tokens.

        alternatives: how many of the most likely tokens to return at each place. Probabilities are those of the tokens that may
        come next: of all tokens, or of those that the grammar allows, which share the probability of the others in proportion.
        """
        answers = [Written() for _ in range(len(batch.logits))]
        active = list(range(len(answers)))
        cache, mask, logits = with_room(batch.cache, max_new_tokens - 1), batch.mask, batch.logits
        constrained = [grammar.begin() for _ in answers] if grammar else None
        for step in range(max_new_tokens):
            scores, tokens = logits.float(), logits.argmax(-1)
            if constrained:
                choices = [
                    constrained[row].choose(row_scores, ends)
                    for row, row_scores in zip(active, scores.cpu().numpy(), strict=True)
                ]
                tokens = torch.tensor([token for token, _ in choices], device=logits.device)
                scores = torch.from_numpy(np.stack([allowed for _, allowed in choices])).to(logits.device)
            shares = torch.log_softmax(scores, -1)
            chosen = shares.gather(1, tokens[:, None])[:, 0]
            likeliest = shares.topk(alternatives) if alternatives else None
            # read together: each reading waits for the device; float32 holds the number of any token
            read = torch.stack((tokens.float(), chosen), 1).tolist()
            for i, (row, (token, log_probability)) in enumerate(zip(active, read, strict=True)):
                answers[row].ids.append(int(token))
                answers[row].log_probabilities.append(log_probability)
                if likeliest:
                    pairs = zip(likeliest.indices[i].tolist(), likeliest.values[i].tolist(), strict=True)
                    answers[row].alternatives.append([pair for pair in pairs if pair[1] > -math.inf])
            unfinished = [i for i, row in enumerate(active) if answers[row].ids[-1] not in ends]
            if not unfinished or step + 1 == max_new_tokens:
                break
            if len(unfinished) < len(active):
                keep = torch.tensor(unfinished, device=mask.device)
                cache.reorder_cache(keep)  # type: ignore[arg-type]
                mask, tokens, active = mask[keep], tokens[keep], [active[i] for i in unfinished]
            positions = batch.uncached_prefix + mask.sum(1, keepdim=True)
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], 1)
            following = self._logits(tokens[:, None], mask, positions, cache, batch.uncached_prefix, logits_to_keep=1)
            logits = following[:, -1]
        return answers
