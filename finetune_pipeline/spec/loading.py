"""Reads ``task.yaml`` strictly and reports every problem at once, each with its key and the nearest valid key."""

import difflib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.spec import evaluation_rules, rules, teacher_rules  # noqa: F401 - registers their rules
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput, is_outside

_MOST_BYTES = 256 << 10
_DEEPEST = 50
_MOST_EXPLAINED = 20
"""Problems of one kind in one section that are explained one by one."""


class _Loader(yaml.SafeLoader):
    """Loads a subset of YAML: no aliases, whose copies could fill memory, no duplicate keys, no deep nesting, and no numbers or
    texts that later steps cannot store."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _yaml_error(f"aliases (*{event.anchor}) are not supported; write out the value", event)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _yaml_error(f"nested more than {_DEEPEST} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # an impossible date, too many digits
            raise _yaml_error(f"{node.value!r:.40} cannot be read: {error}", node) from error
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise _yaml_error("a number of more than 18 digits", node)
        if isinstance(value, float) and not math.isfinite(value):
            raise _yaml_error(f"{value} is not a finite number", node)
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise _yaml_error("a NUL character or an unpaired surrogate is not text", node)
        return value


def _yaml_error(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """Return an error at the place of a node or event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """Build a mapping; refuse duplicate keys and keys that are not text."""
    values: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _yaml_error(f"key {key!r:.40} is not text", key_node)
        if key in values:
            raise _yaml_error(f"key {key!r:.40} appears twice", key_node)
        values[key] = loader.construct_object(value_node, deep=True)
    return values


_VALUE_TYPE = re.compile(r"str|bool|(list|dict|literal)\[.*\]")
_GONE = {
    "ability.harness": "run `lm_eval` on the folder that `finetune export` writes, or put questions into ability.files",
    "data.consistency": "the data_quality report always shows the style of the answers",
    "data.many_examples": "`finetune plan` says what training on all rows takes",
    "data.semantic": "data.near_duplicate_threshold decides which prompts are repeats",
    "data.synthetic.acceptable_rejected": "data.synthetic.intolerable_rejected and data.synthetic.risk decide how many "
    "rejected rows are accepted",
    "ladder.calls": "put prompts to compare into baseline.prompts: the baseline asks each with every number of shots",
    "ladder.minutes": "put prompts to compare into baseline.prompts; baseline.rows limits their time",
    "retraining.hours_a_point": "the decision waits below a gain of retraining.min_gain, whatever the hours",
    "training.lora.init": "adapters begin as PEFT begins them by default",
}
"""Keys of earlier versions, and what to use instead."""
_OUTPUTS: dict[Any, type[BaseModel]] = {"labels": LabelsOutput, "text": TextOutput, "json": JsonOutput}
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
for _tag in ("value", "merge"):  # `=` and `<<` may be labels
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", lambda _, node: node.value)


def _section_at(path: tuple[Any, ...]) -> type[BaseModel] | None:
    """Return the class of the section at a path of keys (from a validation error); None if there is none."""
    section: type[BaseModel] | None = TaskSpec
    if path[:1] == ("output",):  # followed by its kind
        section, path = _OUTPUTS.get(path[1] if len(path) > 1 else None), path[2:]
    for part in path:
        field = section.model_fields.get(str(part)) if section else None
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        section = next((type_ for type_ in types if isinstance(type_, type) and issubclass(type_, BaseModel)), None)
    return section


def _unknown_key(path: tuple[Any, ...], place: str) -> Finding:
    """Explain an unknown key: name what replaced it, a similar one, or the section it belongs to."""
    if instead := _GONE.get(place):
        return rules.problem("gone_key", place, "this key is gone", f"remove it; {instead}")
    key, section = str(path[-1]), _section_at(path[:-1])
    valid = list(section.model_fields) if section else []
    sections = {("output", kind): output for kind, output in _OUTPUTS.items()} | {
        (name,): _section_at((name,)) for name in valid
    }
    homes = {name for (name, *_), inner in sections.items() if len(path) == 1 and inner and key in inner.model_fields}
    suggestions = difflib.get_close_matches(key, valid, 1, 0.8 if len(homes) == 1 else 0.5)
    fix = f"did you mean {suggestions[0]!r}?" if suggestions else f"valid keys: {', '.join(valid)}"
    if len(homes) == 1 and not suggestions:
        fix = f"indent it below `{homes.pop()}:`"
    return rules.problem("unknown_key", place, f"unknown key {key!r}", fix)


