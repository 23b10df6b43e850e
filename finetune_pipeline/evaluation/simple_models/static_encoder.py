"""Static embeddings: for each text the mean of the vectors that a table holds for its tokens.

This module needs only safetensors and tokenizers, since `finetune export` copies it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


class StaticEncoder:
    """A table of embeddings with its tokenizer, as model2vec writes them, or wordllama. Raises ValueError for other files."""

    def __init__(self, tokenizer_file: Path, weights_file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tensors = _tensors(weights_file)
        table = next((t for _, t in sorted(tensors.items()) if t.ndim == 2), None)
        if table is None:
            raise ValueError(f"{weights_file} holds no table of embeddings; give a folder with static embeddings")
        self._table, self._weights, self._mapping = table, tensors.get("weights"), tensors.get("mapping")

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return float32 [texts, layers, width]; all layers are alike. A text without known tokens gets zeros."""
        table, weights, mapping = self._table, self._weights, self._mapping
        out = np.zeros((len(texts), table.shape[1]), np.float32)
        vocabulary_size = len(table) if mapping is None else len(mapping)
        for i, encoded in enumerate(self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            ids = np.array([t for t in encoded.ids if t < vocabulary_size], np.int64)
            if len(ids):
                vectors = table[ids if mapping is None else mapping[ids]].astype(np.float32)
                out[i] = (vectors if weights is None else vectors * weights[ids, None]).mean(axis=0)
        return np.repeat(out[:, None], len(layers), axis=1)


def _tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def embedding_files(model: str) -> tuple[Path, Path]:
    """(tokenizer, weights) of a model other than ``hashed``. Raises FileNotFoundError: why it is missing; what to do."""
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
            f"{folder} has no tokenizer.json or no .safetensors file; give a folder with static embeddings, or use: hashed"
        )
    return tokenizers[0], weights[0]
