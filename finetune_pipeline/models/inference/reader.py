"""Reads many prompts as one batch behind their common prefix, and continues them: greedily, or along given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from finetune_pipeline.models.inference.constrained import Grammar
from finetune_pipeline.models.inference.shared_reading import Ids, Tree, branch, grows_plainly, with_room
from finetune_pipeline.models.inference.trial import APART, PLAIN, way_of_reading

_READ_AT_ONCE = 2048
"""Tokens that a CPU reads in one pass: a layer's results then stay in its caches, and in memory that the allocator keeps.
Up to 1.7 times as many tokens per second as a pass of 16,384 (two cores, 135M parameters)."""

_SIMILAR = 0.7
"""Rows at least this long, compared with the longest, are padded and read with it."""
_WORTH_A_PASS = 256
"""Tokens with which a pass is worth its overhead, so that shorter rows need not join it."""


@dataclass
class Prefilled:
    """A prefilled batch of prompts. seen [rows, length]: which cached positions are real; logits [rows, vocabulary]: of the
    next token; before: tokens of the common prefix, if the cache does not hold it."""

    cache: DynamicCache
    seen: torch.Tensor
    logits: torch.Tensor
    before: int

    def rows(self, chosen: Sequence[int]) -> Prefilled:
        """Return some rows as a batch of their own."""
        if list(chosen) == list(range(len(self.logits))):
            return self
        keep = torch.tensor(chosen, device=self.seen.device)
        cache = branch(self.cache)
        cache.reorder_cache(keep)  # type: ignore[arg-type]  # any tensor of integers; batch_select_indices knows no states
        return Prefilled(cache, self.seen[keep], self.logits[keep], self.before)


def _joined(parts: Sequence[Prefilled]) -> Prefilled:
    """Join separately read batches into one, left-padded to the longest."""
    seen = [part.seen for part in parts]
    longest = max(each.shape[1] for each in seen)
    cache = branch(parts[0].cache)
    for own, *layers in zip(cache.layers, *(part.cache.layers for part in parts), strict=True):
        for name in ("keys", "values"):
            states = [getattr(layer, name) for layer in layers]
            setattr(own, name, torch.cat([F.pad(t, (0, 0, longest - t.shape[2], 0)) for t in states]))
    return Prefilled(
        cache,
        torch.cat([F.pad(each, (longest - each.shape[1], 0)) for each in seen]),
        torch.cat([part.logits for part in parts]),
        parts[0].before,
    )


class Reader:
    """A model that has read the prompts' common prefix. `prefix` empty: there is none. way: of :mod:`.trial`.

    A model with sliding windows is read PLAIN: it counts the padding between the prefix and a row's own tokens, so that its
    windows would be too short. So is one with states (of linear attention), in which no token can be hidden.
    """

    def __init__(self, model: Any, prefix: Ids, way: str | None = None) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        wanted = way or way_of_reading(model, Reader)
        self.way = wanted if grows_plainly(self.cache) else PLAIN
        self.prefix = 0 if self.way == PLAIN else len(prefix)
        if self.prefix:
            ids = torch.tensor([prefix], device=model.device)
            self.model(input_ids=ids, cache=self.cache, use_cache=True, logits_to_keep=1)

    def read(self, prompts: Sequence[Ids]) -> Prefilled:
        """Read the rest of each prompt, on a CPU a few prompts at a time. Pass whole prompts; they must begin with the prefix."""
        tails = [p[self.prefix :] for p in prompts]
        apart = len(tails) > 1 and self.prefix > 0 and self.way == APART
        # only plain caches can be joined
        passes = self._passes([len(t) for t in tails]) if grows_plainly(self.cache) else [list(range(len(tails)))]
        parts = [self._read([tails[i] for i in rows], apart) for rows in passes]
        batch = parts[0] if len(parts) == 1 else _joined(parts)
        order = [i for rows in passes for i in rows]
        return batch.rows(sorted(range(len(order)), key=order.__getitem__))

    def _read(self, tails: Sequence[Ids], apart: bool) -> Prefilled:
        longest = max(len(t) for t in tails)
        before, cached = (self.prefix, 0) if apart else (0, self.prefix)
        ids = torch.zeros(len(tails), longest, dtype=torch.long)
        seen = torch.ones(len(tails), cached + longest, dtype=torch.long)
        for i, tail in enumerate(tails):
            ids[i, longest - len(tail) :] = torch.tensor(tail)
            seen[i, cached : cached + longest - len(tail)] = 0
        cache = DynamicCache(config=self.model.config) if apart else branch(self.cache)
        if cached:
            cache.batch_repeat_interleave(len(tails))
        seen = seen.to(self.model.device)
        places = before + (seen.cumsum(1) - 1).clamp(min=0)[:, cached:]
        logits = self._call(ids.to(self.model.device), seen, places, cache, before, logits_to_keep=1)[:, -1]
        return Prefilled(cache, seen, logits, before)

    def _call(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: DynamicCache, before: int, **more: Any
    ) -> torch.Tensor:
        """Return the logits of `ids` behind a batch's cache; before: of :class:`Prefilled`."""
        if before:
            more["common_prefix"] = self.cache
        more |= {"attention_mask": mask, "position_ids": places, "cache": cache, "use_cache": True}
        logits: torch.Tensor = self.model(input_ids=ids, **more).logits
        return logits

    def continuations(self, batch: Prefilled, texts: Sequence[Sequence[Ids]]) -> list[list[torch.Tensor]]:
        """Return the logits [tokens, vocabulary] that predict each token of every continuation of every row.
        texts[row] lists that row's continuations; each attends to the row's prompt and itself. The batch is not changed."""
        if self.way == PLAIN:
            return self._one_by_one(batch, texts)
        same = {id(row): Tree.of(row) for row in texts}  # most rows share one list of labels
        trees = [same[id(row)] for row in texts]
        found: list[list[torch.Tensor]] = [[] for _ in trees]
        for rows in self._passes([len(tree.tokens) for tree in trees]):
            for i, logits in zip(rows, self._continue(batch.rows(rows), [trees[i] for i in rows]), strict=True):
                found[i] = logits
        return found

    def _passes(self, tokens: Sequence[int]) -> list[list[int]]:
        """Return which rows to read together, given each one's tokens: on a CPU rows of similar length, which need little
        padding."""
        if self.model.device.type != "cpu":
            return [list(range(len(tokens)))]
        passes: list[list[int]] = []
        longest = room = 0
        for row in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
            if room < longest or (tokens[row] < longest * _SIMILAR and room < _READ_AT_ONCE - _WORTH_A_PASS):
                room = 0
            if room == 0:
                longest, room = tokens[row], _READ_AT_ONCE
                passes.append([])
            passes[-1].append(row)
            room -= longest
        return passes

    def _continue(self, batch: Prefilled, trees: Sequence[Tree]) -> list[list[torch.Tensor]]:
        first = [[batch.logits[i : i + 1] for _ in tree.paths] for i, tree in enumerate(trees)]
        width = max(len(tree.tokens) for tree in trees)
        if width == 0:
            return first
        rows, past = batch.seen.shape
        ids = torch.zeros(rows, width, dtype=torch.long)
        depth = torch.zeros(rows, width, dtype=torch.long)
        own = torch.zeros(rows, width, width, dtype=torch.bool)
        for i, tree in enumerate(trees):
            n = len(tree.tokens)
            ids[i, :n], depth[i, :n] = torch.tensor(tree.tokens), torch.tensor(tree.depth)
            own[i, :n, :n] = tree.sees
        device = self.model.device
        allowed = torch.cat([batch.seen[:, None, :].bool().expand(rows, width, past), own.to(device)], 2)
        mask = torch.zeros(rows, 1, width, past + width, dtype=batch.logits.dtype, device=device)
        mask.masked_fill_(~allowed[:, None], torch.finfo(mask.dtype).min)
        places = batch.before + batch.seen.sum(1, keepdim=True) + depth.to(device)
        logits = self._call(ids.to(device), mask, places, branch(batch.cache), batch.before)
        return [
            [torch.cat([head, logits[i, path]]) for head, path in zip(heads, trees[i].paths, strict=True)]
            for i, heads in enumerate(first)
        ]

    def _one_by_one(self, batch: Prefilled, texts: Sequence[Sequence[Ids]]) -> list[list[torch.Tensor]]:
        """:meth:`continuations` read PLAIN: one pass for each of a row's texts."""
        found: list[list[torch.Tensor]] = [[] for _ in texts]
        for number in range(max(map(len, texts))):
            rows = [i for i, row in enumerate(texts) if number < len(row)]
            part = batch.rows(rows)
            own = [texts[i][number][:-1] for i in rows]
            width = max(map(len, own))
            logits = part.logits[:, None]
            if width:
                ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in own], device=self.model.device)
                seen = torch.cat([part.seen, part.seen.new_ones(len(rows), width)], 1)
                places = part.seen.sum(1, keepdim=True) + torch.arange(width, device=self.model.device)
                following = self._call(ids, seen, places, branch(part.cache), 0)
                logits = torch.cat([logits, following], 1)
            for i, text, each in zip(rows, own, logits, strict=True):
                found[i].append(each[: len(text) + 1])
        return found

    def greedy(
        self, batch: Prefilled, max_new_tokens: int, ends: set[int], grammar: Grammar | None = None
    ) -> list[Ids]:
        """Decode greedily among the tokens that `grammar` allows, until an end token (kept) or max_new_tokens."""
        answers: list[Ids] = [[] for _ in range(len(batch.logits))]
        active = list(range(len(answers)))
        cache, seen, logits = with_room(batch.cache, max_new_tokens - 1), batch.seen, batch.logits
        constrained = [grammar.begin() for _ in answers] if grammar else None
        for step in range(max_new_tokens):
            if constrained:
                scores = logits.float().cpu().numpy()
                allowed = [constrained[row].choose(own, ends) for row, own in zip(active, scores, strict=True)]
                token = torch.tensor(allowed, device=logits.device)
            else:
                token = logits.argmax(-1)
            for row, chosen in zip(active, token.tolist(), strict=True):
                answers[row].append(chosen)
            left = [i for i, row in enumerate(active) if answers[row][-1] not in ends]
            if not left or step + 1 == max_new_tokens:
                break
            if len(left) < len(active):
                keep = torch.tensor(left, device=seen.device)
                cache.reorder_cache(keep)  # type: ignore[arg-type]
                seen, token, active = seen[keep], token[keep], [active[i] for i in left]
            places = batch.before + seen.sum(1, keepdim=True)
            seen = torch.cat([seen, seen.new_ones(len(active), 1)], 1)
            logits = self._call(token[:, None], seen, places, cache, batch.before, logits_to_keep=1)[:, -1]
        return answers
