"""Reads and checks task files of lm-evaluation-harness before anything runs. Imports neither torch nor lm_eval.

A task is accepted only if it can run offline: its rows are in files of the task folder, it holds no code, and its metric tells
of every row whether it is right, or how likely its text is.
"""

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.engine.files import digest_file, digest_json
from finetune_pipeline.evaluation.ability.items import Item
from finetune_pipeline.findings import Finding, FindingsError

PACKAGE = "lm_eval"
SOURCE = "lm-evaluation-harness"
CATEGORY = "harness: "
"""Prefix of a task's name in the column `category`."""
INSTALL = "pip install 'finetune-pipeline[harness]'"
FORMATS = ("json", "csv", "parquet", "text")
"""Builders of `datasets` that read local files."""
RIGHT = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"),
    "loglikelihood": ("acc",),
    "loglikelihood_rolling": (),
    "generate_until": ("exact_match",),
}
"""Metrics that are 0 or 1 per row, by output_type."""
LIKELIHOOD = {
    "loglikelihood": ("perplexity",),
    "loglikelihood_rolling": ("bits_per_byte", "byte_perplexity", "word_perplexity"),
}
"""Metrics of the likelihood of every row's text, by output_type."""
_KEYS = frozenset(
    "task task_alias tag dataset_path dataset_name dataset_kwargs training_split validation_split test_split fewshot_split "
    "doc_to_text doc_to_target doc_to_choice description target_delimiter fewshot_delimiter fewshot_config num_fewshot "
    "metric_list output_type generation_kwargs filter_list gen_prefix metadata should_decontaminate "
    "doc_to_decontamination_query".split()
)
_LOADING = ("data_files", "field", "sep", "delimiter", "column_names")
_WRITING = ("until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature")


Problems = Iterator[tuple[str, str]]
"""(message, fix) of each."""


@dataclass(frozen=True)
class HarnessTask:
    """config: for lm_eval's ConfigurableTask, with absolute data files. metric: compared row by row. text: whether the metric is
    the likelihood of a text. files: the data files."""

    name: str
    config: Mapping[str, Any]
    metric: str
    text: bool
    files: tuple[Path, ...]


class _Code(str):
    """A reference made by `!function`."""


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: _Code(loader.construct_scalar(node)))  # type: ignore[arg-type]


def harness_version() -> str | None:
    """Version of the installed lm_eval; None if not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return None
    return importlib.metadata.version(PACKAGE)


def read_tasks(folder: Path, patterns: Sequence[str]) -> list[HarnessTask]:
    """The tasks that `patterns` (globs of files or folders below `folder`) match, sorted by name.

    Raises FindingsError with every problem of every file, and if lm_eval is not installed.
    """
    if not patterns:
        return []
    findings: list[Finding] = []
    if harness_version() is None:
        findings.append(_fault("task.yaml: ability.harness", f"{PACKAGE} is not installed", f"run {INSTALL}"))
    root, tasks = folder.resolve(), {}
    for path in _files(root, patterns, findings):
        try:
            task = _read(path, root)
        except FindingsError as error:
            findings += error.findings
            continue
        if task.name in tasks:
            findings.append(_fault(_place(path, root), f"task {task.name!r} is there twice", "rename one of the two"))
        tasks[task.name] = task
    if findings:
        raise FindingsError(findings)
    return [tasks[name] for name in sorted(tasks)]


def asked_digest(items: Sequence[Item], tasks: Sequence[HarnessTask], limit: int, chat: bool) -> str:
    """16 hex digits of everything that models are asked: items, and any tasks of lm-evaluation-harness, with the content of their
    files, the settings and lm_eval's version."""
    named = [[t.name, t.metric, _with_content(t.config)] for t in tasks]
    harness = [harness_version(), limit, chat, named] if tasks else None
    return digest_json([[asdict(item) for item in items], harness])[:16]


