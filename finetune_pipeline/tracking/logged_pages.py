"""Copies of reports in MLflow. They quote rows, so they are removed with the reports of which they are copies."""

from collections.abc import Collection

from finetune_pipeline.tracking.mlflow_store import experiment_id, mlflow_errors
from finetune_pipeline.tracking.tracking import ASSET, KIND, VERSION, Tracking, search

PAGE = "report.html"
"""The page of an evaluation report, which the step also shows in MLflow."""


def remove_pages(tracking: Tracking, task: str, versions: Collection[str]) -> list[str]:
    """Remove the copies of these evaluation reports' pages. Returns the ids of the MLflow runs that had one.

    Raises TrackingError if MLflow cannot be reached.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client, removed = tracking.client(), []
    with mlflow_errors(tracking.uri()):
        experiment = experiment_id(client, tracking.experiment, None)
        reports = f"tags.`{KIND}` = 'asset' AND tags.`{ASSET}` = '{task}/evaluation_report'"
        for run in search(client, experiment, reports):
            if run.data.tags.get(VERSION) not in versions:
                continue
            repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=tracking.uri())
            if any(file.path == PAGE for file in repository.list_artifacts()):
                repository.delete_artifacts(PAGE)
                removed.append(str(run.info.run_id))
    return removed
