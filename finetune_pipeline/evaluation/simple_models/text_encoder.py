"""Reads texts with a transformer: for each text the mean of its tokens' vectors behind chosen layers.

This module needs only static_encoder, torch, transformers and tokenizers; `finetune export` copies it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.evaluation.simple_models.static_encoder import StaticEncoder

STATIC = "static"
"""Stands for the dtype of an encoder that computes nothing: a table of embeddings."""
MAX_TOKENS = 512
"""Tokens of a text that are read, from its beginning."""
PASS_TOKENS = 2048
"""Tokens read in one pass, padding included."""


class _LastLayerRead(Exception):
    """Ends a pass: no later layer is wanted."""


class TextEncoder:
    """A transformer with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        config = model.config.get_text_config()
        self._model, self._tokenizer, self._width = model.base_model, tokenizer, int(config.hidden_size)
        self._blocks = _blocks(self._model, int(config.num_hidden_layers))
        self._max_tokens = min(MAX_TOKENS, getattr(config, "max_position_embeddings", None) or MAX_TOKENS)

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return the mean vectors behind each of these layers, counted from 1; float32 [texts, layers, width]. A text without
        tokens gets zeros."""
        import torch

        encoded = [encoded.ids[: self._max_tokens] for encoded in self._tokenizer.encode_batch(list(texts))]
        result = np.zeros((len(texts), len(layers), self._width), np.float32)
        with torch.inference_mode():
            for rows in _passes([len(ids) for ids in encoded]):
                result[rows] = self._read([encoded[row] for row in rows], layers)
        return result

    def _read(self, encoded: Sequence[list[int]], layers: Sequence[int]) -> np.ndarray:
        import torch

        longest, device = max(map(len, encoded)), self._model.device
        ids = torch.zeros(len(encoded), longest, dtype=torch.long)
        mask = torch.zeros(len(encoded), longest, dtype=torch.long)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        ids, mask = ids.to(device), mask.to(device)
        means: dict[int, Any] = {}

        def note(layer: int, output: Any) -> None:
            states = (output[0] if isinstance(output, tuple) else output).float()
            means[layer] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            if layer == max(layers):
                raise _LastLayerRead

        hooks = [
            self._blocks[layer - 1].register_forward_hook(lambda _, __, output, layer=layer: note(layer, output))
            for layer in set(layers)
        ]
        try:
            self._model(input_ids=ids, attention_mask=mask)
        except _LastLayerRead:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return np.asarray(torch.stack([means[layer] for layer in layers], 1).cpu().numpy(), np.float32)


def open_encoder(files: Sequence[Path], dtype: str) -> TextEncoder | StaticEncoder:
    """Load an encoder from :func:`model_files`; static embeddings where the dtype is STATIC."""
    if dtype != STATIC:
        return open_text_encoder(files[0].parent, dtype)
    weights = [path for path in files if path.suffix == ".safetensors"]
    tokenizers = [path for path in files if path.suffix == ".json" and path.name != "config.json"]
    return StaticEncoder(tokenizers[0], weights[0])


def open_text_encoder(folder: Path, dtype: str) -> TextEncoder:
    """Load a model in the transformers format, from safetensors only, to compute in this dtype."""
    import torch
    from transformers import AutoModel

    options: dict[str, object] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), **options).eval()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return TextEncoder(model.to(device), open_tokenizer(folder))


def beside(folder: Path, encodings: Mapping[str, Any]) -> dict[str, TextEncoder | StaticEncoder]:
    """Load the encoders of an exported model's parts: for a source such as ``base`` from the folder of that name in `folder`, or
    from the one that the environment variable BASE_FOLDER names. Raises ValueError if it is another model."""
    encoders: dict[str, TextEncoder | StaticEncoder] = {}
    for source, encoder in {encoding.source: encoding.encoder for encoding in encodings.values()}.items():
        variable = f"{source.upper()}_FOLDER"
        place = Path(os.environ.get(variable, folder / source))
        if not place.is_dir():
            raise ValueError(f"{encoder['name']} is needed in {place}, or in a folder that {variable} names")
        files = model_files(place)
        if files_digest(files) != encoder["digest"]:
            raise ValueError(f"{place} is not {encoder['name']} with the digest {encoder['digest']}")
        encoders[source] = open_encoder(files, encoder["dtype"])
    return encoders


def open_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer. Control tokens in a text are plain text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def model_files(folder: Path) -> list[Path]:
    """Return the files of a model that vectors depend on: weights, configuration and tokenizer."""
    names = ("config.json", "tokenizer.json")
    return sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in names)


def files_digest(paths: Sequence[Path]) -> str:
    """Return a digest of the contents of files, in whichever order and under whichever names."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()


def _blocks(model: Any, depth: int) -> Any:
    """Return the list of the model's layers."""
    from torch import nn

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise ValueError(f"the layers of a {model.config.model_type} model cannot be read one by one")
    return lists[0]


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield rows to read together: of similar length, and at most PASS_TOKENS. Rows without tokens are left out."""
    rows: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row]):
        longest = lengths[rows[0]] if rows else 0
        if rows and longest * (len(rows) + 1) > PASS_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
