"""Reports are shown in MLflow, and their copies go when the rows that they quote are forgotten."""

from pathlib import Path

import dagster as dg

from finetune_pipeline.tracking.logged_pages import PAGE, remove_pages
from finetune_pipeline.tracking.step_run import StepRun
from finetune_pipeline.tracking.tracking import ADDRESS, VIEW, Tracking


def report_run(tracking: Tracking, folder: Path, task: str, version: str) -> StepRun:
    """Log a report and its plot as the step does. Returns its run."""
    page, plot = folder / version / PAGE, folder / version / "plot.svg"
    page.parent.mkdir(exist_ok=True)
    page.write_text(f"<p>ann says hello, {version}</p>")
    plot.write_text("<svg/>")
    runs: list[StepRun] = []

    @dg.asset(key_prefix=task)
    def evaluation_report(context: dg.AssetExecutionContext, tracking: Tracking) -> None:
        with tracking.step(context, task, "evaluation_report", version) as step:
            step.log_artifact(page)
            step.log_artifact(plot)
            runs.append(step)

    assert dg.materialize([evaluation_report], resources={"tracking": tracking}).success
    return runs[0]


def files(tracking: Tracking, run: StepRun) -> list[str]:
    return sorted(file.path for file in tracking.client().list_artifacts(run.run_id))


def test_copies_of_reports_with_forgotten_rows_are_removed_and_no_others(tracking: Tracking, tmp_path: Path) -> None:
    first, again = (report_run(tracking, tmp_path, "tickets", "v1") for _ in range(2))
    kept = [report_run(tracking, tmp_path, "tickets", "v2"), report_run(tracking, tmp_path, "orders", "v1")]
    assert sorted(remove_pages(tracking, "tickets", {"v1", "v9"})) == sorted([first.run_id, again.run_id])
    assert [files(tracking, run) for run in (first, again)] == [["plot.svg"], ["plot.svg"]]
    assert [files(tracking, run) for run in kept] == [["plot.svg", PAGE]] * 2
    left = [path for path in tmp_path.rglob(PAGE) if path.parent.parent != tmp_path]
    assert len(left) == 2, "the files themselves"
    assert remove_pages(tracking, "tickets", {"v1", "v9"}) == []


def test_links_lead_to_where_mlflow_was_served_last(tracking: Tracking, tmp_path: Path) -> None:
    assert tracking.page() == "http://127.0.0.1:5000"
    (tracking.place() / ADDRESS).write_text("http://127.0.0.1:5177\n")
    run = report_run(tracking, tmp_path, "tickets", "v1")
    assert run.page_of(PAGE).startswith("http://127.0.0.1:5177/#/experiments/")
    assert run.page_of(PAGE).endswith(f"/runs/{run.run_id}/artifacts/report.html?{VIEW}")
    server = Tracking(tracking_uri="https://user:secret@mlflow.example/", folder=str(tracking.place()))
    assert server.page() == "https://mlflow.example"
