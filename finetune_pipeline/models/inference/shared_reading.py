"""Groups prompts by shared prefixes, which are read once, and manages key-value caches for continuations.

Most prompts of a task begin with its system prompt. A single prompt that does not (a perturbed row without it, a chat from
another source) must not cost all others their shared prefix. So prompts are grouped into families.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

Ids = list[int]
_WORTH = 0.9
"""Prompts leave a family if at most this share of tokens then has to be read: smaller batches are less efficient."""
_DEPTH = 8
"""Maximum depth of nested prefixes."""


def common_prefix(prompts: Sequence[Ids]) -> int:
    """Return the number of leading tokens that all prompts share, leaving at least one token of every prompt."""
    if not prompts:
        return 0
    low, high = min(prompts), max(prompts)  # the common prefix of the lexically first and last is common to all
    limit = min(len(p) for p in prompts) - 1
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if i >= limit or a != b), max(limit, 0))


def families(prompts: Sequence[Ids]) -> list[list[int]]:
    """Group the indices of prompts by shared prefix, ascending within each family; the largest family first.

    Prompts must not be empty. A family costs its prefix once, plus the rest of each prompt. Where prompts first differ, those
    that continue alike leave the family if that costs clearly less, their prefix included.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i], i))
    groups = _parted(prompts, order, _DEPTH)[1] if order else []
    return sorted(map(sorted, groups), key=lambda rows: (-len(rows), rows[0]))


def _parted(prompts: Sequence[Ids], places: list[int], depth: int) -> tuple[int, list[list[int]]]:
    """Return (tokens to read, families) of the prompts at `places`, which are in lexical order."""
    ends = (places[0], places[-1], min(places, key=lambda i: len(prompts[i])))
    shared = common_prefix([prompts[i] for i in ends])
    left: list[int] = []
    cost = 0
    groups: list[list[int]] = []
    for _, group in groupby(places, key=lambda i: prompts[i][: shared + 1]):
        together = list(group)
        inside = sum(len(prompts[i]) - shared for i in together)
        if depth and 1 < len(together) < len(places):
            alone, parts = _parted(prompts, together, depth - 1)
            if alone <= _WORTH * inside:
                cost, groups = cost + alone, groups + parts
                continue
        left += together
        cost += inside
    return (cost + shared, [*groups, left]) if left else (cost, groups)


@dataclass
class Tree:
    """Continuations as a prefix tree. tokens; depth: the distance of each token from the prompt, from 0; sees
    [tokens, tokens]: each token's ancestors and itself; paths: the positions of every text's tokens except the last."""

    tokens: list[int]
    depth: list[int]
    sees: torch.Tensor
    paths: list[list[int]]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Tree:
        places: dict[tuple[int, int], int] = {}  # by (parent position, token)
        tokens: list[int] = []
        depth: list[int] = []
        paths: list[list[int]] = []
        for text in texts:
            path: list[int] = []
            for token in text[:-1]:
                before = path[-1] if path else -1
                if (before, token) not in places:
                    places[before, token] = len(tokens)
                    tokens.append(token)
                    depth.append(len(path))
                path.append(places[before, token])
            paths.append(path)
        sees = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for path in paths:
            at = torch.tensor(path, dtype=torch.long)
            sees[at[:, None], at] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return cls(tokens, depth, sees, paths)


def grows_plainly(cache: DynamicCache) -> bool:
    """Whether every layer stores all keys and values in order, so that batches can be joined and copied."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def branch(cache: DynamicCache) -> DynamicCache:
    """Return a cache that grows independently. Only states are copied, which change in place: keys and values are replaced
    when they grow."""
    own = copy.copy(cache)
    own.layers = [
        copy.deepcopy(layer) if isinstance(layer, LinearAttentionCacheLayerMixin) else copy.copy(layer)
        for layer in cache.layers
    ]
    return own


def with_room(cache: DynamicCache, room: int) -> DynamicCache:
    """Copy a cache with room for `room` more tokens; the default cache of transformers copies everything for each new token.
    Caches with other layer types (sliding windows, states) are only branched."""
    own = branch(cache)
    if room and grows_plainly(cache) and cache.get_seq_length():
        own.layers = [_RoomyLayer(layer, room) for layer in cache.layers]
    return own


class _RoomyLayer(DynamicLayer):
    """Keys and values [rows, heads, tokens, width] that are the front of larger tensors."""

    def __init__(self, layer: Any, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._whole = (_enlarged(layer.keys, room), _enlarged(layer.values, room))
        self._show(layer.get_seq_length())

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (whole[:, :, :tokens] for whole in self._whole)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values. Raises RuntimeError if there is no room left."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, start:end] = states
        return self._show(end)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep some rows of the batch."""
        tokens = self.get_seq_length()
        self._whole = (self._whole[0][beam_idx], self._whole[1][beam_idx])
        self._show(tokens)


def _enlarged(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, tokens, width = states.shape
    whole = states.new_empty(rows, heads, tokens + room, width)
    whole[:, :, :tokens] = states
    return whole
