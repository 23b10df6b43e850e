"""What a user declares: the task spec, how it is read, and the rules it must obey."""

from finetune_pipeline.spec.loading import check_task, find_tasks, load_task, parse_spec, read_spec
from finetune_pipeline.spec.model import Task, TaskSpec

__all__ = ["Task", "TaskSpec", "check_task", "find_tasks", "load_task", "parse_spec", "read_spec"]
