"""Takes a snapshot of the files a task declares, so that every later stage reads bytes that no longer change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.artifacts import digest_file
from finetune_pipeline.data.formats import detect
from finetune_pipeline.data.json_lines import digest_files, is_blank, read_lines
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec import Task

FILES = "files"
PRODUCTION_FILE = "production.jsonl"
_SAMPLE_LINES = 200


def raw_paths(task: Task) -> list[tuple[str, Path]]:
    """(name relative to the task folder, path) of every file the globs of ``data.raw`` match, sorted by name.

    Raises FindingsError when nothing matches, or for links that lead out of the task folder.
    """
    folder = task.folder.resolve()
    found: dict[str, Path] = {}
    problems: list[Finding] = []
    for pattern in task.spec.data.raw:
        for path in folder.glob(pattern):
            name = path.relative_to(folder).as_posix()
            if not name.isprintable():
                problems.append(
                    Finding(
                        "data.odd_file_name",
                        "error",
                        ascii(name),
                        "the name holds characters that cannot be shown",
                        "rename the file",
                    )
                )
            elif not path.resolve().is_relative_to(folder):
                problems.append(
                    Finding(
                        "data.link_leaves_folder",
                        "error",
                        name,
                        "this link leads out of the task folder",
                        "copy the file itself into the task folder",
                    )
                )
            elif path.is_file():
                found[name] = path
    if not found and not problems:
        patterns = ", ".join(repr(p) for p in task.spec.data.raw)
        problems.append(
            Finding(
                "data.no_raw_files",
                "error",
                "task.yaml: data.raw",
                f"no file in the folder of task {task.name!r} matches {patterns}",
                "put the raw files there or correct the globs",
            )
        )
    if PRODUCTION_FILE in found:
        problems.append(
            Finding(
                "data.reserved_name",
                "error",
                PRODUCTION_FILE,
                "this name is kept for rows taken from production logs",
                "rename the file",
            )
        )
    if problems:
        raise FindingsError(sorted(set(problems), key=lambda f: (f.place, f.rule)))
    return sorted(found.items())


def raw_digest(task: Task, production: Path | None = None) -> str:
    """Hex SHA-256 over names and content of the raw files (and of the production rows, when given)."""
    files = raw_paths(task)
    return digest_files([*files, (PRODUCTION_FILE, production)] if production else files)


def collect_raw(task: Task, out: Path, production: Path | None = None) -> dict[str, Any]:
    """Copy every raw file to ``out/files/<name relative to the task folder>``, production rows to ``production.jsonl``.

    Facts: ``files`` (file, sha256, bytes, lines, format, reason), ``lines`` (non-blank, all files), ``bytes`` and
    ``digest``: what :func:`raw_digest` gives for the bytes copied (a difference means a file changed meanwhile).
    """
    sources = raw_paths(task)
    if production:
        sources = [*sources, (PRODUCTION_FILE, production)]
    copies: list[tuple[str, Path]] = []
    files: list[dict[str, Any]] = []
    for name, path in sources:
        copy = out / FILES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copies.append((name, copy))
        lines = sum(1 for _, line, _ in read_lines(copy) if not is_blank(line))
        shape, reason = guess_format(copy)
        files.append(
            {
                "file": name,
                "sha256": digest_file(copy),
                "bytes": copy.stat().st_size,
                "lines": lines,
                "format": shape,
                "reason": reason,
            }
        )
    return {
        "files": files,
        "lines": sum(f["lines"] for f in files),
        "bytes": sum(f["bytes"] for f in files),
        "digest": digest_files(copies),
    }


def guess_format(path: Path) -> tuple[str, str]:
    """(format, why) of a raw file, from its first lines: ``messages``, ``text_label``, ``mixed`` or ``unknown``."""
    counts = {"messages": 0, "text_label": 0}
    seen = 0
    for _, line, cut in read_lines(path):
        if is_blank(line):
            continue
        seen += 1
        try:
            row = None if cut else msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = None
        shape = detect(row) if isinstance(row, dict) else None
        if shape:
            counts[shape] += 1
        if seen == _SAMPLE_LINES:
            break
    if not seen:
        return "unknown", "the file holds no rows"
    shapes = [s for s, n in counts.items() if n]
    words = {"messages": "`messages`", "text_label": "`text` or `label`"}
    told = " and ".join(f"{counts[s]} hold {words[s]}" for s in shapes) or "none holds `messages`, `text` or `label`"
    return (shapes[0] if len(shapes) == 1 else "mixed" if shapes else "unknown"), f"of the first {seen} rows, {told}"
