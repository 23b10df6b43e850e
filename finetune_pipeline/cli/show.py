"""``finetune show TASK``: the spec with every default, and which artifacts exist."""

from __future__ import annotations

import click
import yaml

from finetune_pipeline.cli.output import DONE, as_json, emit, get_task, say
from finetune_pipeline.cli.project import open_project
from finetune_pipeline.models.chat_templates import told_origin


@click.command()
@click.argument("task")
@as_json
def show(task: str, as_json: bool) -> int:
    """Print the resolved spec of TASK, and the version and state of every step."""
    loaded = get_task(task)
    project = open_project(loaded)
    steps = {
        name: {
            "version": project.versions[name],
            "made": artifact is not None,
            "folder": str(artifact.folder) if artifact else None,
        }
        for name, artifact in project.artifacts().items()
    }
    spec = loaded.spec.model_dump(mode="json")
    template = told_origin(loaded.spec.chat_template, loaded.folder)
    if as_json:
        emit(
            {
                "spec": spec,
                "folder": str(loaded.folder),
                "chat_template": template,
                "steps": steps,
                "champion": project.serving,
            }
        )
        return DONE
    say(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120).rstrip())
    say()
    for name, state in steps.items():
        say(f"{'made   ' if state['made'] else 'missing'}  {state['version']}  {name}")
    say(f"\nchat template: {template}")
    say(f"champion: {'version ' + str(project.serving) if project.serving else 'none'}")
    return DONE
