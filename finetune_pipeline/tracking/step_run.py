"""The MLflow run of one materialization. A retry may log everything again."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_pipeline.tracking.mlflow_store import mlflow_errors, redact, redact_field

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000


class StepRun:
    """The nested MLflow run of one materialization. `parent`: the run of the whole Dagster run, or itself if there is none."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str, url: str, parent: StepRun | None = None) -> None:
        self.client, self.uri, self.run_id, self.url = client, uri, run_id, url
        self.parent = parent or self
        self._sent: dict[str, set[tuple[int, float]]] = {}
        self._logged_before: set[str] | None = None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters. Nested mappings get dotted names; values too long for MLflow are truncated and marked with their hash.

        MLflow refuses a different value of a parameter: log only what the artifact's version determines; measurements are metrics.
        """
        from mlflow.entities import Param

        values = {name: _shorten(redact_field(name, value), _PARAM_LENGTH) for name, value in _flat(params)}
        with mlflow_errors(self.uri):
            self.client.log_batch(self.run_id, params=[Param(name, value) for name, value in values.items()])

    def log_metrics(self, metrics: Mapping[str, object]) -> None:
        """Log finite numbers; nested mappings get dotted names, None values are skipped.

        Raises ValueError naming every value that is not a finite number.
        """
        self._send([(name, value, 0) for name, value in _flat(metrics) if value is not None])

    def log_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows of {"step", numbers...}. It may be called repeatedly with a growing list: only new values are sent."""
        values = [(name, value, row["step"]) for row in rows for name, value in _flat(row)]
        self._send([value for value in values if value[0] != "step" and value[1] is not None])

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """Log an input data set, so that runs can be searched by it.

        digest: hex SHA-256 of its content, of which 32 digits are kept (MLflow's own digest ignores chat messages).
        context: what it was used for (training, validation, test). profile: counts, shown in the UI.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entry = Dataset(
            name=name,
            digest=digest[:32],
            source_type="local",
            source=json.dumps({"uri": redact(source)}, ensure_ascii=False),
            schema=None,
            profile=redact(json.dumps(dict(profile), sort_keys=True, default=str)),
        )
        with mlflow_errors(self.uri):
            tagged = DatasetInput(entry, tags=[InputTag("mlflow.data.context", context)])
            self.client.log_inputs(self.run_id, datasets=[tagged])

    def log_artifact(self, path: Path) -> None:
        """Copy a file, or a folder with its files, into the run's artifacts."""
        with mlflow_errors(self.uri):
            self.client.log_artifact(self.run_id, str(path))

    def page_of(self, file: str) -> str:
        """Return the address of MLflow's page that shows a file of the run's artifacts."""
        page, _, view = self.url.partition("?")
        return f"{page}/artifacts/{file}?{view}"

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run; they may change. ``mlflow.note.content`` is the description on the run's page."""
        from mlflow.entities import RunTag

        new = [RunTag(name, _shorten(redact_field(name, value), _TAG_LENGTH)) for name, value in _flat(tags)]
        with mlflow_errors(self.uri):
            self.client.log_batch(self.run_id, tags=new)

    def _send(self, values: Sequence[tuple[str, Any, int]]) -> None:
        from mlflow.entities import Metric

        invalid = [f"{name}={value!r:.40}" for name, value, _ in values if not _is_finite(value)]
        if invalid:
            raise ValueError(f"metrics must be finite numbers: {', '.join(invalid)}")
        now = int(time.time() * 1000)
        with mlflow_errors(self.uri):
            rows = dict.fromkeys((name, float(value), step) for name, value, step in values)
            new = [Metric(n, value, now, step) for n, value, step in rows if (step, value) not in self._known(n)]
            self.client.log_batch(self.run_id, metrics=new)
            for metric in new:
                self._known(metric.key).add((metric.step, metric.value))

    def _known(self, name: str) -> set[tuple[int, float]]:
        """Return the stored values of a metric, which an earlier attempt may have logged."""
        if self._logged_before is None:
            self._logged_before = set(self.client.get_run(self.run_id).data.metrics)
        if name not in self._sent:
            history = self.client.get_metric_history(self.run_id, name) if name in self._logged_before else []
            self._sent[name] = {(m.step, m.value) for m in history}
        return self._sent[name]


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield _accepted(f"{prefix}{name}"), value


@cache
def _accepted(name: str) -> str:
    """Return a name as MLflow accepts it. Keys of users, such as `$defs` of a JSON schema, keep their letters and get a hash."""
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, path_not_unique, validate_param_and_metric_name

    if validate_param_and_metric_name(name) and not path_not_unique(name) and len(name) <= MAX_ENTITY_KEY_LENGTH:
        return name
    letters = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return f"{letters[: MAX_ENTITY_KEY_LENGTH - 20]}-{_sha256(name)[:8]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(float(value))


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = f" … [{len(text)} characters, sha256 {_sha256(text)[:16]}]"
    return text[: limit - len(mark)] + mark
