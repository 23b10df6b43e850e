"""Text embeddings without a language model: static ones from a package or folder, or hashed words."""

from collections.abc import Sequence

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import exact_form
from finetune_pipeline.evaluation.simple_models.static_encoder import StaticEncoder, embedding_files

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
    return StaticEncoder(*embedding_files(model)).vectors(texts, [1])[:, 0]
