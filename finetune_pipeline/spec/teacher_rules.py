"""Cross-field rules of a task spec on the teacher."""

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import is_glob, is_outside
from finetune_pipeline.spec.rules import problem, rule
from finetune_pipeline.spec.teacher import TeacherSpec


@rule
def check_teacher_is_allowed(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that somebody has read the provider's terms: some forbid training a model on their answers."""
    if spec.teacher and not spec.teacher.allowed:
        name = spec.teacher.name or "the teacher"
        message = f"it is not said that the terms of {name} allow training on its answers; some forbid it"
        fix = "read the provider's terms (and the licence of an open model), then set teacher.allowed: true"
        yield problem("teacher_allowed", "teacher.allowed", message, fix)


_ASKING: dict[str, str] = {
    "endpoint": "its answers are in the logs, so nothing is asked",
    "budget_usd": "nothing is bought",
    "prompt": "nothing is asked",
    "answers": "a question has as many answers as the logs hold",
    "rows": "all answers in the logs are read",
}
"""Keys of a teacher that is asked, and why they say nothing with `from_logs`."""


@rule
def check_teacher_source(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that a teacher either is asked within a budget, or has answered in the logs."""
    teacher = spec.teacher
    if teacher is None:
        return
    if teacher.from_logs:
        for key, why in _ASKING.items():
            if getattr(teacher, key) != TeacherSpec.model_fields[key].default:
                message = f"with teacher.from_logs {why}"
                yield problem("teacher_source", f"teacher.{key}", message, "remove this key, or teacher.from_logs")
        if spec.data.unlabelled:
            message = "with teacher.from_logs nobody answers these rows"
            yield problem("teacher_source", "data.unlabelled", message, "remove this key, or teacher.from_logs")
        if not teacher.models:
            message = "nothing says which lines of the logs are the teacher's answers"
            yield problem("teacher_models", "teacher.models", message, "list its names in the logs (`model_version`)")
        if students := [name for name in teacher.models if name.partition(":")[0] == spec.name]:
            message = f"{', '.join(students)} is a model of this task, which must not learn from its own answers"
            yield problem("teacher_models", "teacher.models", message, "name the larger model whose answers it learns")
        return
    if teacher.models:
        message = "these names in the logs are read only with teacher.from_logs"
        yield problem("teacher_models", "teacher.models", message, "remove this key, or set teacher.from_logs: true")
    if teacher.endpoint is None:
        message = "nothing says where the teacher's answers come from"
        fix = "name its endpoint, or set teacher.from_logs: true if they are in the logs"
        yield problem("teacher_source", "teacher.endpoint", message, fix)
    elif teacher.budget_usd is None:
        message = "a teacher that is asked needs a budget"
        yield problem(
            "teacher_source", "teacher.budget_usd", message, "set the largest cost of all its answers, in dollars"
        )


@rule
def check_teacher_has_rows(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that a teacher has rows to answer, and unlabelled rows a teacher."""
    globs = spec.data.unlabelled
    if spec.teacher and not globs and not spec.teacher.from_logs:
        message = "a teacher is declared, but no rows for it to answer"
        yield problem("teacher_rows", "data.unlabelled", message, "name their files, such as [unlabelled/*]")
    if globs and not spec.teacher:
        message = "there is no teacher to answer these rows, and nothing else reads them"
        yield problem("teacher_rows", "data.unlabelled", message, "declare `teacher`, or remove this key")
    for glob in globs:
        if is_outside(glob, folder):
            fix = "copy the files into the task folder"
            yield problem("raw_inside_folder", "data.unlabelled", f"{glob!r} points outside the task folder", fix)
        elif not is_glob(glob):
            yield problem("glob", "data.unlabelled", f"{glob!r} is not a glob", "write one such as unlabelled/*.jsonl")


@rule
def check_teacher_agreement(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that answers to one row can be the same: free texts hardly ever are."""
    teacher = spec.teacher
    if (
        teacher
        and not teacher.from_logs
        and teacher.answers > 1
        and spec.output.kind == "text"
        and not spec.output.extract
    ):
        message = f"{teacher.answers} free texts are hardly ever the same, so nearly every row would be left out"
        yield problem("teacher_answers", "teacher.answers", message, "set teacher.answers: 1")


@rule
def check_teacher_split(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the newest rows are not the test: the rows of a teacher have no place in that order."""
    if spec.teacher and spec.split.by == "time":
        message = "with a teacher, validation and test are the rows of people, whenever they were written"
        yield problem("teacher_split", "split.by", message, "remove split.by, or name people's files in split.test")
