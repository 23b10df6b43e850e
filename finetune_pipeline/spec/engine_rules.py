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


def check_harness(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Tasks of lm-evaluation-harness need the extra that brings it."""
    if not spec.ability.harness.tasks or importlib.util.find_spec("lm_eval") is not None:
        return []
    place, message = "task.yaml: ability.harness", "lm_eval (lm-evaluation-harness) is not installed"
    return [Finding("spec.harness", "error", place, message, "run pip install 'finetune-pipeline[harness]'")]


def check_judge(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A judge is asked safely, where it can be right, and a gate that needs one has one."""
    told, found = spec.evaluation.judge, []
    if told is None:
        if spec.gates.min_preferred:
            message = f"gates.min_preferred is {spec.gates.min_preferred:g}, and no judge is asked"
            found.append(_finding("judge", "judge", message, "name a judge: {url, model}, or set it to 0"))
        return found
    parts = urlsplit(told.url)
    local = parts.hostname in LOCAL
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        message = f"{told.url!r} is neither https nor on this machine: texts and the key would travel in the clear"
        found.append(_finding("judge", "judge.url", message, "write https://…, or http://127.0.0.1:PORT/v1"))
    elif not local:
        message = f"the rows of the test are sent to {parts.hostname}"
        fix = "serve the judge on this machine, if they must not leave it"
        found.append(_finding("judge", "judge.url", message, fix, "error" if spec.advise.private else "note"))
    if parts.username or parts.password:
        message = "the address holds a login"
        found.append(_finding("judge", "judge.url", message, "put the key into key_variable's variable"))
    if spec.labels:
        message = "an answer of a label task is right or wrong without a judge"
        found.append(_finding("judge", "judge", message, "leave it out, unless labels overlap in meaning", "note"))
    if told.min_kappa_bound > told.min_kappa:
        message = f"min_kappa_bound {told.min_kappa_bound:g} is above min_kappa {told.min_kappa:g}"
        found.append(_finding("judge", "judge.min_kappa_bound", message, "ask less of the bound than of kappa itself"))
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
