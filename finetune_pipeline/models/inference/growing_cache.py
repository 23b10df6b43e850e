"""Caches of keys and values that branch and grow without being copied at every token."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def branch(cache: DynamicCache) -> DynamicCache:
    """A cache that grows on its own: layers replace their tensors when they grow, so these need no copy."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


def grows_plainly(cache: DynamicCache) -> bool:
    """Whether every layer keeps all keys and values in order, so that batches can be joined and copied."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def with_room(cache: DynamicCache, room: int) -> DynamicCache:
    """A copy with room for `room` more tokens; transformers' own copies everything whenever a token is added.

    A cache of other layers than plain ones (sliding windows, states) is only branched.
    """
    own = branch(cache)
    if room and grows_plainly(cache) and cache.get_seq_length():
        own.layers = [_RoomyLayer(layer, room) for layer in cache.layers]
    return own


class _RoomyLayer(DynamicLayer):
    """Keys and values [rows, heads, tokens, width] that are the front of larger tensors."""

    def __init__(self, layer: Any, room: int) -> None:
        super().__init__()
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
        """Write behind what is there. Raises RuntimeError when there is no more room."""
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for whole, states in zip(self._whole, (key_states, value_states), strict=True):
            whole[:, :, start:end] = states
        return self._show(end)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        tokens = self.get_seq_length()
        self._whole = (self._whole[0][indices], self._whole[1][indices])
        self._show(tokens)


def _enlarged(states: torch.Tensor, room: int) -> torch.Tensor:
    rows, heads, tokens, width = states.shape
    whole = states.new_empty(rows, heads, tokens + room, width)
    whole[:, :, :tokens] = states
    return whole
