"""``finetune report TASK``: prints the verdict and the paths of the reports."""

from __future__ import annotations

from pathlib import Path

import click

from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, get_task, problem, say
from finetune_pipeline.cli.project import Project, gate_line, open_project
from finetune_pipeline.engine.store import read_json
from finetune_pipeline.orchestration.resources import AUDIT_PAGE


def audit_page(project: Project) -> Path | None:
    """The newest supervision audit for the current data and spec: of the adapter, or of a training it stopped."""
    made = project.artifacts()["adapter"]
    if made is not None:
        return made.folder / AUDIT_PAGE if (made.folder / AUDIT_PAGE).is_file() else None
    work = project.store.root / project.task.name / ".work" / "adapter" / project.versions["adapter"]
    return max(work.rglob(AUDIT_PAGE), key=lambda p: p.stat().st_mtime_ns, default=None)


@click.command()
@click.argument("task")
@click.option("--markdown", is_flag=True, help="Print the Markdown report.")
@as_json
def report(task: str, markdown: bool, as_json: bool) -> int:
    """Print the latest evaluation of TASK: verdict, gates, and the path of the HTML page. Exit code 2: a gate said no."""
    loaded = get_task(task)
    project = open_project(loaded)
    artifact = project.latest("evaluation_report")
    if artifact is None:
        problem(f"{loaded.name} has not been evaluated yet: run `finetune run {loaded.name}`")
        if page := audit_page(project):
            problem(f"what it is taught, token by token: {page}")
        return ERROR
    if artifact.version != project.versions["evaluation_report"]:
        problem("data or spec changed since: this is the report of an earlier version")
    gates = read_json(artifact.path("gates.json"))
    passed = bool(artifact.facts["passed"])
    if as_json:
        emit(
            {
                "task": loaded.name,
                "version": artifact.version,
                "passed": passed,
                "verdict": artifact.facts["verdict"],
                "gates": gates,
                "html": str(artifact.path("report.html")),
                "audit": str(audit_page(project) or ""),
                "markdown": str(artifact.path("report.md")),
                "evaluation": read_json(artifact.path("evaluation.json")),
            }
        )
    elif markdown:
        say(artifact.path("report.md").read_text("utf-8"))
    else:
        say(artifact.facts["verdict"])
        for gate in gates:
            say(gate_line(gate))
        say(f"page: {artifact.path('report.html')}")
        if page := audit_page(project):
            say(f"what it was taught, token by token: {page}")
    return DONE if passed else REFUSED
