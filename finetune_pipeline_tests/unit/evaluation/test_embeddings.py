from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from finetune_pipeline.evaluation.preferences.embeddings import embed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with embeddings of five words, of which `car` and `auto` point the same way."""
    words = {"[UNK]": 0, "car": 1, "auto": 2, "tree": 3, "red": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vectors = np.array([[0, 0, 0], [1, 0.1, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    save_file({"embeddings": vectors}, tmp_path / "model.safetensors")
    return tmp_path


def test_hashed_texts_of_the_same_words_are_nearer_than_others() -> None:
    vectors = embed(["the invoice shows the wrong total", "wrong total the invoice shows", "reset my password", ""])
    likeness = vectors @ vectors[0]
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0])
    assert likeness[1] > 0.6 and likeness[2] < 0.2


def test_a_folder_with_static_embeddings(model: Path) -> None:
    texts = ["red car", "tree", "red auto", "nothing known", ""]
    vectors = embed(texts, str(model))
    assert vectors.shape == (5, 3) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0])
    assert vectors[0] @ vectors[2] > 0.85 > vectors[0] @ vectors[1]


def test_missing_models_say_what_to_do(tmp_path: Path, model: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or no \.safetensors.*hashed"):
        embed(["a"], str(tmp_path / "nowhere"))
    (model / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        embed(["a"], str(model))
    save_file({"bias": np.zeros(3, np.float32)}, model / "model.safetensors")
    with pytest.raises(ValueError, match="no table of embeddings"):
        embed(["a"], str(model))
