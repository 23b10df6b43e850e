"""Cross-field rules about what runs the models. Found by name, as in :mod:`finetune_pipeline.spec.rules`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.endpoints import address_findings
from finetune_pipeline.spec.engines import VERSION
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec


def _finding(rule: str, key: str, message: str, fix: str, severity: str = "error") -> Finding:
    return Finding(f"spec.{rule}", severity, f"task.yaml: evaluation.{key}", message, fix)  # type: ignore[arg-type]


def check_engine(spec: TaskSpec, folder: Path) -> list[Finding]:
    """An endpoint must be named, and able to serve what the method leaves."""
    evaluation, findings = spec.evaluation, []
    if evaluation.engine == "endpoint" and not METHODS[spec.training.method].kind.plain:
        message = f"a server cannot load a trained {spec.training.method}"
        fix = "set engine: transformers, or another training.method"
        findings.append(_finding("engine", "engine", message, fix))
    if (evaluation.engine == "endpoint") != (evaluation.endpoint is not None):
        problem = "endpoint: {url, base, candidate} is missing" if evaluation.endpoint is None else "it is not asked"
        message = f"engine is {evaluation.engine}, and {problem}"
        findings.append(_finding("engine", "endpoint", message, "give both engine and endpoint"))
    return findings


def check_harness(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Tasks of lm-evaluation-harness need the extra that brings it."""
    if not spec.ability.harness.tasks or importlib.util.find_spec("lm_eval") is not None:
        return []
    place, message = "task.yaml: ability.harness", "lm_eval (lm-evaluation-harness) is not installed"
    return [Finding("spec.harness", "error", place, message, "run pip install 'finetune-pipeline[harness]'")]


def check_judge(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A judge is asked safely, where it can be right, and a gate that needs one has one."""
    judge, findings = spec.evaluation.judge, []
    if judge is None:
        if spec.gates.min_preferred:
            message = f"gates.min_preferred is {spec.gates.min_preferred:g}, and no judge is asked"
            findings.append(_finding("judge", "judge", message, "name a judge: {url, model}, or set it to 0"))
        return findings
    findings += address_findings("judge", "evaluation.judge", judge.url, "the rows of the test", spec.advise.private)
    if spec.labels:
        message = "an answer of a label task is right or wrong without a judge"
        findings.append(_finding("judge", "judge", message, "leave it out, unless labels overlap in meaning", "note"))
    if judge.min_kappa_bound > judge.min_kappa:
        message = f"min_kappa_bound {judge.min_kappa_bound:g} is above min_kappa {judge.min_kappa:g}"
        findings.append(
            _finding("judge", "judge.min_kappa_bound", message, "ask less of the bound than of kappa itself")
        )
    return findings


def check_endpoint(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A served model must be told from yesterday's; texts and keys do not travel in the clear."""
    endpoint = spec.evaluation.endpoint
    if endpoint is None:
        return []
    findings = address_findings(
        "endpoint", "evaluation.endpoint", endpoint.url, "the rows of the test", spec.advise.private
    )
    for key in ("candidate", "champion"):
        name = getattr(endpoint, key)
        if name is not None and VERSION not in name:
            message = f"{name!r} is the same name for every version: the model of an earlier run could be measured"
            fix = f"put {VERSION} into it, and serve each model under the name of its version"
            findings.append(_finding("endpoint", f"endpoint.{key}", message, fix))
    return findings


def check_private(spec: TaskSpec, folder: Path) -> list[Finding]:
    """An API model is asked safely, and not at all where texts must not leave."""
    endpoint = spec.baseline.endpoint
    if endpoint is None:
        return []
    return address_findings(
        "private", "baseline.endpoint", endpoint.url, "the rows of the validation split", spec.advise.private
    )
