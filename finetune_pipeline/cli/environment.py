"""The variables every process of the pipeline must agree on, set before anything heavy is imported."""

from __future__ import annotations

import os

from finetune_pipeline.settings import read_settings


def environment() -> dict[str, str]:
    """The process's environment with the pipeline's own variables filled in; what the user set stays."""
    settings = read_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    ours = {
        "FINETUNE_PROJECT": str(settings.project),
        "FINETUNE_HOME": str(settings.home),
        "FINETUNE_DATA": str(settings.data_root),
        "DAGSTER_HOME": str(settings.project),
        # two OpenMP threads on busy cores spin at every barrier: up to six times slower without this
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        # the default pool loses traces in silence; job workers cost 2 GB of memory
        "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return {**os.environ, **{k: v for k, v in ours.items() if not os.environ.get(k)}}


def apply() -> None:
    """Put them into this process."""
    os.environ.update(environment())
