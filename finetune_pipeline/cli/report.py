"""``finetune report TASK``: prints the verdict and the paths of the reports."""

from pathlib import Path

import click

from finetune_pipeline.cli.output import DONE, REFUSED, as_json, get_task, problem, tell
from finetune_pipeline.cli.project import NOT_EVALUATED, Project, champion_words, gate_line
from finetune_pipeline.orchestration.resources import AUDIT_PAGE
from finetune_pipeline.report.stored import read_evaluation
from finetune_pipeline.report.verdict import SOUND, next_steps


def audit_page(project: Project) -> Path | None:
    """The newest supervision audit for the current data and spec: of the adapter, or of a training it stopped."""
    adapter = project.artifacts["adapter"]
    if adapter is not None:
        return adapter.folder / AUDIT_PAGE if (adapter.folder / AUDIT_PAGE).is_file() else None
    work = project.store.root / project.task.name / ".work" / "adapter" / project.versions["adapter"]
    return max(work.rglob(AUDIT_PAGE), key=lambda p: p.stat().st_mtime_ns, default=None)


@click.command()
@click.argument("task")
@click.option("--markdown", is_flag=True, help="Print the Markdown report.")
@as_json
def report(task: str, markdown: bool) -> int:
    """Print the latest evaluation of TASK: verdict, gates, and the path of the HTML page. Exit code 2: a gate said no."""
    loaded = get_task(task)
    project = Project(loaded)
    artifact = project.latest("evaluation_report")
    page = audit_page(project)
    audit_line = [f"what it was taught, token by token: {page}"] if page else []
    if artifact is None:
        raise click.ClickException("\n".join([NOT_EVALUATED.format(task=loaded.name), *audit_line]))
    if artifact.version != project.versions["evaluation_report"]:
        problem(
            f"data, spec or release changed since: this is an earlier report; `finetune run {loaded.name}` makes a new one"
        )
    evaluation, gates = read_evaluation(project.store.check(artifact))
    passed = bool(artifact.facts["passed"])
    facts = {
        "task": loaded.name,
        "version": artifact.version,
        "passed": passed,
        "verdict": artifact.facts["verdict"],
        "gates": [gate.to_dict() for gate in gates],
        "html": str(artifact.path("report.html")),
        "audit": str(page or ""),
        "markdown": str(artifact.path("report.md")),
        "evaluation": evaluation.to_json(),
    }
    steps = [f"next: {step}" for step in next_steps(evaluation, gates)[:1]]
    champion = f"champion in MLflow: {champion_words(project)}"
    lines = [facts["verdict"], *map(gate_line, gates), *steps, champion, f"page: {facts['html']}", *audit_line]
    tell(facts, *([artifact.path("report.md").read_text("utf-8")] if markdown else lines))
    return DONE if artifact.facts["decision"] in SOUND else REFUSED
