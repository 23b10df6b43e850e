"""``finetune init FILE…``: makes a task from raw files, checks it, and scores the simplest model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune_pipeline.cli.output import as_json, emit, failure, say
from finetune_pipeline.engine.files import replace_text, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import Finding, FindingsError, as_rows
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from finetune_pipeline.data.draft.draft import Draft
    from finetune_pipeline.data.draft.files import GivenFile
    from finetune_pipeline.spec import Task

LEAST_PER_LABEL = 10
"""Smallest data.min_per_label that `init` proposes: rarer labels cannot be learned, validated and tested."""
_LABELS_SHOWN = 12


def _path(text: str) -> Path:
    """A path given by the user; an empty one, as an unset variable of a shell makes it, would be the working folder."""
    if not text:
        raise click.BadParameter("an empty name is no file; write . for the working folder")
    return Path(text)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The files, and options that override detection."""
    options = [
        click.argument("files", metavar="FILE…", nargs=-1, required=True, type=_path),
        click.option("--text", help="Column with the user's text. Unset: detected."),
        click.option("--answer", help="Column with the label or answer. Unset: detected."),
        click.option("--sheet", help="Sheet of workbooks. Unset: the one with the most rows."),
        click.option("--encoding", help="Encoding of files that are not UTF-8, such as cp1251. Unset: detected."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@reading_options
@click.option("--name", help="Name of the task. Unset: taken from the files.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@as_json
def init(files: Sequence[Path], name: str | None, yes: bool, as_json: bool, **options: str | None) -> int:
    """Make a task from raw FILES: copy them, draft task.yaml, check every row, and score the simplest model.

    Files may be JSON Lines, JSON, CSV, TSV, Parquet or xlsx with any columns; a folder stands for its files, hidden folders
    aside. Nothing is overwritten. Asks at most three questions, and none with --yes or without a terminal.

    Exit code 2: the task was made, but the pipeline would stop at its data.
    """
    if not as_json:
        say_reading(files)
    from finetune_pipeline.data.draft.draft import task_name
    from finetune_pipeline.data.draft.files import given_files, name_problems

    settings = read_settings()
    asking = not yes and not as_json and sys.stdin.isatty()
    given = given_files(files)
    name = name or _in_place(given, settings.data_root) or task_name([file.path for file in given])
    if asking:
        name = click.prompt("name of the task", default=name)
    folder = settings.data_root / name
    if problems := name_problems(name, folder, given):
        raise FindingsError(problems)
    made, given, findings = drafted(given, options, asking)
    store = ArtifactStore(settings.artifacts)
    with store.lock(name, "init"):
        if problems := name_problems(name, folder, given):  # made by another command meanwhile
            raise FindingsError(problems)
        placed = write_task(made, given, folder, store)
    from finetune_pipeline.cli.check import check_task, facts_of, show_check
    from finetune_pipeline.spec.rules import STUB

    try:
        checked = check_task(folder, store, settings.home / "checks")
    except (KeyboardInterrupt, OSError) as stop:  # the same command would refuse to make the task again
        words = "stopped" if isinstance(stop, KeyboardInterrupt) else failure(stop)
        if words is None:
            raise
        made_already = f"{words}; the task is made in {folder}, and `finetune check {name}` goes on from there"
        raise click.ClickException(made_already) from stop
    if as_json:
        emit({**facts_of(checked), "folder": str(folder), "copied": placed, "draft": draft_facts(made, findings)})
        return checked.code
    copied = ", ".join(placed) or "nothing: the files are there"
    say(*draft_lines(made), f"{folder}: copied {copied}; task.yaml drafted", "")
    show_check(checked, brief=True)
    if stubs := made.system_prompt.count(STUB):
        say(f"next: write in {folder / 'task.yaml'} what each entry means, wherever it has `{STUB}` ({stubs} ×)")
    say(f"{'then' if stubs else 'next'}: finetune {'check' if checked.code else 'run'} {name}")
    return checked.code


def drafted(
    given: list[GivenFile], options: dict[str, str | None], asking: bool
) -> tuple[Draft, list[GivenFile], list[Finding]]:
    """(the draft, the files with names that `raw/*` matches, findings). Raises FindingsError if no task can be made."""
    from finetune_pipeline.data.draft.draft import draft
    from finetune_pipeline.data.draft.files import with_suffix

    made, findings = draft([(file.name, file.path) for file in given], **options)
    if made is not None and asking and not made.choice.chat:
        chosen = {
            "text": _asked("column of the text", made.choice.texts),
            "answer": _asked("column of the answer", made.choice.answers),
        }
        if list(chosen.values()) != [made.choice.texts[0], made.choice.answers[0]]:
            made, findings = draft([(file.name, file.path) for file in given], **{**options, **chosen})
    if made is None:
        raise FindingsError(findings)
    kept = [with_suffix(file, made.reading.containers[file.name]) for file in given]
    made.converted = {
        kept[i].name: made.converted[file.name] for i, file in enumerate(given) if file.name in made.converted
    }
    return made, kept, findings


def write_task(made: Draft, given: Sequence[GivenFile], folder: Path, store: ArtifactStore) -> list[str]:
    """Write a drafted task into its folder: raw files, schema.json, and task.yaml with data.min_per_label proposed.

    Returns:
        The names of the raw files that were copied.
    """
    from finetune_pipeline.data.draft.files import place_files, task_yaml
    from finetune_pipeline.spec import Task, parse_spec

    placed: list[str] = []
    try:
        place_files(given, folder, made.converted, placed)
        if made.schema is not None:
            write_json(folder / "schema.json", made.schema)
        listed = _some([Path(file.name).name for file in given])
        task = Task(spec=parse_spec(task_yaml(folder.name, made, listed)), folder=folder.resolve())
        # last, and once: where it is, `init` refuses to begin again
        replace_text(folder / "task.yaml", task_yaml(folder.name, made, listed, least_per_label(task, store)))
    except BaseException:  # rows written under another name would be files that nobody named, when `init` begins again
        for name in {*placed} - {file.name for file in given}:
            (folder / name).unlink(missing_ok=True)
        raise
    return placed


def say_reading(files: Sequence[Path]) -> None:
    """The first line of a command, before anything slow is imported."""
    say(f"reading {_some(files)}")


def _some(names: Sequence[Path | str]) -> str:
    return ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")


def _asked(question: str, columns: Sequence[str]) -> str:
    """Ask for the column if there are several candidates."""
    if len(columns) < 2:
        return columns[0]
    shown = f"{question} ({', '.join(columns[:8])})"
    return str(click.prompt(shown, default=columns[0], type=click.Choice(list(columns)), show_choices=False))


def _in_place(given: Sequence[GivenFile], data_root: Path) -> str | None:
    """The task whose raw folder contains all the files."""
    folders = {file.path.resolve().parent for file in given}
    folder = folders.pop() if len(folders) == 1 else Path()
    return folder.parent.name if folder.name == "raw" and folder.parent.parent == data_root.resolve() else None


def least_per_label(task: Task, store: ArtifactStore) -> int | None:
    """The proposal for data.min_per_label: the rows of the rarest label after cleaning, unless too few to learn
    from; None if the default fits, or there are no labels."""
    from finetune_pipeline.pipeline import PIPELINE
    from finetune_pipeline.steps.run_inputs import collect_run_inputs

    if not task.spec.labels:
        return None
    try:
        made = PIPELINE.run_to("clean_examples", task, collect_run_inputs(task, None, store), store)
    except FindingsError:
        return None  # the check says why
    counts = made["clean_examples"].facts["labels"]
    least = min((n for n in counts.values() if n >= LEAST_PER_LABEL), default=LEAST_PER_LABEL)
    return least if least < task.spec.data.min_per_label else None


def draft_facts(made: Draft, findings: Sequence[Finding]) -> dict[str, Any]:
    """The draft as plain JSON."""

    return {
        "files": [
            {"file": f, "container": c, "rows": made.reading.counts[f]} for f, c in made.reading.containers.items()
        ],
        "kind": made.answers.kind,
        "labels": made.answers.counts,
        "other_spellings": made.answers.other_spellings,
        "columns": {"text": made.choice.texts, "answer": made.choice.answers, "unused": made.choice.unused},
        "data": made.data,
        "notes": made.notes,
        "findings": as_rows(findings),
    }


def draft_lines(made: Draft) -> list[str]:
    """The draft as text."""
    from finetune_pipeline.data.quoting import quoted

    choice, answers = made.choice, made.answers
    lines = [
        f"{file.removeprefix('raw/')}: {container.replace('_', ' ')}, {made.reading.counts[file]:,} rows"
        for file, container in made.reading.containers.items()
    ]
    lines += [note.replace("raw/", "") for note in made.notes]
    if choice.chat:
        roles = ", ".join(f"{name} is the {role}" for name, role in choice.chat.roles.items() if name != role)
        lines.append(f"conversations{f': {roles}' if roles else ''}")
    else:
        others = f"; other candidates: {', '.join(choice.answers[1:6])} (--answer)" if choice.answers[1:] else ""
        lines.append(f"text: {choice.text}; answer: {choice.answer}{others}")
    if choice.unused:
        lines.append(f"not used: {', '.join(choice.unused[:12])}{', …' if len(choice.unused) > 12 else ''}")
    if answers.kind == "labels":
        some = [f"{quoted(label)} × {n:,}" for label, n in list(answers.counts.items())[:_LABELS_SHOWN]]
        more = len(answers.counts) - len(some)
        lines.append(f"{len(answers.labels)} labels: {', '.join(some)}{f' … and {more} more' if more > 0 else ''}")
        for other, (label, n) in answers.other_spellings.items():
            lines.append(f"{quoted(other)} × {n} is written {quoted(label)} elsewhere: write both the same way")
        if rare := {label: n for label, n in answers.counts.items() if n < LEAST_PER_LABEL}:
            named = ", ".join(f"{quoted(label)} × {n}" for label, n in list(rare.items())[:_LABELS_SHOWN])
            lines.append(f"too rare to learn; merge or remove them in the file: {named}")
    else:
        kinds = {"json": "JSON", "text": "free text"}
        lines.append(f"{answers.rows:,} answers in {kinds[answers.kind]}, {len(answers.values):,} different")
    return lines
