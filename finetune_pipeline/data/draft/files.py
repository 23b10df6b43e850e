"""Writes the folder of a drafted task: copies of the raw files and task.yaml."""

from __future__ import annotations

import difflib
import filecmp
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from finetune_pipeline.data.raw_files import SUFFIXES, has_raw_suffix
from finetune_pipeline.faults import files_below
from finetune_pipeline.findings import Finding, FindingsError, listed_files
from finetune_pipeline.spec.loading import parse_spec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import STUB
from finetune_pipeline.spec.training import TrainingSpec

if TYPE_CHECKING:
    from finetune_pipeline.data.draft.draft import Draft

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WIDTH = 1 << 20
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json")
"""Files with which Hugging Face describes the data beside them; they hold no rows."""


class GivenFile(NamedTuple):
    """A raw file: its path, and its name in the task folder (``raw/…``; ``logs/…`` of a model's log)."""

    name: str
    path: Path


def given_files(paths: Sequence[Path]) -> list[GivenFile]:
    """Return the raw files of these paths; a folder means all raw files below it, without descriptions. Raises FindingsError
    naming every unusable path, and OSError for a folder that cannot be read."""
    problems: list[Finding] = []
    files: dict[str, Path] = {}
    for given in paths:
        inside = [given]
        if given.is_dir():  # with its Arrow files: they are refused, so that no folder is read in part
            all_files = map(Path, files_below(given, follow_links=True))
            below = [path for path in all_files if path.name not in _DESCRIPTIONS]
            inside = sorted(file for file in below if has_raw_suffix(file) or file.suffix == ".arrow")
        if not inside:
            message = f"no file in this folder ends in {', '.join(SUFFIXES)}"
            fix = "name the files; if each text is a file, make one CSV with the columns text and label"
            problems.append(Finding("draft.no_files", "error", str(given), message, fix))
        for path in inside:
            if path.is_file():
                files[os.path.abspath(path)] = path
                continue
            message, fix = "the file does not exist", "correct the path"
            names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            if os.path.lexists(path):
                message, fix = "it is neither a file nor a folder, and no link to one", "copy what it holds into a file"
            elif near := difflib.get_close_matches(path.name, names, 1, 0.6):
                fix = f"did you mean {path.parent / near[0]}?"
            problems.append(Finding("draft.no_file", "error", str(path), message, fix))
    if problems:
        raise FindingsError(problems)
    times = Counter(path.name for path in files.values())
    named: dict[str, GivenFile] = {}
    for path in files.values():
        name = path.name if times[path.name] == 1 else f"{path.resolve().parent.name}_{path.name}"
        printable = "".join(c if c.isprintable() else "_" for c in name).lstrip(".~$") or "rows"
        numbered = (f"raw/{number}_{printable}" for number in count(2))
        name = f"raw/{printable}" if f"raw/{printable}" not in named else next(n for n in numbered if n not in named)
        named[name] = GivenFile(name, path)
    return list(named.values())


def left_out(paths: Sequence[Path]) -> list[str]:
    """Return a note with the files of these folders that are not read, because of their names; empty without any."""
    below = (Path(file) for folder in paths if folder.is_dir() for file in files_below(folder, follow_links=True))
    seen = (file for file in below if file.name not in _DESCRIPTIONS and not file.name.startswith((".", "~$")))
    names = sorted({file.name for file in seen if not (has_raw_suffix(file) or file.suffix == ".arrow")})
    endings = "raw files of a folder end in " + ", ".join(SUFFIXES)
    return [f"not read: {listed_files(names)}; {endings}"] if names else []


