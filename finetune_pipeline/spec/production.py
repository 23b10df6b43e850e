"""Sections of task.yaml on production: logs, drift and retraining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_pipeline.spec.outputs import Section, Share


class LogsSpec(Section):
    """Production logs, and the runs they start."""

    path: str = Field(
        "logs", description="Folder of JSON Lines files, or an fsspec URL (s3://…), read besides the task's `logs/`."
    )
    mlflow_experiment: str | None = Field(None, description="MLflow experiment whose traces are also read as logs.")
    keep_days: int | None = Field(
        None, ge=1, description="Older rows are removed, and files in `logs/` with nothing newer."
    )
    low_score: float | None = Field(None, description="Lower scores count as failures.")
    sample_share: Share = Field(0.02, description="Share of unflagged answers that people review.")
    max_user_share: float = Field(
        0.1, gt=0, le=1, description="Largest share of the corrected rows from one user; five are always allowed."
    )
    max_family_share: float = Field(
        0.1, gt=0, le=1, description="Largest share of the corrected rows from one family of near-duplicates."
    )
    judging_share: float = Field(
        0.2, ge=0, lt=1, description="Share of later corrected rows reserved to compare models. 0: none."
    )
    judging_after: int = Field(
        100, ge=0, description="Corrected rows used only for training before judging_share applies."
    )
    min_new_rows: int = Field(50, ge=1, description="Usable new rows before the sensor requests a run.")
    settle_seconds: int = Field(60, ge=0, description="Seconds for which the files must have been unchanged.")
    retrain_cron: str = Field("0 3 * * 1", description="Cron of the retraining schedule (off by default).")


class DriftSpec(Section):
    """How production is monitored for drift. Drift is reported, but stops nothing."""

    window_rows: int = Field(100, ge=30, description="Production rows per window.")
    false_alarms: float = Field(0.05, gt=0, lt=1, description="Probability that a whole watch raises any false alarm.")
    expected_windows: int = Field(30, ge=1, description="Windows over which half of false_alarms is spent.")
    min_size: float = Field(0.05, ge=0, le=1, description="Smaller changes are not called drift.")
    feedback_days: float = Field(1.0, ge=0, description="Wait this long before judging a window's feedback.")
    action: Literal["tell", "propose", "start"] = Field(
        "propose", description="`tell` reports, `propose` suggests a run, `start` starts it."
    )


class RetrainingSpec(Section):
    """When to train again."""

    min_gain: float = Field(0.005, gt=0, lt=1, description="With a smaller expected gain (accuracy), wait.")
    rows_after_drift: int = Field(20, ge=1, description="New rows with a known answer required after drift.")
    longest_wait_days: float = Field(
        14, gt=0, description="The sensor requests a run when the oldest new row is this old."
    )
    attempts: int = Field(3, ge=1, description="Runs for the same rows before a person is asked.")
    rollback: bool = Field(False, description="Roll back automatically on the champion alarm.")
