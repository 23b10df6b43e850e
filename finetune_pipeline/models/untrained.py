"""Tokens that are in a vocabulary but were never trained: their embeddings still look like those of unused tokens.

Base models often carry the marks of their instruct version's chat template this way. A template that uses them reads and
writes vectors that mean nothing, and adapters do not train embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.models.identity import weight_files

_PLACEHOLDER = re.compile(r"unused|reserved|placeholder|extra_?\d|dummy", re.IGNORECASE)
_SAMPLE = 64
_ALIKE = 0.5
"""Mean cosine of unused tokens with their common direction, from which they are taken to have one."""


def untrained_tokens(folder: Path, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` whose embedding lies nearer to the vocabulary's unused tokens than to its words.

    Reads single rows of the embedding matrix. Empty where the vocabulary has no unused tokens to compare with, or where
    those have no direction in common.
    """
    import torch

    unused = [t for t in sorted(vocabulary) if _PLACEHOLDER.search(t) and t not in tokens][:_SAMPLE]
    words = [t for t in sorted(vocabulary) if t.isascii() and t.strip("Ġ▁ ").isalpha()]
    words = words[:: max(1, len(words) // _SAMPLE)][:_SAMPLE]
    matrix = _embedding(folder)
    if matrix is None or len(unused) < 4 or len(words) < 4:
        return []

    def rows(names: Sequence[str]) -> torch.Tensor:
        found = torch.cat([matrix[vocabulary[n] : vocabulary[n] + 1] for n in names]).float()
        return torch.nn.functional.normalize(found, dim=1)

    direction = torch.nn.functional.normalize(rows(unused).mean(0), dim=0)
    alike, apart = (rows(unused) @ direction).mean().item(), (rows(words) @ direction).mean().item()
    if alike < _ALIKE or not tokens:
        return []
    near = rows(tokens) @ direction > (alike + apart) / 2
    return [token for token, yes in zip(tokens, near.tolist(), strict=True) if yes]


def _embedding(folder: Path) -> Any:
    """A view of the embedding matrix from which rows can be read, or None."""
    from safetensors import safe_open

    for file in weight_files(folder):
        tensors = safe_open(file, framework="pt")
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight")):
                return tensors.get_slice(name)
    return None
