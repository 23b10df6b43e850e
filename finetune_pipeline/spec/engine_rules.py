"""Cross-field rules about what runs the models. Found by name, as in :mod:`finetune_pipeline.spec.rules`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.engines import VERSION
from finetune_pipeline.spec.model import TaskSpec

LOCAL = ("127.0.0.1", "localhost", "::1")


def _finding(rule: str, key: str, message: str, fix: str, severity: str = "error") -> Finding:
    return Finding(f"spec.{rule}", severity, f"task.yaml: evaluation.{key}", message, fix)  # type: ignore[arg-type]


def check_engine(spec: TaskSpec, folder: Path) -> list[Finding]:
    """The engine must be there, and able to run what the method leaves."""
    told, found = spec.evaluation, []
    if told.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        found.append(
            _finding("engine", "engine", "vllm is not installed", "pip install vllm, or set engine: transformers")
        )
    if told.engine != "transformers" and spec.training.method == "prefix":
        found.append(
            _finding(
                "engine",
                "engine",
                f"{told.engine} cannot load a trained prefix",
                "set engine: transformers, or another training.method",
            )
        )
    if (told.engine == "endpoint") != (told.endpoint is not None):
        wanted = "endpoint: {url, base, candidate} is missing" if told.endpoint is None else "it is not asked"
        found.append(
            _finding("engine", "endpoint", f"engine is {told.engine}, and {wanted}", "give both engine and endpoint")
        )
    return found


def check_endpoint(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A served model must be told from yesterday's; texts and keys do not travel in the clear."""
    told, found = spec.evaluation.endpoint, []
    if told is None:
        return []
    parts = urlsplit(told.url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)):
        found.append(
            _finding(
                "endpoint",
                "endpoint.url",
                f"{told.url!r} is neither https nor on this machine: texts and the key would travel in the clear",
                "write https://…, or http://127.0.0.1:PORT/v1",
            )
        )
    elif parts.hostname not in LOCAL:
        found.append(
            _finding(
                "endpoint",
                "endpoint.url",
                f"the rows of the test are sent to {parts.hostname}",
                "serve the models on this machine, if they must not leave it",
                "note",
            )
        )
    if parts.username or parts.password:
        found.append(
            _finding(
                "endpoint", "endpoint.url", "the address holds a login", "put the key into key_variable's variable"
            )
        )
    for name in ("candidate", "champion"):
        served = getattr(told, name)
        if served is not None and VERSION not in served:
            found.append(
                _finding(
                    "endpoint",
                    f"endpoint.{name}",
                    f"{served!r} is the same name for every version: the model of an earlier run could be measured",
                    f"put {VERSION} into it, and serve each model under the name of its version",
                )
            )
    return found
