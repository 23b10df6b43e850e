"""Sections of ``training`` for individual trainers: address and settings."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from finetune_pipeline.spec.outputs import Section


class TrainerSection(Section):
    """Settings of one trainer. `without_effect` names those that do not affect the trained model."""

    without_effect: ClassVar[frozenset[str]] = frozenset()


class RaySection(TrainerSection):
    """The Ray cluster that `training.trainer: ray` trains on. Results do not depend on these settings."""

    without_effect = frozenset({"address", "storage", "workers", "resources", "max_failures", "runtime_env"})

    address: str = Field(
        "http://127.0.0.1:8265",
        description="Address of the dashboard. Unset: that of a cluster on this machine, which `ray start --head` starts.",
    )
    storage: str | None = Field(
        None,
        description="Shared folder, or fsspec URL (`s3://bucket/folder`), for inputs and results. Unset: below "
        "FINETUNE_HOME, for a cluster on this machine.",
    )
    workers: int = Field(1, ge=1, le=1024, description="Processes that train together; must divide batch_size.")
    resources: dict[str, float] = Field(
        {"CPU": 1.0}, min_length=1, description="Resources of each worker; with `GPU`, it trains on one."
    )
    max_failures: int = Field(3, ge=0, description="Lost workers a job replaces, resuming from the last checkpoint.")
    runtime_env: dict[str, Any] = Field(
        {},
        description="Additions to the job's Ray runtime environment, such as `image_uri`, or `pip` with the wheel's path "
        "(`finetune docs training`); never secrets.",
    )


class HostedSection(TrainerSection):
    """A paid training service. Its key stays in the environment."""

    without_effect = frozenset({"api_key_env", "poll_seconds", "request_seconds", "settle_seconds", "concurrency"})

    model: str | None = Field(
        None,
        min_length=1,
        description="The service's name of the base model. Unset: `base_model`, if that is a Hub id.",
    )
    base_url: str | None = Field(None, description="Service's address, https or on this machine. Unset: its default.")
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the key. Unset: its default one.",
    )
    poll_seconds: float = Field(30.0, gt=0, description="Time between two polls of a running job.")
    request_seconds: float = Field(120.0, gt=0, description="Timeout of one request.")
    concurrency: int = Field(4, ge=1, le=256, description="Parallel requests to a model the service hosts.")
    settle_seconds: float = Field(
        90.0,
        ge=0,
        description="If a request for a job got no clear answer: how long to ask the service whether it has the job, before "
        "requesting it again. Raise it for a service whose list shows new jobs later than this: it would sell one twice.",
    )


class OpenAiSection(HostedSection):
    """Services that speak OpenAI's fine-tuning protocol."""

    without_effect = HostedSection.without_effect | {"deployment"}

    profile: Literal["openai", "azure", "nebius", "other"] = Field("openai", description="Dialect of the protocol.")
    learning_rate_multiplier: float | None = Field(
        None,
        gt=0,
        description="openai, azure: factor on the service's own learning rate, about 0.1 to 10. Unset: `auto`. If the "
        "protocol takes an absolute rate, it is `training.learning_rate`.",
    )
    learning_rate_means: Literal["factor", "absolute"] | None = Field(
        None, description="profile other: how the server interprets `learning_rate_multiplier`."
    )
    deployment: str | None = Field(
        None, min_length=1, description="azure: name of the deployment of the tuned model, made after training."
    )


class TogetherSection(HostedSection):
    """Together's fine-tuning service."""

    without_effect = HostedSection.without_effect | {"inactive_minutes", "endpoint_usd_per_hour"}

    returns: Literal["weights", "endpoint"] = Field(
        "weights",
        description="`weights`: the adapter is downloaded and evaluated here. `endpoint`: for bases whose weights are unavailable; "
        "the model is used at a dedicated endpoint, paid by the minute.",
    )
    project: str | None = Field(
        None, min_length=1, description="endpoint: id of the project that pays. Unset: TOGETHER_PROJECT_ID."
    )
    hardware_config: str | None = Field(
        None, min_length=1, description="endpoint: config revision to deploy, `projects/…/configs/…`."
    )
    endpoint_usd_per_hour: float | None = Field(
        None,
        ge=0,
        description="endpoint: its price. `training.budget_usd` counts `inactive_minutes` of it, so a budget needs it; a longer "
        "evaluation costs more.",
    )
    inactive_minutes: int = Field(
        30, ge=30, le=1440, description="endpoint: minutes without a request after which it stops by itself."
    )
