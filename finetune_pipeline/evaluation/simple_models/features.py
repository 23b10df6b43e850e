"""What simple models read of a text, and the models that read nothing or the nearest row."""

import warnings
from collections.abc import Sequence
from typing import Any

WORD = r"(?u)\b\w+\b"
"""Includes words of one character: `P0`, `5 s`, `I` tell tickets apart."""


def features() -> Any:
    """TF-IDF of word 1- and 2-grams and of character 3- to 5-grams within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, so only where it is used
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    return make_union(words, _character_ngrams())


def constant(texts: Sequence[Any], answers: Sequence[Any]) -> Any:
    """A pipeline that always predicts the commonest answer."""
    from sklearn.dummy import DummyClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    check_rows(texts, answers)
    return make_pipeline(FunctionTransformer(), DummyClassifier(strategy="most_frequent")).fit(list(texts), answers)


def nearest(texts: Sequence[str], answers: Sequence[Any]) -> Any:
    """A pipeline that predicts the answer of the training text most like a text (cosine of character n-grams)."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    check_rows(texts, answers)
    classifier = KNeighborsClassifier(n_neighbors=1, metric="cosine", algorithm="brute")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # answers may all be different
        return make_pipeline(_character_ngrams(), classifier).fit(list(texts), answers)


def check_rows(texts: Sequence[Any], answers: Sequence[Any]) -> None:
    """Raise ValueError unless there are as many texts as answers, and at least one."""
    if len(texts) != len(answers) or not len(texts):
        needed = "as many are needed, and at least one"
        raise ValueError(f"{len(texts)} training texts and {len(answers)} answers: {needed}")


def _character_ngrams() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
