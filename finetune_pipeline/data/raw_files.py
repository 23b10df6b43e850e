"""Takes a snapshot of the files a task declares, so that every later stage reads bytes that no longer change."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import SeenFiles, digest_file
from finetune_pipeline.data.detection import detect
from finetune_pipeline.data.fields import check_fields
from finetune_pipeline.data.json_lines import combine_digests
from finetune_pipeline.data.parts import link
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec import Task, TaskSpec

FILES = "files"
PRODUCTION_FILE = "production.jsonl"
BENCHMARKS = "benchmarks"


def raw_paths(task: Task) -> list[tuple[str, Path]]:
    """(name relative to the task folder, path) of every file the globs of ``data.raw`` match, sorted by name.

    Raises FindingsError when nothing matches, for links that lead out of the task folder, and for a mapping in
    ``data.fields`` that cannot be used: without it no file can be read.
    """
    folder = task.folder.resolve()
    found: dict[str, Path] = {}
    problems: list[Finding] = check_fields(task.spec)
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
    if not found and not any(f.rule.startswith("data.") for f in problems):
        patterns = ", ".join(repr(p) for p in task.spec.data.raw)
        problems.append(
            Finding(
                "data.no_raw_files",
                "error",
                "task.yaml: data.raw",
                f"no file in the folder of task {task.name!r} matches {patterns}; {_seen(folder)}",
                "put the raw files there, or correct the globs: JSON Lines, JSON, CSV, TSV, Parquet, gzipped or not",
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


def _seen(folder: Path) -> str:
    """What lies in the folder instead, for people."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("raw/**/*") if p.is_file())
    shown = ", ".join(repr(n) for n in names[:5])
    return (
        f"there are {len(names)} files under raw/: {shown}{', …' if len(names) > 5 else ''}"
        if names
        else "raw/ is empty"
    )


def benchmark_paths(task: Task) -> list[tuple[str, Path]]:
    """(name, path) of every benchmark file the globs of ``data.benchmarks`` match, sorted by name.

    Raises FindingsError when a glob matches nothing: a check against no benchmark would pass for ever.
    """
    folder = task.folder.resolve()
    found: dict[str, Path] = {}
    problems = []
    for pattern in task.spec.data.benchmarks:
        matches = [p for p in folder.glob(pattern) if p.is_file() and p.resolve().is_relative_to(folder)]
        found.update({p.relative_to(folder).as_posix(): p for p in matches})
        if not matches:
            message = f"no file in the folder of task {task.name!r} matches {pattern!r}"
            fix = "put the benchmark file there, or correct the glob"
            problems.append(Finding("data.no_benchmark_files", "error", "task.yaml: data.benchmarks", message, fix))
    if problems:
        raise FindingsError(problems)
    return sorted(found.items())


def raw_digest(task: Task, seen: SeenFiles | None = None) -> str:
    """Hex SHA-256 over names and content of the raw files and of the benchmark files. `seen`: what need not be read."""
    seen = seen or SeenFiles()
    files = [*raw_paths(task), *((f"{BENCHMARKS}/{name}", path) for name, path in benchmark_paths(task))]
    return combine_digests((name, seen.digest(path)) for name, path in files)


def collect_raw(
    task: Task,
    out: Path,
    production: Path | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    seen: SeenFiles | None = None,
) -> dict[str, Any]:
    """Copy every raw file to ``out/files/<name relative to the task folder>``, production rows to ``production.jsonl``,
    benchmark files to ``out/benchmarks/<name>``.

    `earlier`: facts of earlier snapshots, each with ``folder`` (Path); a file with an equal digest is linked from there;
    `seen`: files whose digest is known.
    Facts: ``files`` (file, sha256, bytes, lines, container, shape, compressed, reason), ``lines`` (all files),
    ``bytes``, ``benchmarks`` (names) and ``digest``: what :func:`raw_digest` gives for the bytes copied (a difference
    means a file changed meanwhile).
    """
    known = {
        (told["file"], told["sha256"]): (told, Path(facts["folder"]) / FILES / told["file"])
        for facts in earlier
        for told in facts["files"]
    }
    seen = seen or SeenFiles()
    digests: list[tuple[str, str]] = []
    files: list[dict[str, Any]] = []
    sources = [*raw_paths(task), *([(PRODUCTION_FILE, production)] if production else [])]
    for name, path in sources:
        copy = out / FILES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        same = known.get((name, seen.digest(path))) if known else None
        if same and same[1].is_file():
            link(same[1], copy)
            digest, told = same[0]["sha256"], {k: v for k, v in same[0].items() if k in _DETECTED}
        else:
            shutil.copyfile(path, copy)
            digest, told = digest_file(copy), _look_into(copy, name, task.spec)
        if name != PRODUCTION_FILE or not production:
            digests.append((name, digest))
        files.append({"file": name, "sha256": digest, "bytes": copy.stat().st_size, **told})
    benchmarks = []
    for name, path in benchmark_paths(task):
        copy = out / BENCHMARKS / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        digests.append((f"{BENCHMARKS}/{name}", digest_file(copy)))
        benchmarks.append(name)
    return {
        "files": files,
        "lines": sum(f["lines"] for f in files),
        "bytes": sum(f["bytes"] for f in files),
        "benchmarks": benchmarks,
        "digest": combine_digests(digests),
    }


_DETECTED = ("lines", "container", "compressed", "shape", "reason")


def _look_into(path: Path, name: str, spec: TaskSpec) -> dict[str, Any]:
    detected = detect(path, name, spec)
    lines = 0
    with path.open("rb") as handle:
        last = b""
        while block := handle.read(1 << 22):
            lines += block.count(b"\n")
            last = block[-1:]
    return {
        "lines": lines + (last not in (b"", b"\n")),
        "container": detected.container,
        "compressed": detected.compressed,
        "shape": detected.shape,
        "reason": detected.reason,
    }
