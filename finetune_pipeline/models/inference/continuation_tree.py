"""The texts that may go on from one prompt, packed to be read at once, what they begin with alike only once.

A text's last token is never read: what comes behind it is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class Tree:
    """tokens; depth: how far behind the prompt each stands, from 0; sees [tokens, tokens]: which others each comes behind,
    and itself; paths: of every text the places of its tokens but the last."""

    tokens: list[int]
    depth: list[int]
    sees: torch.Tensor
    paths: list[list[int]]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Tree:
        places: dict[tuple[int, int], int] = {}  # by the place before and the token
        tokens: list[int] = []
        depth: list[int] = []
        paths: list[list[int]] = []
        for text in texts:
            path: list[int] = []
            for token in text[:-1]:
                before = path[-1] if path else -1
                if (before, token) not in places:
                    places[before, token] = len(tokens)
                    tokens.append(token)
                    depth.append(len(path))
                path.append(places[before, token])
            paths.append(path)
        sees = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
        for path in paths:
            at = torch.tensor(path, dtype=torch.long)
            sees[at[:, None], at] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return cls(tokens, depth, sees, paths)
