"""Simple models without a language model, fitted in seconds on the training rows. Every candidate must beat them.

Each is a scikit-learn pipeline (for JSON answers, one for fields with few values and one for the others), so that
``finetune export --simple`` exports exactly the compared model.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from threadpoolctl import threadpool_limits

from finetune_pipeline.data.answer_rules import NOT_JSON, canonical, strict
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.evaluation.skops_files import read_skops, write_skops
from finetune_pipeline.evaluation.span_fitting import DATE, fit_span_tagger
from finetune_pipeline.evaluation.span_tagger import SpanTagger
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput

REGULARISATION = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths (scikit-learn's C) that are tried, strongest regularisation first."""
TUNING_ROWS, TUNING_FOLDS = 2_000, 3
"""Maximum training rows and folds of the cross-validation that chooses the strength."""
WORD = r"(?u)\b\w+\b"
"""Includes words of one character: `P0`, `5 s`, `I` tell tickets apart."""
MAX_VALUES = 50
"""A JSON field with more different values than this in the training rows is open: its value is copied, not classified."""
TAGGED = "tagged"
SAVED = "fitted.json"
"""File of a saved model that names its parts."""
MISSING = ""
"""Value of a JSON field that an answer lacks. No JSON text is empty."""

FieldPath = tuple[str, ...]


class _Saved(TypedDict):
    model: str
    parts: list[str]
    fields: dict[str, list[list[str]]]


@dataclass
class SimpleModel(ABC):
    """A model fitted on (text, answer) pairs.

    Attributes:
        pipelines: Fitted scikit-learn pipelines by part. A text or label model has the one part ``model``; a JSON model
            may have ``closed`` (fields with few values), ``open`` (the others) and ``tagged`` (those that stand in the text,
            a :class:`.span_tagger.SpanTagger`).
        fields: JSON models only: the field paths each part predicts, in the order of its columns. A later part replaces what
            an earlier one predicts.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("labels", "json", "text")
    """Kinds of output it can answer in."""

    pipelines: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, list[FieldPath]] = field(default_factory=dict)

    @abstractmethod
    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        """Fit on training rows and return self. Raises ValueError without rows, or if no text has features."""

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The answer to every text."""
        if not texts:
            return []
        if not self.fields:
            return [str(answer) for answer in self.pipelines["model"].predict(list(texts))]
        rows: list[dict[FieldPath, str]] = [{} for _ in texts]
        for part, paths in self.fields.items():
            predicted = self.pipelines[part].predict(list(texts))
            table = predicted if part == TAGGED else predicted.reshape(len(texts), len(paths))
            for row, values in zip(rows, table, strict=True):
                row.update((path, str(value)) for path, value in zip(paths, values, strict=True) if value is not None)
        return [joined_json(row) for row in rows]

    def save(self, folder: Path) -> None:
        """Write the fitted model into an existing folder, without pickle: `load_simple_model` reads it."""
        for part, pipeline in self.pipelines.items():
            if isinstance(pipeline, SpanTagger):
                pipeline.save(folder)
            else:
                write_skops(folder / f"{part}.skops", pipeline)
        fields = {part: [list(path) for path in paths] for part, paths in self.fields.items()}
        write_json(folder / SAVED, {"model": self.name, "parts": list(self.pipelines), "fields": fields}, durable=False)


class CommonestAnswer(SimpleModel):
    """Gives the answer that most training rows have."""

    name, title = "commonest", "Always the commonest answer"

    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        self.pipelines = {"model": _constant(texts, answers)}
        return self


class CommonestFields(SimpleModel):
    """Gives a JSON object that holds each field's commonest value."""

    name, title, kinds = "commonest_fields", "Each field's commonest value", ("json",)

    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        paths, table = _field_table(answers, output)
        self.fields = {"closed": paths}
        self.pipelines = {"closed": _constant(texts, table)}
        return self


