"""Trains at a service that speaks OpenAI's fine-tuning protocol: OpenAI, Azure, Nebius, or another server."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from finetune_pipeline.findings import Finding
from finetune_pipeline.planning.tokens import whole_epochs
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.base import register
from finetune_pipeline.trainers.hosted import HostedTrainer
from finetune_pipeline.trainers.hosted_settings import low_rank_problems
from finetune_pipeline.trainers.openai_service import INSTEAD, PROFILES, OpenAiService, Profile, end_findings

_LEAST_FACTOR = 0.01
"""A smaller learning rate factor is probably an absolute rate."""


@register
class OpenAiTrainer(HostedTrainer):
    """Uploads two files, requests a job, and waits. Nebius returns an adapter, the other services a model name."""

    name = "openai"
    where = "OpenAI, Azure, or a server of the same protocol; Nebius, which returns weights (`training.openai.profile`)"
    returns = "endpoint"
    usual_key = "OPENAI_API_KEY"

    def profile(self, spec: TaskSpec) -> Profile:
        """Return the service's profile; for `other` with the meaning of its learning rate from task.yaml."""
        section = spec.training.openai
        profile = PROFILES[section.profile]
        rate = section.learning_rate_means if section.profile == "other" else profile.rate
        return replace(profile, rate=rate)

    def returned(self, spec: TaskSpec) -> Literal["weights", "endpoint"]:
        return self.profile(spec).returns

    def key_name(self, spec: TaskSpec) -> str:
        return spec.training.openai.api_key_env or self.profile(spec).key

    def usual_model(self, spec: TaskSpec) -> str | None:
        return super().usual_model(spec) if self.returned(spec) == "weights" else None

    def problems(self, spec: TaskSpec) -> list[Finding]:
        section, profile = spec.training.openai, self.profile(spec)
        findings = list(self._rate_problems(spec, profile))
        if profile.base_url is None and section.base_url is None:
            message = f"the profile {section.profile} has no address of its own"
            findings.append(self.finding("address", "base_url", message, "write the service's address, ending in /v1"))
        undated_model = re.sub(r"-\d{4}-\d\d-\d\d$", "", section.model or "")
        if section.model and profile.tunable is not None and undated_model not in profile.tunable:
            message = f"{section.model!r} cannot be fine-tuned at {profile.label}"
            fix = f"choose from {', '.join(profile.tunable)} (optionally followed by a date), or {INSTEAD}"
            findings.append(self.finding("not_tunable", "model", message, fix))
        if section.deployment and not profile.deploys:
            message = f"models of {profile.label} answer without a deployment"
            findings.append(self.finding("deployment", "deployment", message, "remove it"))
        for key, value, maximum in (
            ("batch_size", spec.training.batch_size, 256),
            ("epochs", whole_epochs(spec.training), 50),
            ("seed", spec.training.seed, 2**31 - 1),
        ):
            if value > maximum:
                message = f"{value} is above {maximum}, the protocol's maximum"
                findings.append(self.finding("limit", f"training.{key}", message, f"write {maximum} or less"))
        if section.base_url is None:
            findings += end_findings(self, profile, profile.models_end, datetime.datetime.now(datetime.UTC).date())
        if profile.top_level:
            findings += low_rank_problems(self, spec, chooses_layers=False)
        return findings

    def _rate_problems(self, spec: TaskSpec, profile: Profile) -> Iterator[Finding]:
        """Yield findings on the learning rate, which services read as an absolute rate or as a factor on their own."""
        key, factor = "learning_rate_multiplier", spec.training.openai.learning_rate_multiplier
        if profile.rate is None:
            message = f"it is unknown whether this server reads {key} as a factor or as an absolute rate"
            fix = "write factor or absolute, according to the server's documentation"
            yield self.finding("learning_rate", "learning_rate_means", message, fix)
        elif profile.rate == "absolute" and factor is not None:
            message = f"{profile.label} takes {key} for an absolute rate, and would train with the rate {factor:g}"
            fix = f"remove it; the rate is training.learning_rate, now {spec.training.learning_rate:g}"
            yield self.finding("learning_rate", key, message, fix)
        elif profile.rate == "factor" and factor is not None and factor < _LEAST_FACTOR:
            message = f"{factor:g} is a factor on {profile.label}'s own rate here, but looks like an absolute rate"
            fix = "write a factor of about 0.1 to 10, or remove it: the service then chooses"
            yield self.finding("learning_rate", key, message, fix)
        elif profile.rate == "factor" and "learning_rate" in spec.training.model_fields_set:
            message = f"{profile.label} takes no absolute rate: training.learning_rate is not used there"
            fix = f"nothing, or write training.openai.{key}"
            yield self.finding("learning_rate", "training.learning_rate", message, fix, "warning")

    def connect(self, spec: TaskSpec) -> OpenAiService:
        return OpenAiService(self, spec, self.profile(spec))
