"""Sections of task.yaml about production: logs, drift, and when another training is worth its cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_pipeline.spec.outputs import Section, Share


class LogsSpec(Section):
    """Production logs and what they start."""

    path: str = Field(
        "logs",
        description="Folder of JSON Lines files, relative to the task folder, or an fsspec URL (s3://…). The task's own "
        "`logs/` is read besides.",
    )
    mlflow_experiment: str | None = Field(
        None, description="An MLflow experiment whose traces are production's answers; read besides the files."
    )
    keep_days: int | None = Field(
        None, ge=1, description="Rows older than this are removed, and files in `logs/` that hold nothing younger."
    )
    low_score: float | None = Field(None, description="Answers with a lower score count as failures.")
    sample_share: Share = Field(
        0.02,
        description="Share of the answers nobody objected to that people look at, so that the data stay true to life.",
    )
    max_user_share: float = Field(
        0.1, gt=0, le=1, description="Of the corrected rows, the most that one user's may be. Five are always allowed."
    )
    max_family_share: float = Field(
        0.1, gt=0, le=1, description="Of the corrected rows, the most that one family of near-duplicates may be."
    )
    judging_share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Of the corrected rows that come after the first judging_after: so many train no model but judge them all. "
        "0: none.",
    )
    judging_after: int = Field(
        100, ge=0, description="So many corrected rows all train, before a share of the following is kept to judge."
    )
    min_new_rows: int = Field(50, ge=1, description="Usable new rows before the sensor asks for a run.")
    settle_seconds: int = Field(60, ge=0, description="Files must have been quiet for this long.")
    retrain_cron: str = Field("0 3 * * 1", description="Cron of the retraining schedule (stopped by default).")


class DriftSpec(Section):
    """How production is watched for drift. Drift is told; it stops nothing."""

    window_rows: int = Field(100, ge=30, description="Production rows in one window, in the order of their times.")
    false_alarms: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Chance that a whole watch raises any alarm though nothing changed: over all signals and all windows.",
    )
    expected_windows: int = Field(
        30,
        ge=1,
        description="Half of the allowed false alarms is spent evenly on so many windows, half of the rest on as many again, "
        "and so on.",
    )
    min_size: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Smaller changes are not called drift, however sure they are. Every size is a share.",
    )
    feedback_days: float = Field(
        1.0, ge=0, description="A window's feedback is judged when newer rows are so much younger: labels come late."
    )
    action: Literal["tell", "propose", "start"] = Field(
        "propose",
        description="What the drift sensor does: nothing but watch; say in its tick that a run is due; or start it, where "
        "there are rows to learn from.",
    )


class RetrainingSpec(Section):
    """When another training is worth it."""

    min_gain: float = Field(
        0.005, gt=0, lt=1, description="Expected gain (in the share of right answers) under which it is better to wait."
    )
    hours_a_point: float | None = Field(
        None,
        gt=0,
        description="Hours of training that one point of right answers is worth. Unset: cost is told, not judged.",
    )
    rows_after_drift: int = Field(
        20, ge=1, description="New rows with a known answer that are enough to train again once production has drifted."
    )
    longest_wait_days: float = Field(
        14, gt=0, description="The sensor asks for a run, however few new rows there are, when the oldest is this old."
    )
    attempts: int = Field(3, ge=1, description="Runs started for the same rows before the sensor asks for a person.")
    rollback: bool = Field(
        False,
        description="Roll back by itself when the champion serves worse than the one before. Else the alarm is told.",
    )
