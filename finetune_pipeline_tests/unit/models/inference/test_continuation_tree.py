"""Labels that begin alike are read once where they do, and score as if each stood alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.shared_reading import Tree
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline_tests.tiny_model import make_tiny_model

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
