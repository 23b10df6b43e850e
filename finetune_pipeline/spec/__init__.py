"""The task spec: its schema, loading and rules."""

from finetune_pipeline.spec.loading import check_task, find_tasks, load_task, parse_spec, read_spec
from finetune_pipeline.spec.model import Task, TaskSpec

__all__ = ["Task", "TaskSpec", "check_task", "find_tasks", "load_task", "parse_spec", "read_spec"]
