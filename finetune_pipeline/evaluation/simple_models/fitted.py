"""A fitted simple model that answers texts.

This module needs only numpy, skops_files and the modules of OWN_PARTS; `finetune export` copies them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from finetune_pipeline.evaluation.simple_models.skops_files import read_skops

SAVED = "fitted.json"
"""File of a saved model that names its parts."""
CLOSED, OPEN, TAGGED = "closed", "open", "tagged"
"""Parts of a JSON model, see Fitted."""
NEAREST, SLOTS = "nearest", "slots"
"""Parts of a text model: the index of the nearest training row, and its answer with slots to fill."""
MISSING = ""
"""Value of a JSON field that an answer lacks. No JSON text is empty."""

Keys = tuple[str, ...]
"""Where a field is in a JSON answer."""


class Encoder(Protocol):
    """Turns texts into vectors."""

    def vectors(self, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
        """Return float32 [texts, layers, width]; layers are counted from 1."""


class KnownEncoder(Encoder, Protocol):
    """An encoder that says what its vectors depend on, and how many layers it has."""

    identity: Mapping[str, str]
    depth: int


@dataclass(frozen=True)
class Encoding:
    """The vectors that a part reads in place of texts.

    Attributes:
        source: Key of the encoder.
        layer: Behind which of its layers, from 1.
        encoder: What identifies the encoder: its name, dtype and the digest of its files.
    """

    source: str
    layer: int
    encoder: Mapping[str, str]


@dataclass
class Fitted:
    """A model that answers texts.

    Attributes:
        pipelines: Fitted parts by name, with scikit-learn's `predict`. Several parts of a label model are averaged. A JSON
            model may have ``closed`` (fields with few values), ``open`` (the others) and ``tagged`` (those that stand in the
            text, a :class:`.span_tagger.SpanTagger`).
        fields: JSON models only: the field paths each part predicts, in the order of its columns. A later part replaces what
            an earlier one predicts.
        encodings: The parts that read vectors.
        has_probabilities: Whether :meth:`probabilities`, or :meth:`field_probabilities` of a JSON model, are measured ones.
        encoders: By source; not saved.
    """

    pipelines: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, list[Keys]] = field(default_factory=dict)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    has_probabilities: bool = False
    encoders: Mapping[str, Encoder] = field(default_factory=dict, repr=False)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the answer to every text."""
        if not texts:
            return []
        if self.fields:
            return self._json_answers(texts)
        if SLOTS in self.pipelines:
            filled: list[str] = self.pipelines[SLOTS].fill(self.pipelines[NEAREST].predict(list(texts)), texts)
            return filled
        if (tables := self.probabilities(texts)) is not None:
            return [likeliest(table) for table in tables]
        ((part, pipeline),) = self.pipelines.items()
        return [str(answer) for answer in pipeline.predict(self._inputs(part, texts))]

    @property
    def labels(self) -> list[str]:
        """The labels that have a probability, in the order of :meth:`probabilities`; empty for a model without."""
        if not self.has_probabilities or self.fields:
            return []
        return [str(label) for label in next(iter(self.pipelines.values())).classes_]

    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]] | None:
        """Return each label's probability for every text; None for a model without."""
        if not self.has_probabilities or self.fields:
            return None
        if not texts:
            return []
        tables = []
        for part, pipeline in self.pipelines.items():
            labels, table = pipeline.classes_, pipeline.predict_proba(self._inputs(part, texts))
            tables.append([dict(zip(map(str, labels), map(float, row), strict=True)) for row in table])
        return [
            {label: sum(row[label] for row in rows) / len(rows) for label in rows[0]}
            for rows in zip(*tables, strict=True)
        ]

    def field_probabilities(self, texts: Sequence[str]) -> list[dict[str, float]] | None:
        """Return the probability of each field of the answer to every text, by its dotted path; None for a model without.

        It is 0 where the value is copied from the nearest training row. A field that an answer leaves out has one, too.
        """
        if not self.has_probabilities or not self.fields:
            return None
        if not texts:
            return []
        rows: list[dict[Keys, float]] = [{} for _ in texts]
        for part, paths in self.fields.items():
            pipeline = self.pipelines[part]
            if part == TAGGED:
                for row, tags in zip(rows, pipeline.predict_with_shares(texts), strict=True):
                    for path, (value, share) in zip(paths, tags, strict=True):
                        row[path] = share if value is not None else share * row[path]
                continue
            shares = _classified(pipeline, self._inputs(part, texts)) if part == CLOSED else _copied(pipeline)
            for row, of_row in zip(rows, np.broadcast_to(shares, (len(texts), len(paths))).tolist(), strict=True):
                row.update(zip(paths, of_row, strict=True))
        return [{".".join(path): share for path, share in row.items()} for row in rows]

    def _inputs(self, part: str, texts: Sequence[str]) -> Any:
        if part not in self.encodings:
            return list(texts)
        encoding = self.encodings[part]
        return self.encoders[encoding.source].vectors(texts, [encoding.layer])[:, 0]

    def _json_answers(self, texts: Sequence[str]) -> list[str]:
        rows: list[dict[Keys, str]] = [{} for _ in texts]
        for part, paths in self.fields.items():
            table = self.pipelines[part].predict(self._inputs(part, texts))
            if part != TAGGED:
                table = table.reshape(len(texts), len(paths))
            for row, values in zip(rows, table, strict=True):
                row.update((path, str(value)) for path, value in zip(paths, values, strict=True) if value is not None)
        return [joined_json(row) for row in rows]

    @classmethod
    def load(cls, folder: Path, encoders: Mapping[str, Encoder] | None = None) -> Fitted:
        """Read what :meth:`.base.SimpleModel.save` wrote. encoders: one for every source of :attr:`encodings`."""
        saved = json.loads((folder / SAVED).read_text("utf-8"))
        pipelines = {
            part: OWN_PARTS[part]().load(folder) if part in OWN_PARTS else read_skops(folder / f"{part}.skops")
            for part in saved["parts"]
        }
        return cls(
            pipelines,
            {part: [tuple(path) for path in paths] for part, paths in saved["fields"].items()},
            {part: Encoding(**encoding) for part, encoding in saved["encodings"].items()},
            saved["probabilities"],
            encoders or {},
        )


def _span_tagger() -> Any:
    from finetune_pipeline.evaluation.simple_models.span_tagger import SpanTagger

    return SpanTagger


def _slot_filler() -> Any:
    from finetune_pipeline.evaluation.simple_models.slot_filler import SlotFiller

    return SlotFiller


OWN_PARTS = {TAGGED: _span_tagger, SLOTS: _slot_filler}
"""Parts that are no pipelines of scikit-learn, and their classes, with `save` and `load`."""


def _classified(pipeline: Any, inputs: Any) -> np.ndarray:
    """Return the probability of each predicted value, from a classifier with several outputs. Shape [texts, fields]."""
    return np.stack([table.max(axis=1) for table in pipeline.predict_proba(inputs)], axis=1)


def _copied(pipeline: Any) -> np.ndarray:
    """Return the probability of each value that the nearest row gives: 0, or where all n rows have the same one (n+1)/(n+2), by the
    rule of succession. Shape [fields]."""
    classifier = pipeline.steps[-1][1]
    known, n = classifier.classes_, classifier.n_samples_fit_
    by_field = known if isinstance(known, list) else [known]
    return np.array([(n + 1) / (n + 2) if len(values) == 1 else 0.0 for values in by_field])


def likeliest(table: Mapping[str, float]) -> str:
    """The label with the highest probability."""
    return max(table, key=lambda label: table[label])


def joined_json(values: Mapping[Keys, str]) -> str:
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
