"""Tokens that are in a vocabulary but were never trained: their embeddings still look like those of unused tokens.

Base models often carry the marks of their instruct version's chat template this way. A template that uses them reads and
writes vectors that mean nothing, and adapters do not train embeddings. No torch: single rows are read from the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.models.identity import weight_files

_PLACEHOLDER = re.compile(r"unused|reserved|placeholder|extra_?\d|dummy", re.IGNORECASE)
_SAMPLE = 64
_ALIKE = 0.5
"""Mean cosine of unused tokens with their common direction, from which they are taken to have one."""
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def untrained_tokens(folder: Path, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` whose embedding lies nearer to the vocabulary's unused tokens than to its words.

    Reads single rows of the embedding matrix. Empty where the vocabulary has no unused tokens to compare with, or where
    those have no direction in common.
    """
    if not tokens:
        return []
    unused = sorted(t for t in vocabulary if _PLACEHOLDER.search(t) and t not in tokens)[:_SAMPLE]
    words = sorted(t for t in vocabulary if t.isascii() and t.strip("Ġ▁ ").isalpha())
    words = words[:: max(1, len(words) // _SAMPLE)][:_SAMPLE]
    matrix = _embedding(folder)
    if matrix is None or len(unused) < 4 or len(words) < 4:
        return []

    def rows(names: Sequence[str]) -> np.ndarray:
        return _unit(_floats(matrix[[vocabulary[n] for n in names]]))

    direction = _unit(rows(unused).mean(0))
    alike, apart = float((rows(unused) @ direction).mean()), float((rows(words) @ direction).mean())
    if alike < _ALIKE:
        return []
    near = rows(tokens) @ direction > (alike + apart) / 2
    return [token for token, yes in zip(tokens, near.tolist(), strict=True) if yes]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _floats(stored: np.ndarray) -> np.ndarray:
    """float32 of stored numbers; bfloat16, which numpy does not know, is the upper half of a float32."""
    if stored.dtype == np.dtype("<u2"):
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _embedding(folder: Path) -> Any:
    """The embedding matrix as numbers on disk (bfloat16 as whole numbers of 16 bits), or None."""
    for file in weight_files(folder):
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size))
        for name, told in header.items():
            if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight")) and told["dtype"] in _STORED:
                start = 8 + size + told["data_offsets"][0]
                return np.memmap(file, _STORED[told["dtype"]], "r", start, tuple(told["shape"]))
    return None
