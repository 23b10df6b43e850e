"""Copies the raw files that a task declares. Later steps read these copies, which do not change."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from finetune_pipeline.data.examples import write_examples
from finetune_pipeline.data.fields import check_fields
from finetune_pipeline.data.json_lines import combine_digests
from finetune_pipeline.data.people import digest_examples, people_examples
from finetune_pipeline.data.readers.any_file import look_at
from finetune_pipeline.data.readers.encoding import Survey, survey
from finetune_pipeline.data.readers.records import is_utf8
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import SeenFiles, digest_file
from finetune_pipeline.faults import files_below
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec import Task, TaskSpec
from finetune_pipeline.spec.teacher import PEOPLE_FILE

FILES = "files"
PRODUCTION_FILE = "production.jsonl"
TEACHER_FILE = "teacher.jsonl"
MADE_FILES = (PRODUCTION_FILE, PEOPLE_FILE, TEACHER_FILE)
"""Names of the files of rows that are not the user's own, in canonical form; raw files must not have them."""
BENCHMARKS = "benchmarks"
NamedFiles = Sequence[tuple[str, Path]]
"""(name, path) of each file."""
SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".tab", ".parquet", ".xlsx")
"""Suffixes of raw files; a glob without a suffix, such as raw/*, matches only these."""


class RawFile(Facts, frozen=True, kw_only=True):
    """A copied file. container: its type (:class:`~.containers.Container`); reason: the evidence for that."""

    file: str
    sha256: str
    bytes: int
    container: str
    reason: str
    survey: Survey


class RawFacts(Facts, frozen=True, kw_only=True):
    """Facts of raw_examples. bytes: of all files; benchmarks: names; digest: :func:`raw_digest` of the copied bytes."""

    files: list[RawFile]
    bytes: int
    benchmarks: list[str]
    digest: str

    @property
    def surveys(self) -> dict[str, Survey]:
        return {file.file: file.survey for file in self.files}


def raw_paths(task: Task) -> list[tuple[str, Path]]:
    """Return (name relative to the task folder, path) of every file that the globs of ``data.raw`` match, sorted by name.
    Raises FindingsError if nothing matches and no teacher is declared, for links that lead out of the task folder, and for errors
    in how the spec declares raw rows."""
    folder = task.folder.resolve()
    paths, file_problems = matching_files(folder, task.spec.data.raw)
    problems = {*check_fields(task.spec), *file_problems}

    def add(rule: str, place: str, message: str, fix: str) -> None:
        problems.add(Finding(f"data.{rule}", "error", place, message, fix))

    if not paths and task.spec.teacher is None and not any(f.rule.startswith("data.") for f in problems):
        patterns = ", ".join(repr(p) for p in task.spec.data.raw)
        message = f"no file in the folder of task {task.name!r} matches {patterns}; {_list_raw_folder(folder)}"
        fix = "put the raw files there or correct the globs. Supported: JSON Lines, JSON, CSV, TSV, Parquet, xlsx"
        add("no_raw_files", "task.yaml: data.raw", message, fix)
    for name, rows in {PRODUCTION_FILE: "production logs", TEACHER_FILE: "the teacher", PEOPLE_FILE: "people"}.items():
        if name in paths:
            add("reserved_name", name, f"this name is kept for rows from {rows}", "rename the file")
    if problems:
        raise FindingsError(sorted(problems, key=lambda f: (f.place, f.rule)))
    return sorted(paths.items())


def matching_files(folder: Path, globs: Sequence[str]) -> tuple[dict[str, Path], list[Finding]]:
    """Return the files in a task's folder (absolute) that globs match, by name relative to it, and findings about odd names and
    links."""
    paths: dict[str, Path] = {}
    problems: list[Finding] = []

    def add(rule: str, place: str, message: str, fix: str) -> None:
        problems.append(Finding(f"data.{rule}", "error", place, message, fix))

    for top in {PurePath(glob).parts[0] for glob in globs}:
        files_below(folder / top)
    matches: list[Path] = []
    for glob in globs:
        has_suffix = "." in PurePath(glob).name
        matches += [path for path in folder.glob(glob) if has_suffix or has_raw_suffix(path)]
    for path in matches:
        name = path.relative_to(folder).as_posix()
        if not name.isprintable():
            add("odd_file_name", ascii(name), "the file name holds unprintable characters", "rename the file")
        elif path.exists() and not path.resolve().is_relative_to(folder):
            fix = "copy the file itself into the task folder"
            add("link_leaves_folder", name, "this link points outside the task folder", fix)
        elif path.is_file():
            paths[name] = path
        elif path.is_symlink() and not path.exists():
            add("dangling_link", name, "this link points to a missing file", "copy the file here or remove the link")
    return paths, problems


def has_raw_suffix(path: Path) -> bool:
    """Whether a file has a raw file's suffix; hidden files and lock files of office programs do not count."""
    name = path.name.lower().removesuffix(".gz")
    return path.suffix != "" and name.endswith(SUFFIXES) and not name.startswith((".", "~$"))


