"""A task as a component of your own Dagster project: ``dg scaffold defs finetune_pipeline.FinetuneTask NAME``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from finetune_pipeline.definitions import definitions_of
from finetune_pipeline.spec import load_task

TASK_YAML = """\
# See `finetune show --schema task.yaml` for all keys; raw files go into raw/ beside this file.
# A raw row: {{"text": "…", "label": "first"}}
name: {name}
description: What the model answers.
base_model: bundled/smollm2-135m-instruct
system_prompt: Answer with one of the labels.
output: {{kind: labels, labels: [first, second]}}
"""


class TaskScaffolder(dg.Scaffolder[Any]):
    """Writes defs.yaml, task.yaml and raw/ into the component's folder, which has the task's name."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the component's files; a task.yaml that exists is kept."""
        dg.scaffold_component(request, {})
        task_folder = request.target_path
        (task_folder / "raw").mkdir(parents=True, exist_ok=True)
        if not (task_folder / "task.yaml").exists():
            (task_folder / "task.yaml").write_text(TASK_YAML.format(name=request.target_path.name), "utf-8")


@dg.scaffold_with(TaskScaffolder)
@dataclass
class FinetuneTask(dg.Component, dg.Resolvable):
    """Assets, checks, jobs, schedule and sensors of one fine-tuning task.

    Attributes:
        task_folder: Folder of task.yaml and raw/, which has the task's name: absolute, or relative to the component's own, which
            it is by default.
        key_prefix: What the asset keys begin with, before the task's name.
    """

    task_folder: str = "."
    key_prefix: Sequence[str] = ()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the task's definitions. Raises FindingsError with every problem of its task.yaml."""
        return definitions_of(load_task((Path(context.path) / self.task_folder).resolve()), self.key_prefix)
