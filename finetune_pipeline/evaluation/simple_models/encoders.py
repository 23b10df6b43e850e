"""Encoders of texts that read each text once: vectors are stored by content, with a model's cached answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.simple_models.fitted import Encoder
from finetune_pipeline.evaluation.simple_models.text_encoder import (
    MAX_TOKENS,
    TextEncoder,
    model_digest,
    open_text_encoder,
    open_tokenizer,
)
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.identity import model_folder, model_record
from finetune_pipeline.settings import read_settings

BASE = "base"
"""Source of the base model's own vectors."""
CODE = "1"
"""Increase when the same model and text give other vectors than before."""


class StoredEncoder:
    """Vectors of texts from an encoder that is loaded when the first text is new.

    Attributes:
        identity: What its vectors depend on: name, digest, dtype.
        depth: Number of layers.
        folder: Of the model; None for an encoder that is no transformer.
    """

    def __init__(
        self,
        identity: Mapping[str, str],
        depth: int,
        load: Callable[[], Encoder],
        folder: Path | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        self.identity, self.depth, self.folder = identity, depth, folder
        self._load, self._cache = load, cache
        self._known: dict[bytes, np.ndarray] = {}
        self._loaded: Encoder | None = None

    @property
    def fresh(self) -> Encoder:
        """The encoder itself, which stores nothing."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return float32 [texts, layers, width]."""
        common = digest_json([CODE, self.identity])
        keys = [[bytes.fromhex(digest_json([common, layer, text])) for layer in layers] for text in texts]
        wanted = list({key for row in keys for key in row} - self._known.keys())
        if self._cache and wanted:
            stored = self._cache.find_bytes(wanted)
            self._known |= {wanted[i]: np.frombuffer(content, "<f4") for i, content in stored.items()}
        new_texts = {
            text: row for text, row in zip(texts, keys, strict=True) if any(key not in self._known for key in row)
        }
        if new_texts:
            vectors = self.fresh.vectors(list(new_texts), layers)
            new = {
                key: vector
                for row, of_text in zip(new_texts.values(), vectors, strict=True)
                for key, vector in zip(row, of_text, strict=True)
            }
            self._known |= new
            if self._cache:
                self._cache.keep_bytes({key: vector.astype("<f4").tobytes() for key, vector in new.items()})
        return np.array([[self._known[key] for key in row] for row in keys], np.float32)

    @property
    def weights(self) -> list[Path]:
        """The files that are loaded."""
        return sorted(self.folder.glob("*.safetensors")) if self.folder else []

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than what is read of them."""
        if self.folder is None:
            return 0
        return sum(len(encoded.ids) > MAX_TOKENS for encoded in open_tokenizer(self.folder).encode_batch(list(texts)))


class FoundEncoder:
    """The encoder with this identity, which is looked for when the first text is read. Stores nothing."""

    def __init__(self, identity: Mapping[str, str]) -> None:
        self.identity = identity
        self._loaded: Encoder | None = None

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return float32 [texts, layers, width]. Raises OutsideError if the encoder is not there."""
        if self._loaded is None:
            self._loaded = open_text_encoder(_find(self.identity), self.identity["dtype"])
        return self._loaded.vectors(texts, layers)


def _find(identity: Mapping[str, str]) -> Path:
    """Return the folder of a base model: that of the environment variable BASE_FOLDER, or one in the artifact store."""
    chosen, store = os.environ.get("BASE_FOLDER"), read_settings().artifacts
    folders = [Path(chosen)] if chosen else [a.folder for a in ArtifactStore(store).all_versions(SHARED, "base_model")]
    named = [f for f in folders if chosen or model_record(f)["base_model"] == identity["name"]]
    for folder in map(model_folder, named):
        if model_digest(folder) == identity["digest"]:
            return folder
    raise OutsideError(
        f"the model reads vectors of {identity['name']} with the digest {identity['digest']}, which is not in {chosen or store}",
        "let BASE_FOLDER name a folder with that model, in the transformers format",
    )


def base_encoder(
    folder: Path, dtype: str, load: Callable[[], Any] | None = None, cache: AnswerCache | None = None
) -> StoredEncoder:
    """Return the encoder by a base model's own hidden states.

    Args:
        folder: A model folder, or the artifact of a base model.
        dtype: Computed in, such as ``bfloat16``.
        load: Returns the model, if it is in memory already.
    """
    source = model_folder(folder)
    identity = {"name": str(model_record(folder)["base_model"]), "dtype": dtype, "digest": model_digest(source)}

    def open_encoder() -> Encoder:
        return TextEncoder(load(), open_tokenizer(source)) if load else open_text_encoder(source, dtype)

    return StoredEncoder(identity, _depth(source), open_encoder, source, cache)


def _depth(folder: Path) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    return int(config.num_hidden_layers)
