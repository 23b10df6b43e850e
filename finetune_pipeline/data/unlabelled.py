"""Rows without an answer (`data.unlabelled`): read, scrubbed, without repeats, in an order that covers their variety first.

They are read like raw rows of any format, with an answer put in where the format needs one and taken away afterwards. So an answer
that such a file does hold is not read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example, example_id, hash_order
from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.formats import read_turns
from finetune_pipeline.data.formats.base import ANSWERS, CHATS
from finetune_pipeline.data.json_lines import combine_digests, decode_line
from finetune_pipeline.data.people import PEOPLE, read_people
from finetune_pipeline.data.quoting import RAW_SHOWN
from finetune_pipeline.data.raw_files import matching_files, raw_paths
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.scrub import finder_of, scrub_example, scrub_text
from finetune_pipeline.data.validate.validation import ValidatedRow, validate_record
from finetune_pipeline.engine.files import SeenFiles, digest_file, digest_json
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.outputs import TextOutput

_ANSWER = "answer"
"""Takes the place of the answer while a row is read."""


@dataclass
class Unlabelled:
    """The rows of `data.unlabelled`. Always rows_in == len(rows) + len(quarantine) + repeats.

    Attributes:
        rows: Examples that end with the user's turn: first one of each cluster of near-duplicates, then the second ones, and so on.
        quarantine: Lines about rows that cannot be read, with their findings.
        repeats: Rows whose text, but for case, blanks and punctuation, an earlier row has.
        clusters: Number of clusters.
    """

    rows: list[Example] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    rows_in: int = 0
    repeats: int = 0
    clusters: int = 0


def unlabelled_paths(task: Task) -> list[tuple[str, Path]]:
    """Return (name, path) of every file that ``data.unlabelled`` matches, sorted by name. Raises FindingsError if a glob matches
    nothing, and for files that are raw files, too."""
    folder, globs = task.folder.resolve(), task.spec.data.unlabelled
    if not globs:
        return []
    paths, problems = matching_files(folder, globs)
    place = "task.yaml: data.unlabelled"
    for glob in globs:
        if not matching_files(folder, [glob])[0]:
            fix = "put the files there, or correct the glob"
            problems.append(Finding("data.no_unlabelled_files", "error", place, f"no file matches {glob!r}", fix))
    for name in sorted(paths.keys() & dict(raw_paths(task)).keys()):
        message, fix = f"data.raw matches this file, too: {name}", "move it, for example to unlabelled/"
        problems.append(Finding("data.unlabelled_and_raw", "error", place, message, fix))
    if problems:
        raise FindingsError(problems)
    return sorted(paths.items())


def unlabelled_digest(task: Task, seen: SeenFiles | None = None) -> str:
    """Return the hex SHA-256 over names and content of the unlabelled files, and over the rows of them that people have answered;
    empty if none are declared."""
    digest = seen.digest if seen else digest_file
    paths = unlabelled_paths(task)
    digests = [(name, digest(path)) for name, path in paths]
    if answered := answered_by_people(task):
        digests.append((PEOPLE, digest_json(sorted(answered))))
    return combine_digests(digests) if paths else ""


def answered_by_people(task: Task) -> set[str]:
    """Return the ids of the rows that people have answered with one accord. The teacher is not asked about them."""
    return {answer.id for answer in read_people(task.folder, task.spec).settled(task.spec)}


def read_unlabelled(task: Task) -> Unlabelled:
    """Read the files of ``data.unlabelled``. Personal data and secrets are replaced as `data.scrub` says: the rows leave this
    machine. With ``data.scrub: drop``, rows that hold some go to quarantine."""
    result, spec = Unlabelled(), task.spec
    asked, find = _without_answers(spec), finder_of(spec.data)
    distinct: dict[str, Example] = {}
    for name, path in unlabelled_paths(task):
        for record in read_records(path, name, asked):
            if record.about == "file":
                result.quarantine.append({"file": name, "findings": [f.to_dict() for f in record.findings]})
                result.rows_in += 1
                continue
            for row in _read(record, name, asked):
                result.rows_in += 1
                example, findings = row.example, row.findings
                counts: dict[str, int] = {}
                if example is not None and spec.data.scrub != "warn":
                    example, counts, _ = scrub_example(_question(example), find=find)
                    if counts and spec.data.scrub == "drop":
                        kinds = ", ".join(counts)
                        message, fix = f"personal data or secrets: {kinds}", "set data.scrub: replace"
                        findings = [Finding("data.personal_data", "error", example.place, message, fix)]
                        example = None
                elif example is not None:
                    example = _question(example)
                if example is None:
                    raw = scrub_text(record.raw[: 4 * RAW_SHOWN].decode("utf-8", "replace"), find)[:RAW_SHOWN]
                    line = {"file": name, "line": record.line, "raw": raw}
                    result.quarantine.append({**line, "findings": [f.to_dict() for f in errors(findings)]})
                    continue
                key = loose_form("\n".join(m["content"] for m in example.messages if m["role"] != "system"))
                result.repeats += key in distinct
                distinct.setdefault(key, example)
    rows = list(distinct.values())
    clusters = near_duplicate_clusters([e.user_text for e in rows], spec.data.near_duplicate_threshold).tolist()
    result.rows, result.clusters = spread(rows, clusters), len(set(clusters))
    return result


def spread(rows: Sequence[Example], clusters: Sequence[int]) -> list[Example]:
    """Order rows so that any number of the first ones covers as many clusters as possible. Within a cluster, and between clusters,
    the hash of the id decides."""
    seen: Counter[int] = Counter()
    keyed = []
    pairs = zip(rows, clusters, strict=True)
    for place, (row, cluster) in enumerate(sorted(pairs, key=lambda p: (hash_order(p[0].id, "teacher"), p[0].id))):
        keyed.append((seen[cluster], place, row))
        seen[cluster] += 1
    return [row for *_, row in sorted(keyed, key=lambda k: k[:2])]


def _question(example: Example) -> Example:
    """Return the example without its last turn, the answer."""
    messages = example.prompt_messages
    row_id = example_id(messages, example.tools)
    return msgspec.structs.replace(example, id=row_id, messages=messages, label=None, origin="human", generator=None)


def _without_answers(spec: TaskSpec) -> TaskSpec:
    """Return the spec under which any answer is valid; expressions that locate it give :data:`_ANSWER`."""
    fields = spec.data.fields
    located = {name: f"='{_ANSWER}'" for name in ("label", "completion", "output") if getattr(fields, name) is not None}
    data = spec.data.model_copy(update={"fields": fields.model_copy(update=located)})
    return spec.model_copy(update={"output": TextOutput(), "data": data})


def _read(record: Record, file: str, spec: TaskSpec) -> Iterator[ValidatedRow]:
    """Read the rows of a record, each with an answer."""
    mapping = mapping_of(spec)
    if record.encoded:
        value, findings, readable = decode_line(record.raw, f"{file}:{record.line}", record.at)
        if not readable or not isinstance(value, dict):
            yield from validate_record(record, file, spec, mapping)
            return
        record = msgspec.structs.replace(record, value=value, encoded=False, findings=(*record.findings, *findings))
    if isinstance(record.value, dict) and not (mapping and mapping.content):
        record = msgspec.structs.replace(record, value=_answered(record.value, spec))
    yield from validate_record(record, file, spec, mapping)


def _answered(row: Mapping[str, object], spec: TaskSpec) -> dict[str, object]:
    """Return a row with an answer where its format looks for one; unchanged if it has one, or cannot be read anyway."""
    for key in CHATS:
        turns = row.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            roles = (
                {"from": "gpt", "value": _ANSWER} if "from" in turns[-1] else {"role": "assistant", "content": _ANSWER}
            )
            kept = turns[:-1] if _answers(row, spec) else turns
            return {**row, key: [*kept, roles], "label": None}
    for key in ("label", *ANSWERS):
        trial = {**row, key: _ANSWER}
        if _answers(trial, spec):
            others = {"label", *ANSWERS} - {key}
            return {name: value for name, value in trial.items() if name not in others}
    return dict(row)


def _answers(row: Mapping[str, object], spec: TaskSpec) -> bool:
    """Whether the last turn that a row is read as is an answer."""
    turns = read_turns(dict(row), spec, "")
    return bool(turns.messages) and turns.messages[-1]["role"] == "assistant" and turns.whole