def _list_raw_folder(folder: Path) -> str:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("raw/**/*") if p.is_file())
    if not names:
        return "raw/ is empty"
    first_names = ", ".join(repr(n) for n in names[:5])
    return f"there are {len(names)} files under raw/: {first_names}{', …' if len(names) > 5 else ''}"


def benchmark_paths(task: Task) -> list[tuple[str, Path]]:
    """Return (name, path) of every file that the globs of ``data.benchmarks`` match, sorted by name. Raises FindingsError
    if a glob matches nothing, because a check against no benchmark would always pass."""
    folder = task.folder.resolve()
    paths: dict[str, Path] = {}
    problems: list[Finding] = []
    for glob in task.spec.data.benchmarks:
        inside = [p for p in folder.glob(glob) if p.is_file() and p.resolve().is_relative_to(folder)]
        paths |= {path.relative_to(folder).as_posix(): path for path in inside}
        if not inside:
            message = f"no file in the folder of task {task.name!r} matches {glob!r}"
            fix = "put it there, or correct the glob"
            problems.append(Finding("data.no_benchmark_files", "error", "task.yaml: data.benchmarks", message, fix))
    if problems:
        raise FindingsError(problems)
    return sorted(paths.items())


def raw_digest(task: Task, seen: SeenFiles | None = None, ability_benchmarks: NamedFiles = ()) -> str:
    """Return the hex SHA-256 over names and content of the raw files and the benchmark files.
    ability_benchmarks: the questions on general ability, which count as benchmarks."""
    digest = seen.digest if seen else digest_file
    benchmarks = [(f"{BENCHMARKS}/{name}", path) for name, path in [*benchmark_paths(task), *ability_benchmarks]]
    digests = [(name, digest(path)) for name, path in [*raw_paths(task), *benchmarks]]
    people = people_examples(task)
    return combine_digests(digests + ([(PEOPLE_FILE, digest_examples(people))] if people else []))


def collect_raw(
    task: Task,
    out: Path,
    production: Path | None = None,
    ability_benchmarks: NamedFiles = (),
    teacher: Path | None = None,
) -> RawFacts:
    """Copy every raw file to ``out/files/<name relative to the task folder>``, production rows to ``production.jsonl``, the
    teacher's to ``teacher.jsonl``, the rows that people answered to ``people.jsonl``, and the benchmark and ability files to
    ``out/benchmarks/<name>``. Each file is copied, digested and surveyed in one pass.

    If the digest of the facts is not :func:`raw_digest`, a file changed during the copy.
    """
    digests: list[tuple[str, str]] = []
    files: list[RawFile] = []
    people = people_examples(task)
    answered = out / PEOPLE_FILE if people else None
    if answered is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_examples(answered, people)
    sources = ((PRODUCTION_FILE, production), (PEOPLE_FILE, answered), (TEACHER_FILE, teacher))
    made = [(name, path) for name, path in sources if path]
    for name, path in [*raw_paths(task), *made]:
        copy = out / FILES / name
        with _Copying(path, copy) as source:
            surveyed = survey(path, name, task.spec, source)
        if name not in MADE_FILES:
            digests.append((name, source.digest))
        container, reason = container_of(copy, name, task.spec, surveyed)
        size = copy.stat().st_size
        files.append(
            RawFile(file=name, sha256=source.digest, bytes=size, container=container, reason=reason, survey=surveyed)
        )
    if answered is not None:
        answered.unlink()
    benchmarks = [*benchmark_paths(task), *ability_benchmarks]
    for name, path in benchmarks:
        with _Copying(path, out / BENCHMARKS / name) as source:
            pass
        digests.append((f"{BENCHMARKS}/{name}", source.digest))
    total, names = sum(file.bytes for file in files), [name for name, _ in benchmarks]
    if people:
        digests.append((PEOPLE_FILE, digest_examples(people)))  # last, as in raw_digest
    return RawFacts(files=files, bytes=total, benchmarks=names, digest=combine_digests(digests))


class _Copying(io.RawIOBase):
    """Reads a file, and copies and digests what it reads; when it is closed, also the rest. digest: hex SHA-256."""

    def __init__(self, path: Path, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        self._source, self._copy = path.open("rb", buffering=0), copy.open("wb")
        self._hash, self._at = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size: int = self._source.readinto(buffer) or 0
        self._copy.write(memoryview(buffer)[:size])
        self._hash.update(memoryview(buffer)[:size])
        self._at += size
        return size

    def close(self) -> None:
        if self.closed:
            return
        buffer = bytearray(1 << 20)
        with self._source, self._copy:
            while self.readinto(buffer):
                pass
        super().close()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def container_of(path: Path, file: str, spec: TaskSpec, surveyed: Survey | None = None) -> tuple[str, str]:
    """Return the type of a file (see :class:`~.containers.Container`) and the evidence for it."""
    container, surveyed = look_at(path, file, spec, surveyed)
    encoding = "" if is_utf8(surveyed.encoding) else f"; in {surveyed.encoding}"
    return container.kind, f"{'gzip; ' if surveyed.compressed else ''}{container.why}{encoding}"
