"""Prompts are put behind the beginnings that save the most reading; a single odd one spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, Gemma3TextConfig

from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.shared_reading import Tree, common_prefix, families, grows_plainly, with_room
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline_tests.tiny_model import make_tiny_model

SYSTEM, OTHER = list(range(100, 160)), list(range(200, 230))


def test_common_prefix_leaves_a_token_to_every_prompt() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1
    assert common_prefix([[1, 2, 3, 9], [1, 2, 4], [1, 2, 3]]) == 2
    assert common_prefix([[4], [4, 5]]) == 0
    assert common_prefix([[1, 2, 3]]) == 2
    assert common_prefix([]) == 0


def _cost(prompts: list[list[int]], found: list[list[int]]) -> int:
    total = 0
    for rows in found:
        shared = common_prefix([prompts[i] for i in rows])
        total += shared + sum(len(prompts[i]) - shared for i in rows)
    return total


def test_one_prompt_without_the_beginning_is_a_family_of_its_own() -> None:
    prompts = [[1, *SYSTEM, 7 + i, 9] for i in range(20)]
    prompts.insert(4, [1, 7, 9, 9])
    assert families(prompts) == [[i for i in range(21) if i != 4], [4]]


def test_two_beginnings_and_one_within_another() -> None:
    long = [[*SYSTEM, *OTHER, i, 1] for i in range(5)]
    short = [[*SYSTEM, 50 + i, 2] for i in range(6)]
    other = [[*OTHER, i, 3] for i in range(4)]
    assert families([*long, *short, *other]) == [list(range(5, 11)), list(range(5)), list(range(11, 15))]


def test_prompts_that_part_at_once_behind_a_beginning_stay_together() -> None:
    """Retrieved examples differ from row to row: there is nothing to share but the beginning."""
    prompts = [[*SYSTEM, 1000 + i, *range(i, i + 80)] for i in range(12)]
    assert families(prompts) == [list(range(12))]
    assert families([[1, 2, 3]]) == [[0]] and families([]) == []
    assert families([[5, 6]] * 4) == [[0, 1, 2, 3]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30))
def test_every_prompt_is_in_one_family_and_nothing_costs_more(prompts: list[list[int]]) -> None:
    found = families(prompts)
    assert sorted(i for rows in found for i in rows) == list(range(len(prompts)))
    assert all(rows == sorted(rows) for rows in found)
    assert _cost(prompts, found) <= _cost(prompts, [list(range(len(prompts)))] if prompts else [])


ALIKE = [[20, 21, 2], [20, 21, 23, 2], [20, 2], [22, 21, 2], [20, 21, 2], [22], []]


def test_common_beginnings_stand_once() -> None:
    tree = Tree.of(ALIKE)
    assert tree.tokens == [20, 21, 23, 22, 21]
    assert tree.depth == [0, 1, 2, 0, 1]
    assert tree.paths == [[0, 1], [0, 1, 2], [0], [3, 4], [0, 1], [], []]
    assert [row.nonzero().flatten().tolist() for row in tree.sees] == [[0], [0, 1], [0, 1, 2], [3], [3, 4]]


def test_texts_of_one_token_are_not_read() -> None:
    assert Tree.of([[5], [6]]).tokens == []


@torch.no_grad()
def test_scores_are_those_of_each_label_alone(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base", seed=3)
    model, tokenizer = load_for_prediction(folder, torch.device("cpu")), load_tokenizer(folder)
    prompts = [[5, 6, 7, 8], [5, 9, 10], [5, 11]]
    labels = [ALIKE[:5], ALIKE[2:5], [[30, 31, 32, 33, 2]]]  # rows may be offered unlike labels
    answers = generate_and_score(model, tokenizer, prompts, labels, 3, 3)
    for answer, prompt, texts in zip(answers, prompts, labels, strict=True):
        for score, text in zip(answer.label_scores, texts, strict=True):
            logits = model(input_ids=torch.tensor([prompt + text])).logits[0].double().log_softmax(-1)
            alone = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(text))
            assert score == pytest.approx(alone, abs=1e-4)
    assert answers[0].label_scores[0] == answers[0].label_scores[4]


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


def test_layers_that_forget_are_only_branched() -> None:
    config = Gemma3TextConfig(
        num_hidden_layers=2, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    )
    start = _filled(3, config)
    own = with_room(start, 8)
    assert not grows_plainly(start) and [type(layer) for layer in own.layers] == [type(layer) for layer in start.layers]
    own.update(*_states(1), 1)
    assert start.layers[1].get_seq_length() == 3 and own.layers[1].get_seq_length() == 4
