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

from finetune_pipeline.models.chat import common_prefix

Ids = list[int]
_MAX_COST_SHARE = 0.9
"""Prompts leave a family if the tokens to read fall to at most this share: smaller batches are less efficient."""
_MAX_DEPTH = 8
"""Maximum depth of nested prefixes."""


def families(prompts: Sequence[Ids]) -> list[list[int]]:
    """Group the indices of prompts by shared prefix, ascending within each family; the largest family first.

    Prompts must not be empty. A family costs its prefix once, plus the rest of each prompt. Prompts with the same next token
    after the prefix form a family of their own if that costs clearly less, their own prefix included.
    """
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i], i))
    groups = _split_families(prompts, order, _MAX_DEPTH)[1] if order else []
    return sorted(map(sorted, groups), key=lambda rows: (-len(rows), rows[0]))


def _split_families(prompts: Sequence[Ids], indices: list[int], depth: int) -> tuple[int, list[list[int]]]:
    """Return (tokens to read, families) of the prompts at `indices`, which are in lexical order."""
    # the tokens that the first, the last and the shortest prompt share, all share
    extremes = (indices[0], indices[-1], min(indices, key=lambda i: len(prompts[i])))
    shared = common_prefix([prompts[i] for i in extremes])
    remaining: list[int] = []
    cost = 0
    groups: list[list[int]] = []
    for _, group in groupby(indices, key=lambda i: prompts[i][: shared + 1]):
        family = list(group)
        joint_cost = sum(len(prompts[i]) - shared for i in family)
        if depth and 1 < len(family) < len(indices):
            separate_cost, subgroups = _split_families(prompts, family, depth - 1)
            if separate_cost <= _MAX_COST_SHARE * joint_cost:
                cost, groups = cost + separate_cost, groups + subgroups
                continue
        remaining += family
        cost += joint_cost
    return (cost + shared, [*groups, remaining]) if remaining else (cost, groups)


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
        positions: dict[tuple[int, int], int] = {}  # by (parent position, token)
        tokens: list[int] = []
        depth: list[int] = []
        paths: list[list[int]] = []
        for text in texts:
            path: list[int] = []
            for token in text[:-1]:
                parent = path[-1] if path else -1
                if (parent, token) not in positions:
                    positions[parent, token] = len(tokens)
                    tokens.append(token)
                    depth.append(len(path))
                path.append(positions[parent, token])
            paths.append(path)
        sees = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for path in paths:
            index = torch.tensor(path, dtype=torch.long)
            sees[index[:, None], index] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return cls(tokens, depth, sees, paths)


def has_plain_layers(cache: DynamicCache) -> bool:
    """Whether every layer stores all keys and values in order, so that batches can be joined and copied."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def branch(cache: DynamicCache) -> DynamicCache:
    """Return a cache that grows independently. Copies states only, since they change in place; keys and values are replaced
    when they grow."""
    branched = copy.copy(cache)
    branched.layers = [
        copy.deepcopy(layer) if isinstance(layer, LinearAttentionCacheLayerMixin) else copy.copy(layer)
        for layer in cache.layers
    ]
    return branched


def with_room(cache: DynamicCache, room: int) -> DynamicCache:
    """Copy a cache with room for `room` more tokens; the default cache of transformers copies everything for each new token.
    Caches with other layer types (sliding windows, states) are only branched."""
    branched = branch(cache)
    if room and has_plain_layers(cache) and cache.get_seq_length():
        branched.layers = [_RoomyLayer(layer, room) for layer in cache.layers]
    return branched


class _RoomyLayer(DynamicLayer):
    """Keys and values [rows, heads, tokens, width] that are the front of larger tensors."""

    def __init__(self, layer: Any, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._buffers = (_enlarged(layer.keys, room), _enlarged(layer.values, room))
        self._set_length(layer.get_seq_length())

    def _set_length(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (buffer[:, :, :tokens] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values. Raises RuntimeError if there is no room left."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._set_length(end)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep some rows of the batch."""
        tokens = self.get_seq_length()
        self._buffers = (self._buffers[0][beam_idx], self._buffers[1][beam_idx])
        self._set_length(tokens)


def _enlarged(states: torch.Tensor, room: int) -> torch.Tensor:
    """Return a larger tensor that begins with the states, with unset values for `room` more tokens."""
    rows, heads, tokens, width = states.shape
    buffer = states.new_empty(rows, heads, tokens + room, width)
    buffer[:, :, :tokens] = states
    return buffer