class NearestRow(SimpleModel):
    """Copies the answer of the training row whose text is most like the question (cosine of character n-grams)."""

    name, title = "nearest", "The nearest training row's answer"

    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        self.pipelines = {"model": _nearest(texts, answers)}
        return self


class TfidfLogistic(SimpleModel):
    """TF-IDF with logistic regression."""

    name, title, kinds = "linear", "TF-IDF and logistic regression", ("labels",)

    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        self.pipelines = {"model": linear_pipeline(texts, answers, seed)}
        return self


class TaggerAndLinear(SimpleModel):
    """A conditional random field for JSON fields whose values stand in the text, TF-IDF with logistic regression for those with
    few values; other fields as the nearest row."""

    name, title, kinds = "tagger", "Span tagger and logistic regression", ("json",)

    def fit(self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0) -> SimpleModel:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.multioutput import MultiOutputClassifier
        from sklearn.pipeline import make_pipeline

        paths, table = _field_table(answers, output)
        columns = {path: [row[i] for row in table] for i, path in enumerate(paths)}
        closed = [path for path, column in columns.items() if 1 < len(set(column)) <= MAX_VALUES]
        open_paths = [path for path in paths if path not in closed]
        if closed:
            # one value against the rest, in the dual: an eighth of the multinomial model's time where rows are few and
            # features many, and no less accurate
            settings = {"solver": "liblinear", "dual": True, "max_iter": 1000, "random_state": seed}
            classifier = MultiOutputClassifier(OneVsRestClassifier(LogisticRegression(C=REGULARISATION[1], **settings)))
            self.fields["closed"] = closed
            values = [list(row) for row in zip(*(columns[path] for path in closed), strict=True)]
            self.pipelines["closed"] = make_pipeline(_features(), classifier).fit(list(texts), values)
        if open_paths:
            self.fields["open"] = open_paths
            rows = [list(row) for row in zip(*(columns[path] for path in open_paths), strict=True)]
            self.pipelines["open"] = _nearest(texts, rows if len(open_paths) > 1 else columns[open_paths[0]])
        # a text of few values is better classified than tagged; numbers and dates are tagged in any case
        tagged = {path: column for path, column in columns.items() if path not in closed or not _is_text(column)}
        tagger = fit_span_tagger(texts, tagged, frozenset(closed))
        if tagger.fields:
            self.fields[TAGGED] = [fitted.path for fitted in tagger.fields]
            self.pipelines[TAGGED] = tagger
        return self


def _is_text(column: Sequence[str]) -> bool:
    """Whether a field's JSON texts are strings other than dates, or null."""
    return all(text in (MISSING, "null") or (text[0] == '"' and not DATE.fullmatch(text)) for text in column)


SIMPLE_MODELS: dict[str, type[SimpleModel]] = {
    model.name: model for model in (CommonestAnswer, CommonestFields, NearestRow, TfidfLogistic, TaggerAndLinear)
}
"""All simple models by name, in the order reports show them. A new rival is a class in this tuple."""


def load_simple_model(folder: Path) -> SimpleModel:
    """Read a model that SimpleModel.save wrote. Raises DamagedFile if its description is not what was written."""
    saved = read_json(folder / SAVED, _Saved)
    model = SIMPLE_MODELS[saved["model"]]()
    model.fields = {part: [tuple(path) for path in paths] for part, paths in saved["fields"].items()}
    for part in saved["parts"]:
        model.pipelines[part] = SpanTagger.load(folder) if part == TAGGED else read_skops(folder / f"{part}.skops")
    return model


BLIND = (CommonestAnswer.name, CommonestFields.name)
"""Simple models that ignore the input."""


def fit_simple_models(
    texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0
) -> dict[str, SimpleModel]:
    """Fit every simple model that can answer in this form, by name. Raises ValueError if one cannot be fitted: without it, a
    candidate would beat the others only."""
    with threadpool_limits(limits=1):  # threads cost such small matrices more than they give
        return {
            name: model().fit(texts, answers, output, seed)
            for name, model in SIMPLE_MODELS.items()
            if output.kind in model.kinds
        }


