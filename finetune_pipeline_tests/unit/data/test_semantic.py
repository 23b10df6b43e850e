from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from finetune_pipeline.data.dedup import semantic
from finetune_pipeline.data.dedup.semantic import compared, embed, suspects
from finetune_pipeline.spec.data import SemanticSpec
from finetune_pipeline_tests.unit.data.wordings import HARD_NEGATIVES, PARAPHRASES, pairs

TEXTS = [
    "the invoice of march shows the wrong total for our second office",
    "how do I reset the password of the shared mailbox",
    "for our second office the invoice of march shows the wrong total",
    "please add another seat to the plan of the design team",
    "the printer in the hall is out of paper again",
    "resetting the password of the shared mailbox, how do I do that",
]


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


def test_rows_with_the_same_words_in_another_order_are_suspects() -> None:
    found = suspects(TEXTS, SemanticSpec(threshold=0.6))
    assert [(a, b) for a, b, _ in found] == [(0, 2), (1, 5)]
    assert all(0.6 <= likeness <= 1 for _, _, likeness in found) and found[0][2] > found[1][2]
    assert suspects(TEXTS, SemanticSpec(threshold=0.6)) == found


def test_nearest_rows_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", 7)
    texts = [text for pair in pairs(HARD_NEGATIVES) for text in pair]
    vectors = embed(texts)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    for top in (1, 3):
        wanted = set()
        for i in range(len(texts)):
            for j in np.argsort(-likeness[i], kind="stable")[:top]:
                if likeness[i, j] >= 0.5:
                    wanted.add((min(i, int(j)), max(i, int(j))))
        got = suspects(texts, SemanticSpec(threshold=0.5), top)
        assert {(a, b) for a, b, _ in got} == wanted and len(wanted) > 20
        assert [s for _, _, s in got] == sorted((s for _, _, s in got), reverse=True)


def test_hashed_words_tell_wording_and_not_meaning() -> None:
    """What the module's docstring says."""
    above = {}
    for name, sentences in (("paraphrases", pairs(PARAPHRASES)), ("negatives", pairs(HARD_NEGATIVES))):
        vectors = embed([a for a, _ in sentences] + [b for _, b in sentences])
        above[name] = ((vectors[:40] * vectors[40:]).sum(1) >= 0.5).mean()
    assert above["paraphrases"] < 0.1 and above["negatives"] > 0.5


def test_a_folder_with_static_embeddings(model: Path) -> None:
    texts = ["red car", "tree", "red auto", "nothing known", ""]
    vectors = embed(texts, str(model))
    assert vectors.shape == (5, 3) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0])
    found = suspects(texts, SemanticSpec(model=str(model), threshold=0.85))
    assert [(a, b) for a, b, _ in found] == [(0, 2)]


def test_missing_models_say_what_to_do(tmp_path: Path, model: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or no \.safetensors.*hashed"):
        embed(["a"], str(tmp_path / "nowhere"))
    (model / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        embed(["a"], str(model))
    save_file({"bias": np.zeros(3, np.float32)}, model / "model.safetensors")
    with pytest.raises(ValueError, match="no table of embeddings"):
        embed(["a"], str(model))


def test_of_very_many_rows_the_same_sample_is_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert compared(100).tolist() == list(range(100))
    many = compared(semantic.MOST + 1000)
    assert len(many) == semantic.MOST == len(set(many.tolist())) and (np.diff(many) > 0).all()
    assert np.array_equal(many, compared(semantic.MOST + 1000))
    monkeypatch.setattr(semantic, "MOST", 4)
    monkeypatch.setenv("FINETUNE_PROGRESS", str(tmp_path / "progress"))
    rows = set(compared(6).tolist())
    assert all({a, b} <= rows for a, b, _ in suspects(TEXTS, SemanticSpec(threshold=0.01)))
    assert "4 of 6 rows" in (tmp_path / "progress").read_text()


def test_small_inputs() -> None:
    assert suspects([], SemanticSpec()) == [] == suspects(["a"], SemanticSpec())
    assert suspects(["", ""], SemanticSpec(threshold=0.1)) == []
    assert suspects(["same words here", "same words here"], SemanticSpec(threshold=0.99)) == [(0, 1, 1.0)]
