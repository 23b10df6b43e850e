"""``finetune versus TASK``: compares the fine-tuned model with an API model and its best prompt, by quality and price."""

import datetime
from dataclasses import asdict

import click

from finetune_pipeline.cli.output import DONE, apply_environment, as_json, get_task, tell
from finetune_pipeline.cli.run import make_artifact
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.report.stored import read_evaluation
from finetune_pipeline.report.versus import versus as put_side_by_side
from finetune_pipeline.report.versus import versus_lines
from finetune_pipeline.settings import read_settings


@click.command()
@click.argument("task")
@click.option("--calls-per-month", type=click.IntRange(min=1), help="In place of advise.calls_per_month.")
@as_json
def versus(task: str, calls_per_month: int | None) -> int:
    """Compare the fine-tuned model of TASK with an API model: quality and price, on the sealed test (baseline.endpoint).

    Runs the task if it is not evaluated yet. The gain is paired by row and has an interval; prices come from prices.yaml.
    """
    loaded, settings = get_task(task), read_settings()
    apply_environment()
    if loaded.spec.baseline.endpoint is None:
        raise click.ClickException(
            f"{loaded.name} names no API model\nfix: set baseline.endpoint {{url, model, key_variable}}; see docs/planning.md"
        )
    report, stopped, failed = make_artifact(loaded, "all", "evaluation_report")
    if report is None:
        raise click.ClickException("\n".join([*stopped, *failed]))
    evaluation = read_evaluation(Store().artifacts().check(report))[0]
    prices = load_prices(home=settings.home, task_folder=loaded.folder)
    calls = calls_per_month or loaded.spec.advise.calls_per_month
    comparison = put_side_by_side(loaded.spec, evaluation, prices, calls, datetime.datetime.now(datetime.UTC).date())
    if isinstance(comparison, str):
        raise click.ClickException(comparison)
    page = str(report.path("report.html"))
    tell({**asdict(comparison), "report": page}, *versus_lines(comparison), f"page: {page}")
    return DONE