def linear_pipeline(texts: Sequence[str], labels: Sequence[str], seed: int = 0, strength: float | None = None) -> Any:
    """Logistic regression on TF-IDF of word 1- and 2-grams and of character 3- to 5-grams within words, fitted.

    strength: scikit-learn's C; None chooses it from REGULARISATION by cross-validation on the training rows, with folds
    shuffled by `seed`. If all rows have one label, it always predicts that.

    Raises:
        ValueError: Texts and labels differ in number, there are none, or no text has features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    if len(set(labels)) == 1:
        return _constant(texts, labels)
    _check_rows(texts, labels)
    if strength is None:
        few_texts, few_labels = texts, labels
        if len(texts) > TUNING_ROWS:
            chosen = range(0, len(texts), -(-len(texts) // TUNING_ROWS))
            few_texts, few_labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
        folds = min(TUNING_FOLDS, *Counter(few_labels).values())
        strength = REGULARISATION[1]
        if folds > 1 and len(set(few_labels)) > 1:
            splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
            # vectorized once for all folds: a fold's own idf would not change which strength wins
            search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": list(REGULARISATION)}, cv=splits)
            strength = search.fit(_features().fit_transform(list(few_texts)), list(few_labels)).best_params_["C"]
    pipeline = make_pipeline(_features(), LogisticRegression(C=strength, max_iter=1000))
    return pipeline.fit(list(texts), list(labels))


def joined_json(values: Mapping[FieldPath, str]) -> str:
    """One line of JSON from the JSON texts of its fields; fields that are MISSING are left out. A whole value (`()`, such as an
    empty object) counts only without fields, and of a field's value and fields below it, the later one counts."""
    joined: dict[str, Any] = {}
    for path, text in values.items():
        if path and text != MISSING:
            place = joined
            for key in path[:-1]:
                if not isinstance(place.get(key), dict):
                    place[key] = {}
                place = place[key]
            place[path[-1]] = json.loads(text)
    whole = values.get((), MISSING)
    return whole if whole != MISSING and not joined else json.dumps(joined, ensure_ascii=False)


def _check_rows(texts: Sequence[str], answers: Sequence[Any]) -> None:
    if len(texts) != len(answers) or not texts:
        needed = "as many are needed, and at least one"
        raise ValueError(f"{len(texts)} training texts and {len(answers)} answers: {needed}")


def _features() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, so only where it is used
    from sklearn.pipeline import make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    return make_union(words, _character_ngrams())


def _character_ngrams() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)


def _constant(texts: Sequence[str], answers: Sequence[Any]) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    _check_rows(texts, answers)
    return make_pipeline(FunctionTransformer(), DummyClassifier(strategy="most_frequent")).fit(list(texts), answers)


def _nearest(texts: Sequence[str], answers: Sequence[Any]) -> Any:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    _check_rows(texts, answers)
    classifier = KNeighborsClassifier(n_neighbors=1, metric="cosine", algorithm="brute")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")  # answers may all be different
        return make_pipeline(_character_ngrams(), classifier).fit(list(texts), answers)


def _field_table(answers: Sequence[str], output: AnyOutput) -> tuple[list[FieldPath], list[list[str]]]:
    """The paths of all fields, in the order they first occur, and their JSON texts: one row per answer, one column per field."""
    unordered = frozenset(output.unordered) if isinstance(output, JsonOutput) else frozenset()
    rows = []
    for answer in answers:
        value = strict(answer)
        if value is NOT_JSON:
            raise ValueError(f"a training answer is not JSON: {answer[:100]!r}")
        rows.append(dict(_leaves(value, unordered)))
    paths = list(dict.fromkeys(path for row in rows for path in row))
    return paths, [[row.get(path, MISSING) for path in paths] for row in rows]


def _leaves(value: Any, unordered: frozenset[str], path: FieldPath = ()) -> list[tuple[FieldPath, str]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, unordered, (*path, key))]
    return [(path, canonical(value, unordered, ".".join(path)))]
