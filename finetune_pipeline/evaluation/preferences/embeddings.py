"""Text embeddings without a language model: static ones from a package or folder, or hashed words."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import exact_form

_FEATURES = 2**12


def embed(texts: Sequence[str], model: str = "hashed") -> np.ndarray:
    """Vectors of length 1 (float32, [n, dimensions]; 0 for a text without known words).

    model: ``hashed`` (words, pairs and parts of words, weighted by their rarity in `texts`); ``wordllama`` (static embeddings
    in the package of that name); or a folder with ``tokenizer.json`` and a safetensors file of static embeddings (as model2vec
    writes it). Works offline.
    """
    vectors = _hashed(texts) if model == "hashed" else _static(texts, model)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def _hashed(texts: Sequence[str]) -> np.ndarray:
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    forms = [exact_form(t) for t in texts]
    settings = {"n_features": _FEATURES, "alternate_sign": False, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), **settings)
    parts = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **settings)
    weighted = [TfidfTransformer(sublinear_tf=True).fit_transform(v.transform(forms)) for v in (words, parts)]
    vectors: np.ndarray = hstack(weighted).toarray()
    return vectors


def _static(texts: Sequence[str], model: str) -> np.ndarray:
    """The mean of the tokens' vectors."""
    from tokenizers import Tokenizer

    tokenizer_file, weights_file = embedding_files(model)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tensors = _tensors(weights_file)
    table = next((t for _, t in sorted(tensors.items()) if t.ndim == 2), None)
    if table is None:
        raise ValueError(f"{weights_file} holds no table of embeddings; give a folder with static embeddings")
    weights, mapping = tensors.get("weights"), tensors.get("mapping")
    out = np.zeros((len(texts), table.shape[1]), np.float32)
    vocabulary_size = len(table) if mapping is None else len(mapping)
    for i, encoded in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
        ids = np.array([t for t in encoded.ids if t < vocabulary_size], np.int64)
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
