"""The files a task is drafted from, and their place in the task's folder."""

from __future__ import annotations

import difflib
import filecmp
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_pipeline.data.raw_files import SUFFIXES, is_known
from finetune_pipeline.findings import Finding, FindingsError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class GivenFile:
    """A raw file: where it is, and its name in the task's folder (``raw/…``)."""

    name: str
    path: Path


def given_files(paths: Sequence[Path]) -> list[GivenFile]:
    """The raw files among these paths; a folder stands for the files of known suffixes below it.

    Raises FindingsError naming every path that is no file to read.
    """
    problems: list[Finding] = []
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and is_known(p))
            if not inside:
                message = f"no file in this folder ends in {', '.join(SUFFIXES)}"
                problems.append(Finding("draft.no_files", "error", str(path), message, "name the files"))
            files |= dict.fromkeys(inside)
        elif path.is_file():
            files[path] = None
        else:
            near = _nearest(path)
            fix = f"did you mean {near}?" if near else "correct the path"
            problems.append(Finding("draft.no_file", "error", str(path), "there is no such file", fix))
    if problems:
        raise FindingsError(problems)
    times = Counter(path.name for path in files)
    named = [
        (path.name if times[path.name] == 1 else f"{path.resolve().parent.name}_{path.name}", path) for path in files
    ]
    return [GivenFile(f"raw/{_printable(name)}", path) for name, path in named]


def _nearest(path: Path) -> Path | None:
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, 0.6)
    return folder / near[0] if near else None


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "_" for c in name).lstrip(".~$") or "rows"


def with_suffix(file: GivenFile, container: str) -> GivenFile:
    """The file under a name that `raw/*` takes: the suffix of what it holds is added where it has none that is known."""
    if is_known(Path(file.name)):
        return file
    suffix = {"json_lines": ".jsonl", "workbook": ".xlsx"}.get(container, f".{container}")
    return GivenFile(file.name + suffix, file.path)


def name_problems(name: str, folder: Path, files: Sequence[GivenFile]) -> list[Finding]:
    """Why a task of this name cannot be made in this folder: nothing that is there is overwritten."""
    problems: list[Finding] = []

    def say(rule: str, place: str, message: str, fix: str) -> None:
        problems.append(Finding(f"draft.{rule}", "error", place, message, fix))

    if not _NAME.fullmatch(name):
        plain = re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") or "my_task"
        say("name", "--name", f"{name!r} is no name of a task", f"use small letters, digits and _, such as {plain}")
    if (folder / "task.yaml").exists():
        fix = f"choose another --name, or edit {folder / 'task.yaml'}; nothing was changed"
        say("task_exists", str(folder), f"there is a task {name!r} already", fix)
        return problems
    raw = folder / "raw"
    there = {p.name: p for p in raw.iterdir() if p.is_file()} if raw.is_dir() else {}
    given = {Path(file.name).name: file.path for file in files}
    for other in sorted(there.keys() - given.keys()):
        if is_known(there[other]):
            say(
                "other_files",
                f"{raw / other}",
                "this file would be read, too, and was not named",
                "name it, or move it",
            )
    for same in sorted(there.keys() & given.keys()):
        if not _is_copy(there[same], given[same]):
            say(
                "other_content",
                f"{raw / same}",
                f"it differs from {given[same]}",
                "choose another --name, or remove it",
            )
    return problems


def _is_copy(there: Path, given: Path) -> bool:
    return there.samefile(given) or filecmp.cmp(there, given, shallow=False)


def place_files(files: Sequence[GivenFile], folder: Path, converted: Mapping[str, bytes]) -> list[str]:
    """Copy the files below `folder`, each whole or not at all.

    Args:
        converted: By file: its rows in another form, written as JSON Lines in place of the file.

    Returns:
        The names written; files that are there already are not among them.
    """
    written = []
    for file in files:
        name = f"{file.name.split('.')[0]}.jsonl" if file.name in converted else file.name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        part = target.with_name(f".{target.name}.part")
        if file.name in converted:
            part.write_bytes(converted[file.name])
        else:
            shutil.copyfile(file.path, part)
        os.replace(part, target)
        written.append(name)
    return written
