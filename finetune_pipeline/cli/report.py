"""``finetune report TASK``: prints the verdict and the paths of the reports, a comparison with an API model, a data request."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.cli.output import DONE, REFUSED, as_json, get_task, problem, tell, writing
from finetune_pipeline.cli.project import NOT_EVALUATED, Project, champion_words, gate_lines
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.result import Atlas
from finetune_pipeline.evaluation.winner import SOUND
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.orchestration.resources import AUDIT_PAGE
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.production.choosing import PASSED_ON, choose
from finetune_pipeline.production.log_intake import LOCK
from finetune_pipeline.production.log_merging import merge_lines
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.production.shadow import compare_shadow, shadow_lines
from finetune_pipeline.production.share import compare_share, share_lines
from finetune_pipeline.report.failures import by_priority, group_title, request_page, request_rows
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.stored import Report, read_report, read_shown_rows
from finetune_pipeline.report.versus import versus as put_side_by_side
from finetune_pipeline.report.versus import versus_lines
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task


def audit_page(project: Project) -> Path | None:
    """The newest supervision audit for the current data and spec: of the adapter, or of a training it stopped."""
    adapter = project.artifacts["adapter"]
    if adapter is not None:
        return adapter.folder / AUDIT_PAGE if (adapter.folder / AUDIT_PAGE).is_file() else None
    work = project.store.root / project.task.name / ".work"
    stopped = (work / step / project.versions[step] for step in ("supervised_adapter", "refined_adapter", "adapter"))
    pages = [page for folder in stopped for page in folder.rglob(AUDIT_PAGE)]
    return max(pages, key=lambda p: p.stat().st_mtime_ns, default=None)


AUDIT_LINE = "what it was taught, token by token: {}"


@dataclass(frozen=True)
class TaskReport:
    """The newest evaluation of a task.

    Attributes:
        project: The task with its stores.
        artifact: The evaluation report in the store.
        is_current: Made from the present data, spec and release.
        audit: Page with what the adapter was taught, if there is one.
    """

    project: Project
    artifact: Artifact
    evaluation: Report
    is_current: bool
    audit: Path | None

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return self.evaluation.verdict.passed

    @property
    def decision(self) -> str:
        """Which model was chosen, or that none may be shipped."""
        return self.evaluation.verdict.decision

    @property
    def verdict(self) -> str:
        """The decision as a sentence."""
        return self.evaluation.verdict.text

    @property
    def page(self) -> Path:
        """The report as an HTML page."""
        return self.artifact.path("report.html")

    @property
    def markdown(self) -> str:
        """The report as Markdown, without texts of rows."""
        return self.artifact.path("report.md").read_text("utf-8")

    def facts(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "task": self.artifact.task,
            "version": self.artifact.version,
            "passed": self.passed,
            "verdict": self.verdict,
            "gates": [gate.model_dump(mode="json") for gate in self.evaluation.gates],
            "html": str(self.page),
            "audit": str(self.audit or ""),
            "markdown": str(self.artifact.path("report.md")),
            "evaluation": self.evaluation.to_json(),
        }


def report_task(task: Task) -> TaskReport:
    """Return the newest evaluation of a task. Raises ClickException if there is none."""
    project = Project(task)
    artifact, audit = project.latest("evaluation_report"), audit_page(project)
    if artifact is None:
        audit_line = [AUDIT_LINE.format(audit)] if audit else []
        raise click.ClickException("\n".join([NOT_EVALUATED.format(task=task.name), *audit_line]))
    is_current = artifact.version == project.versions["evaluation_report"]
    return TaskReport(project, artifact, read_report(project.store.check(artifact)), is_current, audit)


@click.command()
@click.argument("task")
@click.option("--markdown", is_flag=True, help="Print the Markdown report.")
@click.option("--versus", is_flag=True, help="Also: quality and price beside the API model of baseline.endpoint.")
@click.option("--calls-per-month", type=click.IntRange(min=1), help="As --versus, in place of advise.calls_per_month.")
@click.option("--ask-data", is_flag=True, help="Also: write a request for rows like those of the mistakes.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    help="As --ask-data, in this folder. Unset: one in FINETUNE_HOME.",
)
@click.option(
    "--shadow",
    is_flag=True,
    help="Also: the champion beside the model that answers behind it, or a share, in production.",
)
@as_json
def report(
    task: str,
    markdown: bool,
    versus: bool,
    calls_per_month: int | None,
    ask_data: bool,
    folder: Path | None,
    shadow: bool,
) -> int:
    """Print the latest evaluation of TASK: verdict, gates, and the path of the HTML page. Exit code 2: a gate said no.

    --versus compares on the sealed test: the gain is paired by row and has an interval; prices come from prices.yaml.
    --ask-data writes JSON Lines for programs and Markdown for people, without texts of the test.
    --shadow compares what both said to the same production rows (`finetune serve --shadow`), and what
    became of the answers that each gave where they shared the traffic (`--share`), of the lines read so far.
    """
    loaded = get_task(task)
    result = report_task(loaded)
    project, artifact, evaluation = result.project, result.artifact, result.evaluation
    audit_line = [AUDIT_LINE.format(result.audit)] if result.audit else []
    if not result.is_current:
        problem(
            f"data, spec or release changed since: this is an earlier report; `finetune run {loaded.name}` makes a new one"
        )
    facts = result.facts()
    steps = [f"next: {step}" for step in evaluation.next_steps[:1]]
    champion = f"champion in MLflow: {champion_words(project, artifact)}"
    lines = [
        facts["verdict"],
        *gate_lines(evaluation),
        "",
        *steps,
        champion,
        f"page: {facts['html']}",
        *audit_line,
    ]
    if markdown:
        lines = [result.markdown]
    if versus or calls_per_month:
        prices = load_prices(home=read_settings().home, task_folder=loaded.folder)
        calls, today = calls_per_month or loaded.spec.advise.calls_per_month, datetime.datetime.now(datetime.UTC).date()
        comparison = put_side_by_side(loaded.spec, evaluation, prices, calls, today)
        if isinstance(comparison, str):
            raise click.ClickException(comparison)
        facts["versus"] = asdict(comparison)
        lines += ["", *versus_lines(comparison)]
    if ask_data or folder:
        folder = folder or project.store.state_folder(loaded.name) / "requests"
        passed_on = _passed_on(loaded, project)
        facts["data_request"], request_lines = _data_request(evaluation.atlas, artifact, folder, passed_on)
        lines += ["", *request_lines]
    if shadow:
        stored_rows = _stored_rows(loaded, project)
        behind, shared = compare_shadow(stored_rows, loaded.spec), compare_share(stored_rows, loaded.spec)
        if behind is None and shared is None:
            raise click.ClickException(
                f"no row of {loaded.name} has a second answer yet\nfix: `finetune serve {loaded.name} --shadow VERSION`, or "
                f"`--share PERCENT`; `finetune run {loaded.name} --stage data` reads what it has logged"
            )
        if behind:
            facts["shadow"] = asdict(behind)
            lines += ["", *shadow_lines(behind, loaded.name)]
        if shared:
            facts["share"] = asdict(shared)
            lines += ["", *share_lines(shared)]
    tell(facts, *lines)
    return DONE if result.decision in SOUND else REFUSED


def _passed_on(task: Task, project: Project) -> list[LoggedRow]:
    """Return the production rows that were passed on and wait for a person."""
    queue = choose(task.spec, _stored_rows(task, project)).queue
    return [row for row, why in queue if why.startswith(PASSED_ON)]


def _stored_rows(task: Task, project: Project) -> list[LoggedRow]:
    """Return the production rows of the lines read so far: this home may be another user's."""
    stored = log_store(task, project.store)
    if not stored.folder.exists():
        return []
    with project.store.lock(task.name, LOCK):
        return merge_lines(stored.rows()).rows


