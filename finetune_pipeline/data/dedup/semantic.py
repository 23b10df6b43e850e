"""Finds rows that may mean the same in different words: nearest neighbours by cosine similarity of embeddings.

Advisory. Share of 40 paraphrases and 40 hard negatives (other requests in similar words) at or above a cosine similarity:

model      kind             .5   .6   .7   .8   .9
hashed     paraphrases      2%   0%   0%   0%   0%
hashed     hard negatives  60%  32%  22%   8%   2%
wordllama  paraphrases     50%  30%  18%  10%   0%
wordllama  hard negatives  80%  62%  42%  25%  12%

No threshold separates the two, so suspects are for people to review. `hashed` finds rows that share most of their words in
another order or form; synonyms need static embeddings at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import exact_form
from finetune_pipeline.progress import tell
from finetune_pipeline.spec.data import SemanticSpec

MOST = 50_000  # rows compared with each other; of more a sample is taken
_BLOCK = 256
_FEATURES = 2**18
_DIMENSIONS = 256
_COLUMNS = 2**15  # of the projection at once


def suspects(texts: Sequence[str], spec: SemanticSpec, top: int = 1) -> list[tuple[int, int, float]]:
    """(row, other row, cosine similarity) of suspects, row < other row, most similar first.

    A pair is one if either row is among the other's `top` nearest and their similarity reaches ``spec.threshold``. All
    rows of :func:`compared` are compared with each other, 256 rows at a time; their number is reported as progress. Raises
    FileNotFoundError or ValueError where the model is missing or is none.
    """
    rows = compared(len(texts))
    if len(rows) < len(texts):
        tell("semantic", f"{len(rows)} of {len(texts)} rows, drawn by chance, are compared", rows=len(rows))
    vectors = embed([texts[i] for i in rows], spec.model)
    top = min(top, len(rows) - 1)
    likeness_of: dict[tuple[int, int], float] = {}
    for start in range(0, len(rows) if top > 0 else 0, _BLOCK):
        block = vectors[start : start + _BLOCK]
        likeness = block @ vectors.T
        likeness[np.arange(len(block)), start + np.arange(len(block))] = -1
        nearest = np.argpartition(-likeness, top - 1, axis=1)[:, :top]
        values = np.take_along_axis(likeness, nearest, axis=1)
        for i, j in zip(*np.nonzero(values >= spec.threshold), strict=True):
            a, b = int(rows[start + i]), int(rows[nearest[i, j]])
            likeness_of[min(a, b), max(a, b)] = min(1.0, round(float(values[i, j]), 4))
    return sorted(((a, b, s) for (a, b), s in likeness_of.items()), key=lambda pair: (-pair[2], pair[0], pair[1]))


def compared(n: int) -> np.ndarray:
    """Which of n rows are compared (int64, ascending): all, or 50,000 drawn by chance, always the same ones."""
    if n <= MOST:
        return np.arange(n)
    return np.sort(np.random.Generator(np.random.PCG64(0)).permutation(n)[:MOST])


def embed(texts: Sequence[str], model: str = "hashed") -> np.ndarray:
    """Vectors of length 1 (float32, [n, dimensions]; 0 for a text without known words).

    model: ``hashed`` (words, pairs of words and parts of words, weighted by their rarity in `texts`, projected at random);
    ``wordllama`` (static embeddings inside the package of that name); or a folder with ``tokenizer.json`` and a
    safetensors file of static embeddings (as model2vec writes it). Nothing is fetched from anywhere.
    """
    vectors = _hashed(texts) if model == "hashed" else _static(texts, model)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def _hashed(texts: Sequence[str]) -> np.ndarray:
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    if not texts:
        return np.zeros((0, _DIMENSIONS), np.float32)
    forms = [exact_form(t) for t in texts]
    words = HashingVectorizer(n_features=_FEATURES, ngram_range=(1, 2), alternate_sign=False, dtype=np.float32)
    parts = HashingVectorizer(
        n_features=_FEATURES, analyzer="char_wb", ngram_range=(3, 5), alternate_sign=False, dtype=np.float32
    )
    weighted = [TfidfTransformer(sublinear_tf=True).fit_transform(v.transform(forms)) for v in (words, parts)]
    features = hstack(weighted, format="csc")
    used = np.flatnonzero(np.diff(features.indptr))
    made = np.zeros((len(texts), _DIMENSIONS), np.float32)
    for start in range(0, len(used), _COLUMNS):
        columns = used[start : start + _COLUMNS]
        made += features[:, columns] @ _signs(columns)
    return made


def _signs(columns: np.ndarray) -> np.ndarray:
    """A row of a random projection (float32, [n, 256], each 1 or -1; Achlioptas 2003) for every column's number."""
    x: np.ndarray = columns.astype(np.uint64)[:, None] * np.uint64(_DIMENSIONS // 64) + np.arange(
        _DIMENSIONS // 64, dtype=np.uint64
    )
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = np.unpackbits((x ^ (x >> np.uint64(31))).astype("<u8").view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _static(texts: Sequence[str], model: str) -> np.ndarray:
    """The mean of the tokens' vectors."""
    from tokenizers import Tokenizer

    tokenizer_file, weights_file = _files(model)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tensors = _tensors(weights_file)
    table = next((t for _, t in sorted(tensors.items()) if t.ndim == 2), None)
    if table is None:
        raise ValueError(f"{weights_file} holds no table of embeddings; give a folder with static embeddings")
    weights, mapping = tensors.get("weights"), tensors.get("mapping")
    out = np.zeros((len(texts), table.shape[1]), np.float32)
    known = len(table) if mapping is None else len(mapping)
    for i, encoded in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
        ids = np.array([t for t in encoded.ids if t < known], np.int64)
        if len(ids):
            vectors = table[ids if mapping is None else mapping[ids]].astype(np.float32)
            out[i] = (vectors if weights is None else vectors * weights[ids, None]).mean(axis=0)
    return out


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _files(model: str) -> tuple[Path, Path]:
    """(tokenizer, weights) of a model."""
    if model == "wordllama":
        package = find_spec("wordllama")
        if package is None or not package.submodule_search_locations:
            raise FileNotFoundError("wordllama is not installed; install it (pip install wordllama), or use: hashed")
        folder = Path(package.submodule_search_locations[0])
        tokenizers, weights = sorted(folder.glob("tokenizers/*.json")), sorted(folder.glob("weights/*.safetensors"))
    else:
        folder = Path(model)
        tokenizers, weights = sorted(folder.glob("tokenizer.json")), sorted(folder.glob("*.safetensors"))
    if not tokenizers or not weights:
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json or no .safetensors file; give a folder with static "
            "embeddings, or use: hashed"
        )
    return tokenizers[0], weights[0]
