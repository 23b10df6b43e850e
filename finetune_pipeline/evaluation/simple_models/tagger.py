"""The span tagger with classifiers, for JSON answers."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.features import features, nearest
from finetune_pipeline.evaluation.simple_models.fitted import CLOSED, MISSING, OPEN, TAGGED
from finetune_pipeline.evaluation.simple_models.json_fields import field_table
from finetune_pipeline.evaluation.simple_models.span_fitting import DATE, fit_span_tagger
from finetune_pipeline.spec.outputs import AnyOutput

MAX_VALUES = 50
"""A JSON field with more different values than this in the training rows is open: its value is copied, not classified."""
STRENGTH = 10.0
"""Inverse regularisation of the classifiers (scikit-learn's C)."""


@register
class TaggerAndLinear(SimpleModel):
    """A conditional random field for JSON fields whose values stand in the text, TF-IDF with logistic regression for those with
    few values; other fields as the nearest row."""

    name, title, kinds, rank = "tagger", "Span tagger and logistic regression", ("json",), 50
    packages = ("python-crfsuite", "python-dateutil")

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.multioutput import MultiOutputClassifier
        from sklearn.pipeline import make_pipeline

        paths, table = field_table(answers, output)
        columns = {path: [row[i] for row in table] for i, path in enumerate(paths)}
        closed = [path for path, column in columns.items() if 1 < len(set(column)) <= MAX_VALUES]
        open_paths = [path for path in paths if path not in closed]
        if closed:
            # one value against the rest, in the dual: an eighth of the multinomial model's time where rows are few and
            # features many, and no less accurate
            settings = {"solver": "liblinear", "dual": True, "max_iter": 1000, "random_state": seed}
            classifier = MultiOutputClassifier(OneVsRestClassifier(LogisticRegression(C=STRENGTH, **settings)))
            self.fields[CLOSED] = closed
            values = [list(row) for row in zip(*(columns[path] for path in closed), strict=True)]
            self.pipelines[CLOSED] = make_pipeline(features(), classifier).fit(list(texts), values)
        if open_paths:
            self.fields[OPEN] = open_paths
            rows = [list(row) for row in zip(*(columns[path] for path in open_paths), strict=True)]
            self.pipelines[OPEN] = nearest(texts, rows if len(open_paths) > 1 else columns[open_paths[0]])
        # a text of few values is better classified than tagged; numbers and dates are tagged in any case
        tagged = {path: column for path, column in columns.items() if path not in closed or not _is_text(column)}
        tagger = fit_span_tagger(texts, tagged, frozenset(closed))
        if tagger.fields:
            self.fields[TAGGED] = [fitted.path for fitted in tagger.fields]
            self.pipelines[TAGGED] = tagger
        self.has_probabilities = True
        return self


def _is_text(column: Sequence[str]) -> bool:
    """Whether a field's JSON texts are strings other than dates, or null."""
    return all(text in (MISSING, "null") or (text[0] == '"' and not DATE.fullmatch(text)) for text in column)
