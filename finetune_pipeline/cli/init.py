"""``finetune init FILE…``: makes a task from raw files, checks it, and scores the simplest model."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune_pipeline.cli.output import as_json, failure, say, tell, wants_json
from finetune_pipeline.engine.files import replace_text, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import Finding, FindingsError, as_rows, listed, listed_files
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from finetune_pipeline.data.draft.column_scores import ColumnScore
    from finetune_pipeline.data.draft.draft import Draft
    from finetune_pipeline.data.draft.files import GivenFile
    from finetune_pipeline.spec import Task

LEAST_PER_LABEL = 10
"""Smallest data.min_per_label that `init` proposes: rarer labels cannot be learned, validated and tested."""
_FILES_SHOWN = _LABELS_SHOWN = 12


def _path(text: str) -> Path:
    """Parse a path of the command line. Refuses an empty text: an unset shell variable would mean the working folder."""
    if not text:
        raise click.BadParameter("an empty name is not a file; write . for the working folder")
    return Path(text)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments for raw files to a command, and the options that override detection."""
    options = [
        click.argument("files", metavar="FILE…", nargs=-1, required=True, type=_path),
        click.option("--text", help="Column with the user's text. Unset: detected."),
        click.option(
            "--answer",
            multiple=True,
            help="Column with the label or answer; several make one JSON object. Unset: detected.",
        ),
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
@click.option(
    "--allowed", is_flag=True, help="Of logs: you have read the terms, which allow training on the model's answers."
)
@as_json
def init(files: Sequence[Path], name: str | None, yes: bool, allowed: bool, **options: Any) -> int:
    """Make a task from raw FILES: copy them, draft task.yaml, check every row, and score the simplest model.

    Files may be JSON Lines, JSON, CSV, TSV, Parquet or xlsx with any columns. Of a folder, all such files outside hidden
    folders are read. Of logs of a model in production (id, timestamp, input or messages, output, model_version), that model
    becomes the teacher, whose answers are there already. Nothing is overwritten. Asks at most three questions, and none with
    --yes or without a terminal.

    Exit code 2: the task was made, but the pipeline would stop at its data.
    """
    say(f"reading {listed(files, 3)}")  # before the slow imports
    from finetune_pipeline.data.draft.files import given_files, left_out, name_problems, task_name

    settings = read_settings()
    asking = not yes and not wants_json() and sys.stdin.isatty()
    sources = given_files(files)
    name = name or _task_of_raw_folder(sources, settings.data_root) or task_name([file.path for file in sources])
    if asking:
        name = click.prompt("name of the task", default=name)
    folder = settings.data_root / name
    if problems := name_problems(name, folder, sources):
        raise FindingsError(problems)
    from finetune_pipeline.production.log_draft import are_logs, draft_from_logs

    if not (options["text"] or options["answer"]) and are_logs(sources):
        draft, findings, sources = draft_from_logs(sources, allowed)
    else:
        draft, findings = draft_task(sources, options, asking)
    draft.notes += left_out(files)
    store = ArtifactStore(settings.artifacts)
    with store.lock(name, "init"):
        if problems := name_problems(name, folder, sources):  # another command made it meanwhile
            raise FindingsError(problems)
        copied = write_task(draft, sources, folder, store)
    from finetune_pipeline.cli.check import check_task, facts_of, show_check
    from finetune_pipeline.spec.rules import STUB

    try:
        checked = check_task(folder, store, settings.home / "checks")
    except (KeyboardInterrupt, OSError) as error:
        reason = "stopped" if isinstance(error, KeyboardInterrupt) else failure(error)
        if reason is None:
            raise
        # names another command, since `init` would now refuse to make the task
        message = f"{reason}; the task is made in {folder}, and `finetune check {name}` continues from there"
        raise click.ClickException(message) from error
    copied_names = listed(copied, _FILES_SHOWN) or "nothing: the files are there"
    say(*draft_lines(draft), f"{folder}: copied {copied_names}; task.yaml drafted", "")
    show_check(checked, brief=True)
    if stubs := draft.system_prompt.count(STUB):
        say(f"next: write in {folder / 'task.yaml'} what each entry means, wherever it has `{STUB}` ({stubs} ×)")
    say(f"{'then' if stubs else 'next'}: finetune {'check' if checked.code else 'run'} {name}")
    tell({**facts_of(checked), "folder": str(folder), "copied": copied, "draft": draft_facts(draft, findings)})
    return checked.code


def draft_task(sources: list[GivenFile], options: dict[str, Any], asking: bool) -> tuple[Draft, list[Finding]]:
    """Draft a task from raw files; ask for its columns if several are possible. Raises FindingsError if no task can be made."""
    from finetune_pipeline.data.draft.draft import draft

    result, findings = draft(sources, **options)
    if result is not None and asking and not result.choice.chat:
        choice = result.choice
        columns = {
            "text": _ask_column("column of the text", choice.texts),
            "answer": _ask_column("column of the answer", choice.answers),
        }
        if columns != {"text": choice.texts[0], "answer": choice.answers[0]}:
            named = {key: column for key, column in columns.items() if column not in choice.composed}
            result, findings = draft(sources, **{**options, **named})
    if result is None:  # nothing is in raw/ yet
        raise FindingsError(replace(f, place=f.place.removeprefix("raw/")) for f in findings)
    return result, findings


def write_task(draft: Draft, sources: Sequence[GivenFile], folder: Path, store: ArtifactStore) -> list[str]:
    """Write a drafted task into its folder: raw files, schema.json, and task.yaml with data.min_per_label proposed. Returns the
    names of the raw files that were copied."""
    from finetune_pipeline.data.draft.files import place_files, task_yaml
    from finetune_pipeline.spec import Task, parse_spec

    placed: list[str] = []
    try:
        place_files(sources, folder, draft.reading.containers, placed)
        if draft.schema is not None:
            write_json(folder / "schema.json", draft.schema)
        file_list = listed([Path(file.name).name for file in sources], 3)
        task = Task(spec=parse_spec(task_yaml(folder.name, draft, file_list)), folder=folder.resolve())
        # written last and only once: `init` refuses to start where this file exists
        replace_text(folder / "task.yaml", task_yaml(folder.name, draft, file_list, least_per_label(task, store)))
    except BaseException:  # remove files with new names: a later `init` refuses a folder with files that nobody named
        for name in {*placed} - {file.name for file in sources}:
            (folder / name).unlink(missing_ok=True)
        raise
    return placed


def _ask_column(question: str, columns: Sequence[str]) -> str:
    """Ask for the column if there are several candidates."""
    if len(columns) < 2:
        return columns[0]
    prompt = f"{question} ({', '.join(columns[:8])})"
    return str(click.prompt(prompt, default=columns[0], type=click.Choice(list(columns)), show_choices=False))


def _task_of_raw_folder(sources: Sequence[GivenFile], data_root: Path) -> str | None:
    """Return the task whose raw folder contains all the files, or None."""
    folders = {file.path.resolve().parent for file in sources}
    folder = folders.pop() if len(folders) == 1 else Path()
    return folder.parent.name if folder.name == "raw" and folder.parent.parent == data_root.resolve() else None


def least_per_label(task: Task, store: ArtifactStore) -> int | None:
    """Propose data.min_per_label: the cleaned rows of the rarest label that has enough to learn from. None if the default fits,
    or there are no labels."""
    from finetune_pipeline.data.dedup.cleaning import Cleaned
    from finetune_pipeline.pipeline import PIPELINE
    from finetune_pipeline.steps.run_inputs import collect_run_inputs

    if not task.spec.labels:
        return None
    try:
        artifacts = PIPELINE.run_to("clean_examples", task, collect_run_inputs(task, None, store), store)
    except FindingsError:
        return None  # the check says why
    counts = artifacts["clean_examples"].read(Cleaned).labels
    least = min((n for n in counts.values() if n >= LEAST_PER_LABEL), default=LEAST_PER_LABEL)
    return least if least < task.spec.data.min_per_label else None


def _score_lines(scores: Sequence[ColumnScore]) -> list[str]:
    """Return a table of the columns that may hold the label: how well a linear model predicts each from the text."""
    if len(scores) < 2:
        return []
    width = max(len(score.path) for score in scores)
    rows = [
        f"  {score.path:{width}}  {score.accuracy:4.0%} right, {score.commonest:4.0%} by always answering the commonest"
        f"{'' if score.is_learnable else ': nothing to learn from the text'}"
        for score in scores
    ]
    learnable = [score.path for score in scores if score.is_learnable]
    several = shlex.quote(",".join(learnable if len(learnable) > 1 else [score.path for score in scores[:2]]))
    another = f"another: --answer COLUMN; several as one JSON object: --answer {several}"
    return ["columns that may be the answer, each predicted by a linear model on held-out rows:", *rows, another]


def draft_facts(draft: Draft, findings: Sequence[Finding]) -> dict[str, object]:
    """Return the draft as plain JSON."""
    return {
        "files": [
            {"file": file, "container": container, "rows": draft.reading.counts[file]}
            for file, container in draft.reading.containers.items()
        ],
        "kind": draft.answers.kind,
        "labels": draft.answers.counts,
        "other_spellings": draft.answers.other_spellings,
        "columns": {
            "text": draft.choice.texts,
            "answer": draft.choice.answers,
            "unused": draft.choice.unused,
            "scores": [{**asdict(score), "learnable": score.is_learnable} for score in draft.choice.scores],
        },
        "data": draft.data,
        "notes": draft.notes,
        "findings": as_rows(findings),
    }


def draft_lines(draft: Draft) -> list[str]:
    """Return the draft as lines of text."""
    from finetune_pipeline.data.quoting import quoted
    from finetune_pipeline.evaluation.wording import counted

    choice, answers = draft.choice, draft.answers
    containers, counts = draft.reading.containers, draft.reading.counts
    one_by_one = len(containers) <= _FILES_SHOWN
    alike: dict[str, list[str]] = {}
    for file, container in containers.items():
        alike.setdefault(file if one_by_one else container, []).append(file)
    lines = []
    for files in alike.values():
        names = listed_files([file.removeprefix("raw/") for file in files])
        rows = counted(sum(counts[file] for file in files), "row")
        lines.append(f"{names}: {containers[files[0]].replace('_', ' ')}, {rows}")
    lines += [note.replace("raw/", "") for note in draft.notes]
    if choice.chat:
        roles = ", ".join(f"{name} is the {role}" for name, role in choice.chat.roles.items() if name != role)
        lines.append(f"conversations{f': {roles}' if roles else ''}")
    else:
        scored = {score.path for score in choice.scores}
        others = [path for path in choice.answers[1:] if path not in scored][:5]
        candidates = f"; other candidates: {', '.join(others)} (--answer)" if others else ""
        lines.append(f"text: {choice.text}; answer: {choice.answer}{candidates}")
        lines += _score_lines(choice.scores)
    if choice.unused:
        lines.append(f"not used: {listed(choice.unused)}")
    if answers.kind == "labels":
        labels = [f"{quoted(label)} × {n:,}" for label, n in list(answers.counts.items())[:_LABELS_SHOWN]]
        more = len(answers.counts) - len(labels)
        lines.append(f"{len(answers.labels)} labels: {', '.join(labels)}{f' … and {more} more' if more > 0 else ''}")
        for spelling, (label, n) in answers.other_spellings.items():
            lines.append(f"{quoted(spelling)} × {n} is written {quoted(label)} elsewhere: write both the same way")
        if rare := {label: n for label, n in answers.counts.items() if n < LEAST_PER_LABEL}:
            rare_labels = ", ".join(f"{quoted(label)} × {n}" for label, n in list(rare.items())[:_LABELS_SHOWN])
            lines.append(f"too rare to learn; merge or remove them in the file: {rare_labels}")
    else:
        kinds = {"json": "JSON", "text": "free text"}
        lines.append(f"{answers.rows:,} answers in {kinds[answers.kind]}, {len(answers.values):,} different")
    return lines