def _data_request(
    atlas: Atlas, report: Artifact, folder: Path, passed_on: Sequence[LoggedRow]
) -> tuple[dict[str, object], list[str]]:
    """Write the request for data, made from the rows passed on and the groups of mistakes, into the folder. Returns its facts and
    lines of text."""
    shown_rows, name = read_shown_rows(report), f"{report.task}-{report.version}"
    rows = request_rows(atlas, shown_rows, report.task, report.version, passed_on)
    jsonl, page = folder / f"{name}.jsonl", folder / f"{name}.md"
    with writing(jsonl):
        write_rows(jsonl, rows)
    with writing(page):
        page.write_text(page_markdown(request_page(atlas, shown_rows, report.task, passed_on)), "utf-8")
    requested_rows = counted(sum(group.collect for group in atlas.groups), "new row")
    lines = [f"{counted(len(passed_on), 'row')} passed on in production: decide about them first"] if passed_on else []
    lines.append(
        f"{atlas.wrong} of {atlas.n} test rows wrong, in {counted(len(atlas.groups), 'group')}; {requested_rows} asked for"
    )
    lines += [
        f"  {counted(group.collect, 'new row')} for {counted(group.count, 'mistake')}: {group_title(group)}"
        for group in by_priority(atlas)[:12]
    ]
    lines += [f"for people    {page}", f"for programs  {jsonl}"]
    return {"jsonl": str(jsonl), "markdown": str(page), "rows": rows}, lines
