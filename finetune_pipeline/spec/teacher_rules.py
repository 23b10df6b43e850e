"""Cross-field rules of a task spec on the teacher."""

from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import is_glob, is_outside
from finetune_pipeline.spec.rules import problem, rule


@rule
def check_teacher_is_allowed(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that somebody has read the provider's terms: some forbid training a model on their answers."""
    if spec.teacher and not spec.teacher.allowed:
        message = f"it is not said that the terms of {spec.teacher.endpoint.model} allow training on its answers; some forbid it"
        fix = "read the provider's terms (and the licence of an open model), then set teacher.allowed: true"
        yield problem("teacher_allowed", "teacher.allowed", message, fix)


@rule
def check_teacher_has_rows(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that a teacher has rows to answer, and unlabelled rows a teacher."""
    globs = spec.data.unlabelled
    if spec.teacher and not globs:
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
    if teacher and teacher.answers > 1 and spec.output.kind == "text" and not spec.output.extract:
        message = f"{teacher.answers} free texts are hardly ever the same, so nearly every row would be left out"
        yield problem("teacher_answers", "teacher.answers", message, "set teacher.answers: 1")


@rule
def check_teacher_split(spec: TaskSpec, folder: Path) -> Iterator[Finding]:
    """Check that the newest rows are not the test: the rows of a teacher have no place in that order."""
    if spec.teacher and spec.split.by == "time":
        message = "with a teacher, validation and test are the rows of people, whenever they were written"
        yield problem("teacher_split", "split.by", message, "remove split.by, or name people's files in split.test")
