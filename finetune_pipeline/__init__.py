"""A declarative fine-tuning pipeline: raw examples in, a proven model out, orchestrated as a Dagster asset graph."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the Dagster component, which `dg` looks for here, only where it is used: importing Dagster takes seconds."""
    if name != "FinetuneTask":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from finetune_pipeline.component import FinetuneTask

    return FinetuneTask


def __dir__() -> list[str]:
    return [*globals(), "FinetuneTask"]
