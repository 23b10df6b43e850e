"""``finetune ask-data TASK``: which rows to collect next, from the failures of the last evaluation."""

from pathlib import Path

import click

from finetune_pipeline.cli.output import DONE, as_json, get_task, tell, writing
from finetune_pipeline.cli.project import NOT_EVALUATED, Project
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.report.failures import by_priority, group_title, request_page, request_rows
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.stored import read_evaluation, read_shown_rows


@click.command("ask-data")
@click.argument("task")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Output folder. Unset: one in FINETUNE_HOME.")
@as_json
def ask_data(task: str, folder: Path | None) -> int:
    """Write a data request from the failures of TASK in its evaluation: JSON Lines for programs, Markdown for people."""
    loaded = get_task(task)
    project = Project(loaded)
    artifact = project.latest("evaluation_report")
    if artifact is None:
        raise click.ClickException(NOT_EVALUATED.format(task=loaded.name))
    atlas, shown_rows = read_evaluation(project.store.check(artifact))[0].atlas, read_shown_rows(artifact)
    rows = request_rows(atlas, shown_rows, loaded.name, artifact.version)
    out = folder or project.store.state_folder(loaded.name) / "requests"
    lines, page = out / f"{loaded.name}-{artifact.version}.jsonl", out / f"{loaded.name}-{artifact.version}.md"
    with writing(lines):
        write_rows(lines, rows)
    with writing(page):
        page.write_text(page_markdown(request_page(atlas, shown_rows, loaded.name)), "utf-8")
    files = {"jsonl": str(lines), "markdown": str(page)}
    facts = {"task": loaded.name, "version": artifact.version, **files, "rows": rows}
    wrong_text, requested_rows = f"{atlas.wrong} of {atlas.n} test rows wrong", sum(row["collect"] for row in rows)
    groups = (
        f"  {counted(group.collect, 'new row')} for {counted(group.count, 'mistake')}: {group_title(group)}"
        for group in by_priority(atlas)[:12]
    )
    headline = f"{loaded.name}: {wrong_text}, in {len(rows)} groups; {requested_rows} new rows asked for"
    tell(facts, headline, *groups, f"for people    {page}", f"for programs  {lines}")
    return DONE
