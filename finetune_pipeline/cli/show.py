"""``finetune show TASK``: the spec with every default, and which artifacts exist."""

from __future__ import annotations

import click
import yaml

from finetune_pipeline.cli.output import DONE, as_json, emit, get_task, say
from finetune_pipeline.cli.state import open_project


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
    if as_json:
        emit({"spec": spec, "folder": str(loaded.folder), "steps": steps, "champion": project.serving})
        return DONE
    say(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120).rstrip())
    say()
    for name, state in steps.items():
        say(f"{'made   ' if state['made'] else 'missing'}  {state['version']}  {name}")
    say(f"\nchampion: {'version ' + str(project.serving) if project.serving else 'none'}")
    return DONE