def _with_content(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with digests of its files instead of their paths."""
    files = config["dataset_kwargs"]["data_files"].items()
    digests = {split: [digest_file(Path(path)) for path in paths] for split, paths in files}
    return {**config, "dataset_kwargs": {**config["dataset_kwargs"], "data_files": digests}}


def _files(root: Path, patterns: Sequence[str], findings: list[Finding]) -> list[Path]:
    files: set[Path] = set()
    for pattern in patterns:
        named = [file for path in root.glob(pattern) for file in (path.glob("*.yaml") if path.is_dir() else [path])]
        # files with a leading _ are only for inclusion, as in lm_eval's own folders
        tasks = {path for path in named if path.is_file() and not path.name.startswith("_")}
        files |= tasks
        if not tasks:
            fix = (
                "name a .yaml file or a folder of them. Tasks that lm_eval ships cannot be named: their rows would be "
                "fetched. Write a task file with dataset_path: json and data_files"
            )
            findings.append(_fault("task.yaml: ability.harness.tasks", f"{pattern!r} matches no task file", fix))
    return sorted(files)


def _read(path: Path, root: Path) -> HarnessTask:
    place = _place(path, root)
    config = _merged(path, root, ())
    findings = [_fault(place, message, fix) for message, fix in (*_setting_problems(config), *_metric_problems(config))]
    kwargs: Any = config.get("dataset_kwargs")
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    data, files = _data(kwargs.get("data_files"), path.parent, root, place, findings)
    findings += [_fault(place, message, fix) for message, fix in _split_problems(config, data)]
    if findings:
        raise FindingsError(findings)
    output_type = config["output_type"]
    default = [*RIGHT[output_type][:1], *LIKELIHOOD.get(output_type, ())]
    named = [m["metric"] for m in config.get("metric_list") or ()] or default
    row_metrics = [m for m in named if m in RIGHT[output_type]]
    config["dataset_kwargs"] = {**kwargs, "data_files": data}
    return HarnessTask(config["task"], config, (row_metrics or named)[0], not row_metrics, tuple(files))


def _merged(path: Path, root: Path, including_paths: tuple[Path, ...]) -> dict[str, Any]:
    """The file merged over those it includes. Raises FindingsError for unreadable files."""
    place = _place(path, root)
    try:
        config = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 - a SafeLoader with one more tag
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"cannot be read: {' '.join(str(error).split())}"
        raise FindingsError([_fault(place, message, "correct the file")]) from error
    if not isinstance(config, dict) or isinstance(config.get("task"), list) or "group" in config:
        problem = "it is a group of tasks" if isinstance(config, dict) else "it is no mapping"
        raise FindingsError([_fault(place, problem, "name the task files one by one, or their folder")])
    base: dict[str, Any] = {}
    includes = config.pop("include", [])
    for name in [includes] if isinstance(includes, str) else includes:
        included = (path.parent / str(name)).resolve()
        if not included.is_relative_to(root) or not included.is_file() or included in (*including_paths, path):
            message = f"include: {name!r} is no other file in the task folder"
            raise FindingsError([_fault(place, message, "copy the file into the task folder, or take it out")])
        base |= _merged(included, root, (*including_paths, path))
    return base | config


def _setting_problems(config: Mapping[str, Any]) -> Problems:
    for key, value in config.items():
        if value is not None and (code := _code(value)):
            fix = "write it as a Jinja template, or prepare the rows of the file"
            yield f"{key}: !function {code}: code of task files is not run", fix
        elif key not in _KEYS and value is not None and not (key == "repeats" and value == 1):
            matches = difflib.get_close_matches(key, _KEYS, 1)
            yield f"{key} cannot be used here", f"did you mean {matches[0]}?" if matches else "take it out"
    if not isinstance(config.get("task"), str) or not config["task"]:
        yield "task is missing", "give the task a name"
    if (path := config.get("dataset_path")) not in FORMATS:
        fix = f"save the rows in the task folder; write dataset_path: {FORMATS[0]} (or {', '.join(FORMATS[1:])}) and "
        fix += "dataset_kwargs: {data_files: {test: FILE}}"
        yield f"dataset_path is {path!r}: its rows would be fetched, and nothing is fetched here", fix
    for section, usable in (("dataset_kwargs", _LOADING), ("generation_kwargs", _WRITING)):
        options = config.get(section) or {}
        for key in sorted(set(options) - set(usable)) if isinstance(options, Mapping) else ():
            yield f"{section}.{key} cannot be used here", f"use no others than {', '.join(usable)}"
    writing = config.get("generation_kwargs") or {}
    if isinstance(writing, Mapping) and (writing.get("do_sample") or writing.get("temperature") not in (None, 0)):
        yield "its answers are drawn at random", "write do_sample: false; two models are compared row by row"


def _code(value: Any) -> str:
    """The first code reference anywhere in a value, or ""."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return next((code for element in value if (code := _code(element))), "")
    return str(value) if isinstance(value, _Code) else ""


def _metric_problems(config: Mapping[str, Any]) -> Problems:
    output_type = config.get("output_type")
    if output_type not in RIGHT:
        yield f"output_type is {output_type!r}", f"write one of {', '.join(RIGHT)}"
        return
    listed, usable = config.get("metric_list"), (*RIGHT[output_type], *LIKELIHOOD.get(output_type, ()))
    if listed is not None and (not isinstance(listed, list) or not all(isinstance(m, Mapping) for m in listed)):
        yield "metric_list is no list of {metric: …}", f"name one of {', '.join(usable)}"
        return
    for metric in listed or []:
        if metric.get("metric") not in usable or metric.get("hf_evaluate"):
            message = f"metric {metric.get('metric')} of {output_type} does not say of each row whether it is right"
            yield message, f"take it out, and use {' or '.join(usable)}"


def _data(
    named_files: Any, beside: Path, root: Path, place: str, findings: list[Finding]
) -> tuple[dict[str, list[str]], list[Path]]:
    """({split: absolute paths}, all paths), relative ones read from the task file's folder."""
    named = named_files if isinstance(named_files, Mapping) else {"train": named_files} if named_files else {}
    data: dict[str, list[str]] = {}
    for split, value in named.items():
        data[str(split)] = []
        for name in value if isinstance(value, list) else [value]:
            path = (beside / str(name)).resolve()
            if not path.is_file() or not path.is_relative_to(root):
                fix = "write a path of a file in the task folder, relative to the task file; nothing is fetched"
                findings.append(_fault(place, f"data_files: {name!r} is no file in the task folder", fix))
            data[str(split)].append(str(path))
    if not data:
        findings.append(_fault(place, "dataset_kwargs.data_files is missing", "write data_files: {test: FILE}"))
    return data, sorted({Path(p) for paths in data.values() for p in paths})


def _split_problems(config: Mapping[str, Any], data: Mapping[str, Any]) -> Problems:
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if data and config.get(key) and config[key] not in data:
            yield f"{key} is {config[key]!r}, and data_files has {', '.join(data)}", "name one of data_files"
    if not (config.get("test_split") or config.get("validation_split")):
        yield "neither test_split nor validation_split is named", "write test_split: test"


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _fault(place: str, message: str, fix: str) -> Finding:
    return Finding("ability.harness", "error", place, message, fix)
