"""A cache with room grows as transformers' own does, without moving what it holds."""

from __future__ import annotations

import torch
from transformers import DynamicCache, Gemma3TextConfig

from finetune_pipeline.models.inference.shared_reading import grows_plainly, with_room

ROWS, HEADS, WIDTH = 3, 2, 4


def _states(tokens: int, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, HEADS, tokens, WIDTH), torch.randn(rows, HEADS, tokens, WIDTH)


def _filled(tokens: int = 5, config: Gemma3TextConfig | None = None) -> DynamicCache:
    cache = DynamicCache(config=config)
    for layer in range(2):
        cache.update(*_states(tokens), layer)
    return cache


def _same(one: DynamicCache, other: DynamicCache) -> bool:
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


def test_it_grows_and_loses_rows_as_any_cache_does() -> None:
    torch.manual_seed(0)
    start = _filled()
    plain, roomy = with_room(start, 0), with_room(start, 3)
    for step in range(3):
        if step == 2:
            for cache in (plain, roomy):
                cache.batch_select_indices(torch.tensor([0, 2]))
        for layer in range(2):
            new = _states(1, ROWS if step < 2 else 2)
            seen = roomy.update(*new, layer)
            assert all(torch.equal(a, b) for a, b in zip(plain.update(*new, layer), seen, strict=True))
        assert _same(plain, roomy) and roomy.get_seq_length() == 6 + step
    assert [layer.get_seq_length() for layer in start.layers] == [5, 5], "what it came from is as it was"


def test_nothing_is_moved_and_branches_do_not_meet() -> None:
    start = _filled()
    one, other = with_room(start, 4), with_room(start, 4)
    place = one.layers[0].keys.data_ptr()
    for _ in range(4):
        one.update(*_states(1), 0)
        other.update(*_states(1), 0)
    assert one.layers[0].keys.data_ptr() == place
    assert torch.equal(one.layers[0].keys[:, :, :5], start.layers[0].keys)
    assert not torch.equal(one.layers[0].keys, other.layers[0].keys)


def test_layers_that_forget_are_only_branched() -> None:
    config = Gemma3TextConfig(
        num_hidden_layers=2, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    )
    start = _filled(3, config)
    own = with_room(start, 8)
    assert not grows_plainly(start) and [type(layer) for layer in own.layers] == [type(layer) for layer in start.layers]
    own.update(*_states(1), 1)
    assert start.layers[1].get_seq_length() == 3 and own.layers[1].get_seq_length() == 4