def _finding_of(problem: Any) -> Finding:
    """Explain an error of pydantic (an item of ``ValidationError.errors()``) in terms of task.yaml."""
    path, kind, value = tuple(problem["loc"]), problem["type"], problem["input"]
    # pydantic adds the kind of output, and the types of a value with several types: users wrote neither
    keys = [str(p) for i, p in enumerate(path) if not (i == 1 and path[0] == "output" and len(path) > 2)]
    place = ".".join(key for key in keys if not _VALUE_TYPE.fullmatch(key))
    if kind == "extra_forbidden":
        return _unknown_key(path, place)
    if kind == "missing":
        return rules.problem("missing_key", place, "this key is required", f"add `{path[-1]}:`")
    if kind.startswith("union_tag"):  # the kind of output
        place, value = f"{place}.kind", value.get("kind") if isinstance(value, dict) else value
    message, fix = f"{problem['msg']} (found {value!r:.80})", "see `finetune show --schema task.yaml`"
    context = problem.get("ctx", {})
    allowed = re.findall(r"'([^']*)'", str(context.get("expected") or context.get("expected_tags") or ""))
    suggestions = difflib.get_close_matches(value, allowed, 1, 0.5) if isinstance(value, str) else []
    if suggestions:
        fix = f"did you mean {suggestions[0]!r}?"
        if suggestions == [value]:  # '\t' is not a tab
            fix = f'write "{value}", in double quotes'
    elif kind.startswith("union_tag"):
        fix = f"add `kind:` with one of {', '.join(_OUTPUTS)}"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        message = f"a section of keys must follow (found {value!r:.80})"
        fix = "write its keys on the lines below it, indented, or remove it"
    elif kind == "list_type":
        fix = f"write a list: [{value if type(value) in (str, int, float) else 'a, b'}]"
    elif kind == "string_type":  # the value may differ from what is written: YAML reads 010 as 8
        fix = "put it in double quotes as it is written, so that YAML reads it as text"
        if value is None:
            message, fix = "a text must follow", 'write it; if null or ~ is the text, put it in double quotes: "null"'
    return rules.problem("bad_value", place, message, fix)


def load_yaml(text: str, file: str, rule: str) -> Any:
    """Parse YAML. Raises FindingsError (with this rule) with the first error of syntax and its place in the file."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reasons = [getattr(error, name, None) for name in ("context", "problem")]
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        reason = ", ".join(filter(None, reasons)) or str(error)
        raise FindingsError([Finding(rule, "error", place, reason, "correct the YAML")]) from error


def parse_spec(text: str) -> TaskSpec:
    """Parse a spec from YAML text. Raises FindingsError with the first error of syntax, or with all problems of keys and values;
    cross-field rules are not checked."""
    loaded = load_yaml(text, "task.yaml", "spec.yaml")
    if not isinstance(loaded, dict):
        finding = Finding("spec.yaml", "error", "task.yaml", "the file is not a mapping", "start with `name:`")
        raise FindingsError([finding])
    return validated_spec(loaded)


def validated_spec(values: dict[str, object]) -> TaskSpec:
    """Build a spec from the values of its keys. Raises FindingsError with every problem of a key or value."""
    try:
        return TaskSpec.model_validate(values, strict=False)
    except ValidationError as error:
        findings = list(_findings_of(error))
        # a value with several types has a problem for each of them: the most precise one tells most
        by_place = {finding.place: finding for finding in reversed(findings)}
        above = {place[:i] for place in by_place for i, character in enumerate(place) if character == "."}
        precise = [f for f in findings if by_place[f.place] is f and f.place not in above]
        raise FindingsError(precise) from error


def _findings_of(error: ValidationError) -> Iterator[Finding]:
    """Explain every problem; of many of one kind in one section the first ones, and the others by their number."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for problem in error.errors(include_url=False):
        # with a wrong method, defaults that depend on it fail too: these are not separate problems
        if problem["type"] != "default_factory_not_called":
            groups.setdefault((problem["type"], *problem["loc"][:-1]), []).append(problem)
    for group in groups.values():
        yield from map(_finding_of, group[:_MOST_EXPLAINED])
        if rest := group[_MOST_EXPLAINED:]:
            last = _finding_of(rest[-1])
            message = f"{len(rest)} more problems of this kind, the last one at {last.place}: {last.message}"
            yield Finding(last.rule, "error", f"{last.place} and {len(rest) - 1} above", message, last.fix)


