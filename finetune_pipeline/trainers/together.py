"""Trains at Together: LoRA on open weights, whose adapter comes home, or stays behind a dedicated endpoint."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from finetune_pipeline.findings import Finding
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.base import TrainingOrder, register
from finetune_pipeline.trainers.chat_file import FileRules
from finetune_pipeline.trainers.hosted import HostedTrainer
from finetune_pipeline.trainers.hosted_settings import low_rank_problems
from finetune_pipeline.trainers.service import Refused, Service
from finetune_pipeline.trainers.together_endpoint import running_endpoint, stop_forgotten
from finetune_pipeline.trainers.together_service import TogetherService


@register
class TogetherTrainer(HostedTrainer):
    """Uploads two files, asks for the price and then for a job, and waits."""

    name = "together"
    where = "Together (`training.together`)"
    extra = "together"
    usual_key = "TOGETHER_API_KEY"
    estimates = True

    def returned(self, spec: TaskSpec) -> Literal["weights", "endpoint"]:
        return spec.training.together.returns

    def priced_as(self, spec: TaskSpec) -> str:
        return "Together"

    def problems(self, spec: TaskSpec) -> list[Finding]:
        section, findings = spec.training.together, low_rank_problems(self, spec, chooses_layers=True)
        if spec.training.scheduler == "constant_with_warmup":
            message = "Together knows the schedules linear and cosine"
            findings.append(self.finding("scheduler", "training.scheduler", message, "write one of them"))
        if section.returns == "endpoint":
            if not (section.project or os.environ.get("TOGETHER_PROJECT_ID")):
                fix = "write the project's id, or set TOGETHER_PROJECT_ID"
                findings.append(self.finding("project", "project", "an endpoint needs a project that pays", fix))
            if not section.hardware_config:
                message = "an endpoint needs the hardware it runs on"
                fix = "write a config revision, projects/…/configs/…, of Together's list for this model"
                findings.append(self.finding("hardware", "hardware_config", message, fix))
        return findings

    def connect(self, spec: TaskSpec) -> TogetherService:
        return TogetherService(self, spec)

    def file_rules(self, spec: TaskSpec, service: Service) -> FileRules:
        assert isinstance(service, TogetherService)
        try:
            limits = service.limits()
        except Refused:  # a finding of the service says so
            return FileRules("Together", 1, 50 << 30, alternating=True)
        return FileRules(
            "Together",
            1,
            50 << 30,
            most_tokens=limits.max_seq_length_sft,
            alternating=True,
            tools=limits.supports_tools,
        )

    def submit(self, order: TrainingOrder) -> str:
        job = super().submit(order)
        if self.returned(order.spec) == "endpoint":
            stop_forgotten(self.connect(order.spec), order.home)
        return job

    @contextlib.contextmanager
    def serving(self, spec: TaskSpec, hosted: HostedModel, home: Path) -> Iterator[HostedModel]:
        with running_endpoint(self.connect(spec), spec.training.together, hosted, home) as running:
            yield running
