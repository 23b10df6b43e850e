"""What all hosted trainers read from the spec, and what can be wrong with it."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.baseline import address_problem, is_local
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.low_rank import LoraSpec, LowRank
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.trainers.budget import no_budget_findings

if TYPE_CHECKING:
    from finetune_pipeline.trainers.hosted import HostedTrainer


def common_problems(trainer: HostedTrainer, spec: TaskSpec) -> list[Finding]:
    """What is wrong with the settings that all hosted trainers share. Nothing is asked of the service."""
    section, key = trainer.section(spec), trainer.key_name(spec)
    findings = []
    if trainer.extra and importlib.util.find_spec(trainer.extra) is None:
        fix = f"pip install 'finetune-pipeline[{trainer.extra}]'"
        findings.append(
            trainer.finding("extra", "training.trainer", f"the package {trainer.extra} is not installed", fix)
        )
    if section.model is None and trainer.usual_model(spec) is None:
        message = f"base_model {spec.base_model!r} is no name that a service knows"
        findings.append(trainer.finding("model", "model", message, "write the service's name of the base model"))
    if section.base_url and (problem := address_problem(section.base_url)):
        findings.append(trainer.finding("address", "base_url", *problem))
    local = bool(section.base_url and is_local(section.base_url))
    if spec.advise.private and not local:
        message = "advise.private says that texts must not leave this machine, and this trainer uploads them"
        fix = "set training.trainer: local, or remove advise.private"
        findings.append(trainer.finding("private", "training.trainer", message, fix))
    if not os.environ.get(key):
        fix = f"export {key}=…, or name another variable in training.{trainer.name}.api_key_env"
        findings.append(trainer.finding("key", "api_key_env", f"the environment variable {key} is not set", fix))
    epochs = total_epochs(spec)
    if epochs != whole_epochs(spec):
        message = f"services train whole epochs: {epochs:g} becomes {whole_epochs(spec)}"
        findings.append(trainer.finding("epochs", "training.epochs", message, "nothing needs to be done", "note"))
    if spec.training.over_length != "fail":
        message = "services get every row: training.over_length is not applied, and each cuts rows at its own limit"
        fix = "nothing, if no row is longer than training.max_tokens"
        findings.append(trainer.finding("over_length", "training.over_length", message, fix, "warning"))
    return [*findings, *no_budget_findings(spec.training.budget_usd)]


def low_rank_problems(trainer: HostedTrainer, spec: TaskSpec, chooses_layers: bool) -> list[Finding]:
    """Settings of ``training.lora`` that a service does not know; without them another model would be trained.

    Args:
        chooses_layers: The service lets the user choose which layers to adapt.
    """
    lora = low_rank(spec.training)
    other = {"dora": lora.dora, "rslora": lora.rslora, "init": lora.init != "default"}
    other["target_modules"] = not chooses_layers and not isinstance(lora.target_modules, str)
    message, fix = (
        "the service trains plain LoRA and does not know this",
        "remove it, or set training.trainer: local",
    )
    return [trainer.finding("low_rank", f"training.lora.{key}", message, fix) for key, used in other.items() if used]


def total_epochs(spec: TaskSpec) -> float:
    """Passes over the training rows, those of a second phase included: services have one phase."""
    settings = spec.training.model_dump()
    return float(sum(phase["epochs"] for phase in METHODS[spec.training.method].phases(settings)))


def whole_epochs(spec: TaskSpec) -> int:
    """The same as a whole number, rounded up."""
    return math.ceil(total_epochs(spec))


def low_rank(training: TrainingSettings) -> LoraSpec:
    """The section of the low-rank methods."""
    section: LoraSpec = getattr(training, LowRank.section)
    return section


def host_of(url: str) -> str:
    """The host of an address, for people."""
    return urlsplit(url).netloc or url