def _words(text: str) -> list[str]:
    """Return the words of a text in a form that names of tasks may have. Accented letters lose their accents."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain)


def task_name(paths: Sequence[Path]) -> str:
    """Make a task name from the common part of the file names, else from the folder."""
    words = [_words(re.sub(r"(\.\w{1,8})+$", "", path.name)) for path in paths]
    shared = [words_here[0] for words_here in zip(*words, strict=False) if len(set(words_here)) == 1]
    if not shared:
        shared = _words(paths[0].resolve().parent.name)
    while len(shared) > 1 and shared[-1] in ("train", "training", "data", "dataset", "export", "part", "raw"):
        shared.pop()
    return _valid_name(shared)


def _valid_name(words: Sequence[str]) -> str:
    name = "_".join(words)
    return (name if name[:1].isalpha() else f"task_{name}".rstrip("_"))[:64]


def name_problems(name: str, folder: Path, files: Sequence[GivenFile]) -> list[Finding]:
    """Return why a task of this name cannot be made in this folder. Existing files are never overwritten."""
    problems: list[Finding] = []

    def add(rule: str, place: str, message: str, fix: str) -> None:
        problems.append(Finding(f"draft.{rule}", "error", place, message, fix))

    if not _NAME.fullmatch(name):
        fix = f"use lowercase letters, digits and _, such as {_valid_name(_words(name))}"
        add("name", "--name", f"{name!r} is not a valid task name", fix)
    if (folder / "task.yaml").exists():
        fix = f"go on with `finetune check {name}`, edit {folder / 'task.yaml'}, or choose another --name; nothing was changed"
        add("task_exists", str(folder), f"there is a task {name!r} already", fix)
        return problems
    raw = folder / Path(files[0].name).parent if files else folder / "raw"
    old = {p.name: p for p in raw.iterdir() if p.is_file()} if raw.is_dir() else {}
    new = {Path(file.name).name: file.path for file in files}
    for other_name in sorted(old.keys() - new.keys()):
        if has_raw_suffix(old[other_name]):
            message = "this file would be read too, but was not named"
            add("other_files", f"{raw / other_name}", message, "name it or move it away")
    for shared in sorted(old.keys() & new.keys()):
        if not (old[shared].samefile(new[shared]) or filecmp.cmp(old[shared], new[shared], shallow=False)):
            message = f"it differs from {new[shared]}"
            add("other_content", f"{raw / shared}", message, "choose another --name, or remove it")
    return problems


def place_files(files: Sequence[GivenFile], folder: Path, containers: Mapping[str, str], written: list[str]) -> None:
    """Copy each file below `folder` atomically. A name that `raw/*` does not read gets the suffix of its container. The name of
    each new file is added to `written` at once."""
    for file in files:
        name = file.name
        if not has_raw_suffix(Path(name)):
            container = containers[file.name]
            name += {"json_lines": ".jsonl", "workbook": ".xlsx"}.get(container, f".{container}")
        name = f"{Path(name).parent}/2_{Path(name).name}" if name in written else name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            continue
        part = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(file.path, part)
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)  # on a full disk it would keep the space
            raise
        written.append(name)


def task_yaml(name: str, draft: Draft, files: str, min_per_label: int | None = None) -> str:
    """Return the text of task.yaml. files: named in its first line. min_per_label: set if the rarest label has fewer rows
    than the default."""
    data = {k: v for k, v in draft.data.items() if v not in ({}, None)}
    defaults, training = TaskSpec.model_fields, TrainingSpec()
    described = "write down" if STUB in draft.system_prompt else "look at"
    columns = zip((draft.choice.answer, draft.choice.text), ("the answer", "the text"), strict=True)
    answer, text = (name if re.fullmatch(r'[\w "-]+', name) else words for name, words in columns)
    if draft.choice.chat:
        description = "Answer as the conversations do."
    elif draft.answers.kind == "text":
        description = f"Write {answer}, given {text}."
    else:
        description = f"Predict {answer} from {text}."
    lines = [
        f"# Drafted by `finetune init` from {files}. `finetune show {name}` prints every setting,",
        "# `finetune show --schema task.yaml` says what is allowed.",
        f"name: {name}",
        f"description: {_inline(description)}  # say what the model is for",
        f"base_model: {defaults['base_model'].default}  # or a folder, or a Hub id",
        f"# System prompt of every input, in training and in production: {described} what each line means.",
        f"system_prompt: {_inline(draft.system_prompt, style='|')}",
        "output:",
        *_output(draft),
        "data:",
        "  raw: [raw/*]",
        *(f"  {key}: {_inline(value)}" for key, value in data.items()),
    ]
    if draft.answers.kind == "labels":
        default = draft.spec.data.min_per_label
        least = f"the rarest label has few rows; the default is {default}"
        lines.append(f"  min_per_label: {min_per_label or default}" + (f"  # {least}" if min_per_label else ""))
    lines += [
        f"  min_examples: {draft.spec.data.min_examples}  # fewer clean rows stop the pipeline",
        *(
            [
                "teacher:  # finetune docs teacher",
                *(f"  {key}: {_inline(value)}" for key, value in draft.teacher.items()),
            ]
            if draft.teacher
            else []
        ),
        "training:",
        f"  method: {training.method}  # qlora, lora, full, prefix or prompt: `finetune plan {name}` compares them",
        f"  epochs: {training.epochs:g}",
    ]
    text = "\n".join(lines) + "\n"
    parse_spec(text)
    return text


def _output(draft: Draft) -> list[str]:
    answers, output = draft.answers, draft.output
    lines = [f"  kind: {output['kind']}  # labels, json (extraction) or text"]
    if answers.kind == "labels":
        doubts = dict.fromkeys(answers.missing, "; no answer? `finetune init` said how to leave them out")
        rows = (f"{_inline(label)}  # {answers.counts[label]} rows{doubts.get(label, '')}" for label in answers.labels)
        lines += ["  labels:", *(f"    - {row}" for row in rows)]
    return lines + [f"  {key}: {_inline(value)}" for key, value in output.items() if key not in ("kind", "labels")]


def _inline(value: Any, style: str | None = None) -> str:
    """Return a value as YAML to put after its key: on one line, or in the given block style if the value allows it."""
    plain = not re.search(r"\\x85|\\u202[89]", ascii(value))  # PyYAML reads these characters as line ends
    options: dict[str, Any] = {"allow_unicode": plain, "width": _WIDTH, "sort_keys": False, "default_flow_style": True}
    text: str = yaml.safe_dump(value, default_style=style, **options)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if style or "\n" not in text else yaml.safe_dump(value, default_style='"', **options).removesuffix("\n")
