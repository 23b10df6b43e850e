"""A declarative fine-tuning pipeline: raw examples in, a proven model out, orchestrated as a Dagster asset graph."""

__version__ = "0.1.0"