def check_task(folder: Path) -> tuple[Task | None, list[Finding]]:
    """Load the task in `folder` and run every rule. Returns (task or None if it cannot be built, all findings)."""
    spec, findings = read_spec(folder)
    return (None if spec is None or errors(findings) else Task(spec=spec, folder=folder.resolve())), findings


def read_spec(folder: Path) -> tuple[TaskSpec | None, list[Finding]]:
    """Read the spec in `folder`. Returns (the spec, even if it breaks rules; None if it cannot be read, all findings)."""
    path = folder / "task.yaml"
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise OSError(f"not a file of at most {_MOST_BYTES >> 10} KiB")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "put a task.yaml into this folder, in UTF-8, that this user may read"
        return None, [Finding("spec.unreadable", "error", str(path), str(error), fix)]
    try:
        spec = parse_spec(text)
    except FindingsError as error:
        return None, error.findings
    spec, findings = with_schema(spec, folder)
    return spec, findings + rules.check_all(spec, folder)


def load_task(folder: Path) -> Task:
    """Load the task in `folder`. Raises FindingsError with every error in it."""
    task, findings = check_task(folder)
    if task is None:
        raise FindingsError(errors(findings))
    return task


def find_tasks(data_root: Path) -> dict[str, Path]:
    """Return the folders below `data_root` with a task.yaml, by name, sorted. A folder that this user may not look into is one of
    them, so that its task is shown as broken. Raises PermissionError if `data_root` cannot be read."""
    folders = sorted(data_root.iterdir()) if data_root.is_dir() else []
    closed = {f for f in folders if f.is_dir() and not os.access(f, os.X_OK) and f.name.isidentifier()}  # no lost+found
    return {f.name: f for f in folders if f in closed or os.path.lexists(f / "task.yaml")}


def with_schema(spec: TaskSpec, folder: Path) -> tuple[TaskSpec, list[Finding]]:
    """Replace a schema file's name in the spec by its content, so that the content decides, not the name."""
    output = spec.output
    if not isinstance(output, JsonOutput) or not isinstance(output.json_schema, str):
        return spec, []
    file_name = output.json_schema

    def refused(message: str, fix: str) -> tuple[TaskSpec, list[Finding]]:
        return spec, [rules.problem("json_schema", "output.json_schema", f"{file_name!r} {message}", fix)]

    if is_outside(file_name, folder):
        return refused("points outside the task folder", "copy the file into the task folder")
    try:
        schema = msgspec.json.decode((folder / file_name).read_bytes())
    except OSError as error:
        return refused(f"cannot be read: {error.strerror}", "put the file into the task folder")
    except (ValueError, RecursionError) as error:
        return refused(f"is not JSON: {error}", "correct the file")
    if not isinstance(schema, dict):
        return refused("is not a JSON object", 'write a schema such as {"type": "object", …}')
    return spec.model_copy(update={"output": output.model_copy(update={"json_schema": schema})}), []


def json_schema() -> dict[str, object]:
    """Return the JSON Schema (draft 2020-12) of a task spec."""
    schema = TaskSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "finetune_pipeline task", **schema}
