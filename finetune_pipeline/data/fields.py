"""Maps rows of any shape to a known format with the JMESPath expressions of ``data.fields``. Besides JMESPath, ``$file``
is the file's name, ``$key`` the key of the list that holds the row, ``='text'`` the text itself,
``split(tags, ';')`` a list of a text's parts, ``from_json(cell)`` the value of a text that holds JSON, ``to_boolean(cell)``
that of a text that says true or false, and ``null_if(cell, ['n/a'])`` null for these words and for an empty cell. A key is found
without regard to case where the row has one spelling of it."""

import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import jmespath
from jmespath.functions import Functions, signature
from jmespath.visitor import TreeInterpreter

from finetune_pipeline.data.formats import FORMATS
from finetune_pipeline.data.formats.base import OPTIONAL
from finetune_pipeline.data.formats.tool_calls import as_json_text, unpacked
from finetune_pipeline.data.names import key_path
from finetune_pipeline.data.quoting import key_name, keys_shown, quoted, row_finding
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import folded_label

CONTENT = ("messages", "text", "label", "prompt", "completion", "instruction", "input", "output")
"""The fields that locate a row's texts."""
ROW_KEYS = frozenset({*OPTIONAL, *(key for form in FORMATS.values() for key in form.row_keys)})
"""Keys of the known formats."""
_NUMBERS_AS_TEXT = ("id", "group", "generator")  # fields whose numbers are converted to text
_LITERAL = re.compile(r"=\s*(?:'([^']*)'|\"([^\"]*)\")\s*")
EXPRESSION_ERRORS = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, ArithmeticError)
"""The errors that a JMESPath function may raise on an unsuitable value; JMESPath's own errors are ValueErrors."""
_LATEST_SECOND = 32_503_680_000  # the year 3000; a larger number counts milliseconds, microseconds or nanoseconds
_SINCE_1970 = re.compile(r"\d{10}(\d{3}){0,3}(\.\d+)?")
_LEAP_SECOND = re.compile(r"(:\d\d):60")

Getter = Callable[[Any, str, str | None], Any]


@dataclass
class Mapped:
    """A row converted to a known format. ignored: keys of the raw row that no expression reads."""

    row: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    raw: Any = None


@dataclass(frozen=True)
class FieldMapping:
    """The compiled expressions of `data.fields`, by field. content: whether they locate all texts; if not, the row's format
    finds the others. names: keys of the row that they read; None for all."""

    getters: dict[str, Getter]
    expressions: dict[str, str]
    content: bool
    names: frozenset[str] | None

    def apply(self, row: Any, file: str, key: str | None, place: str) -> list[Mapped]:
        """Map a raw row to one row, or to one per element of the list in `data.fields.each`."""
        if "each" not in self.getters:
            return [self._apply_once(row, file, key, place)]
        try:
            elements = self.getters["each"](row, file, key)
        except EXPRESSION_ERRORS as error:
            return [Mapped({}, [self._failed("each", error, place)])]
        if not isinstance(elements, list) or not elements:
            result = "an empty list" if elements == [] else quoted(elements)
            return [Mapped({}, [self._no_value("each", row, place, f"{result}, not a list of examples")])]
        outer = row if isinstance(row, dict) else {}
        inner_rows = (element if isinstance(element, dict) else {"element": element} for element in elements)
        return [self._apply_once({**outer, **inner}, file, key, place) for inner in inner_rows]

    def _apply_once(self, row: Any, file: str, key: str | None, place: str) -> Mapped:
        row = self._with_spelling(row)
        mapped: dict[str, object] = {}
        findings: list[Finding] = []
        for name, getter in self.getters.items():
            if name == "each":
                continue
            try:
                value = getter(row, file, key)
            except EXPRESSION_ERRORS as error:
                findings.append(self._failed(name, error, place))
                continue
            if value is not None:
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                mapped[name] = str(value) if name in _NUMBERS_AS_TEXT and is_number else value
            elif name in CONTENT and name != "input":
                findings.append(self._no_value(name, row, place, "nothing"))
        if not isinstance(row, dict):
            return Mapped(mapped, findings, raw=row)
        unread = {k: v for k, v in row.items() if k not in (self.names or ())}
        if not self.content:  # the format finds the texts
            return Mapped({**unread, **mapped}, findings, raw=row)
        return Mapped(mapped, findings, [] if self.names is None else sorted(map(key_name, unread)), row)

    def _with_spelling(self, row: Any) -> Any:
        """Return a row whose keys are spelt like those in the expressions where only the case of letters differs. A key that row or
        expressions have in two spellings stays as it is."""
        if not isinstance(row, dict) or self.names is None or self.names <= row.keys():
            return row
        spelt, named = Counter(map(str.casefold, row)), Counter(map(str.casefold, self.names))
        names = {name.casefold(): name for name in self.names - row.keys()}
        missing = {folded: name for folded, name in names.items() if spelt[folded] == named[folded] == 1}
        return {missing.get(key.casefold(), key): value for key, value in row.items()} if missing else row

    def _failed(self, name: str, error: Exception, place: str) -> Finding:
        problem = f"{self.expressions[name]!r} cannot be evaluated here: {quoted(str(error), 160)}"
        fix = "correct the expression, or remove the row if a field is missing"
        return row_finding("field_expression", place, f"data.fields.{name}: {problem}", fix)

    def _no_value(self, name: str, row: Any, place: str, result: str) -> Finding:
        keys = f"keys here: {keys_shown(row)}" if isinstance(row, dict) else f"the row is {quoted(row)}"
        message = f"data.fields.{name}: {self.expressions[name]!r} gives {result} ({keys})"
        fix = "fill it in, remove the row, or correct the expression"
        read = (key for key in (row if isinstance(row, dict) else ()) if key in (self.names or ()))
        if packed := next((key for key in read if unpacked(row[key]) is not row[key]), None):
            fix += f"; {quoted(packed)} holds JSON as text: write from_json({key_path(packed)}) in its place"
        return row_finding("missing_field", place, message, fix)


def compile_expression(expression: str) -> tuple[Getter, frozenset[str] | None]:
    """Compile an expression. Returns (function of row, file and key; the keys it reads, or None for all). Raises ValueError
    for an invalid expression."""
    text = expression.strip()
    if text == "$file":
        return lambda row, file, key: file, frozenset()
    if text == "$key":
        return lambda row, file, key: key, frozenset()
    if text.startswith("="):
        literal = _LITERAL.fullmatch(text)
        if literal is None:
            raise ValueError("`=` must be followed by quoted text: ='text'")
        fixed = literal[1] if literal[1] is not None else literal[2]
        return lambda row, file, key: fixed, frozenset()
    if not text:
        raise ValueError("the expression is empty")
    parsed = jmespath.compile(text).parsed  # its ParseError is a ValueError
    keys = _keys_read(parsed)
    return lambda row, file, key: _INTERPRETER.visit(parsed, row), keys


class _OwnFunctions(Functions):  # type: ignore[misc]
    @signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_string(self, value: Any) -> str | None:
        # JMESPath's own writes é as \u00e9, which a model would learn, and a missing value as the label "null"
        return None if value is None else as_json_text(value)

    @signature({"types": ["string"]}, {"types": ["string"]})  # type: ignore[untyped-decorator]
    def _func_split(self, text: str, mark: str) -> list[str]:
        return [part.strip() for part in text.split(mark) if part.strip()]

    @signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_from_json(self, value: Any) -> Any:
        return unpacked(value)

    @signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_number(self, value: Any) -> Any:
        # JMESPath's own reads 007, 1_000 and nan too, which its specification and JSON exclude
        text = value.strip() if isinstance(value, str) else value
        number = None if isinstance(text, str) and not _JSON_NUMBER.fullmatch(text) else super()._func_to_number(text)
        return number if number is not None and math.isfinite(number) else None

    @signature({"types": []})  # type: ignore[untyped-decorator]
    def _func_to_boolean(self, value: Any) -> Any:
        text = value.strip() if isinstance(value, str) else value
        return BOOLEANS.get(text.casefold(), text or None) if isinstance(text, str) else text

    @signature({"types": []}, {"types": ["array-string"]})  # type: ignore[untyped-decorator]
    def _func_null_if(self, value: Any, words: list[str]) -> Any:
        return None if isinstance(value, str) and folded_label(value) in ("", *map(folded_label, words)) else value


_INTERPRETER = TreeInterpreter(jmespath.Options(custom_functions=_OwnFunctions()))
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
BOOLEANS = {"true": True, "false": False, "wahr": True, "falsch": False}
"""What programs and spreadsheets in English and German write for truth values, in lower case."""
_CHAIN = "subexpression index_expression projection value_projection filter_projection flatten pipe".split()
"""Nodes whose first child reads the row and whose other children read the first one's result."""


def _keys_read(node: dict[str, Any]) -> frozenset[str] | None:
    """Return the keys of the row that an expression reads, or None for the whole row. Raises ValueError for an unknown
    function, which JMESPath itself would report only at the first row."""
    kind = node.get("type")
    if kind == "function_expression" and node["value"] not in _OwnFunctions.FUNCTION_TABLE:
        raise ValueError(f"there is no function {node['value']!r}")
    keys = frozenset([node["value"]] if kind == "field" else ())
    reads_all = kind == "current"
    for position, child in enumerate(c for c in node.get("children", ()) if isinstance(c, dict)):
        child_keys = _keys_read(child)  # also where it does not count, to find unknown functions
        if kind != "expref" and (position == 0 or kind not in _CHAIN):
            reads_all = reads_all or child_keys is None
            keys |= child_keys or frozenset()
    return None if reads_all else keys


def plain_path(expression: str) -> list[str] | None:
    """Return the keys of a plain path ``a.b.c`` (or ``a.b.c[]``); None for any other expression."""
    keys: list[str] = []
    nodes = [jmespath.compile(expression.strip().removesuffix("[]")).parsed]
    while nodes:
        node = nodes.pop(0)
        if node["type"] == "subexpression":
            nodes = [*node["children"], *nodes]
        elif node["type"] == "field":
            keys.append(node["value"])
        else:
            return None
    return keys


@lru_cache(maxsize=32)
def _compile(values: tuple[tuple[str, str], ...]) -> FieldMapping:
    getters: dict[str, Getter] = {}
    keys: set[str] | None = set()
    for name, expression in values:
        getters[name], keys_of_field = compile_expression(expression)
        keys = None if keys is None or keys_of_field is None else keys | keys_of_field
    content = any(form.fields and getters.keys() >= set(form.fields) for form in FORMATS.values())
    return FieldMapping(getters, dict(values), content, None if keys is None else frozenset(keys))


def mapping_of(spec: TaskSpec) -> FieldMapping | None:
    """Return the compiled mapping of a spec, None if it declares none. Raises ValueError for an invalid expression."""
    values = _declared(spec)
    return _compile(tuple(values.items())) if values else None


def _declared(spec: TaskSpec) -> dict[str, str]:
    """Return the declared expressions that read a row, by field; not `rows`, which reads the document."""
    return spec.data.fields.model_dump(exclude={"rows"}, exclude_none=True)


def check_fields(spec: TaskSpec) -> list[Finding]:
    """Check how the spec declares raw rows: `data.format`, `data.fields` and `data.csv.encoding`."""
    findings = []
    data = spec.data

    def add(name: str, message: str, fix: str, rule: str = "fields") -> None:
        findings.append(Finding(f"spec.{rule}", "error", f"task.yaml: data.{name}", message, fix))

    for name, expression in data.fields.model_dump(exclude_none=True).items():
        try:
            compile_expression(expression)
        except EXPRESSION_ERRORS as error:
            message = f"{expression!r} is not a valid JMESPath expression: {' '.join(str(error).split())[:200]}"
            add(f"fields.{name}", message, "see jmespath.org; names with odd characters need double quotes")
    if data.csv.encoding is not None and not _is_text_encoding(data.csv.encoding):
        fix = "use a name Python knows, such as utf-8, cp1252 or latin-1"
        add("csv.encoding", f"{data.csv.encoding!r} is not a known text encoding", fix, "csv_encoding")
    if data.format not in ("auto", *FORMATS):
        near = get_close_matches(data.format, [*FORMATS], 1, 0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"use auto or one of {', '.join(FORMATS)}"
        add("format", f"{data.format!r} is not a known raw format", fix, "format")
    declared = _declared(spec).keys() & set(CONTENT)
    forms = [name for name, form in FORMATS.items() if declared & set(form.fields)]
    ways = "; or ".join(" and ".join(f"`{n}`" for n in form.fields) for form in FORMATS.values() if form.fields)
    if len(forms) > 1:
        listed = ", ".join(f"`{n}`" for n in CONTENT if n in declared)
        add("fields", f"the fields {listed} belong to several forms", f"keep those of one form: {ways}")
    elif forms and data.format not in ("auto", forms[0]):
        message = f"data.fields has the form `{forms[0]}`, but data.format is `{data.format}`"
        add("fields", message, "leave data.format out")
    return findings


def _is_text_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    with suppress(LookupError, ValueError):  # a UnicodeError is a ValueError
        return "".encode(name) is not None
    return False


def named_in_fields(spec: TaskSpec) -> frozenset[str]:
    """Return every key that the expressions in ``data.fields`` read. Invalid expressions are skipped."""
    keys: set[str] = set()
    for expression in _declared(spec).values():
        with suppress(*EXPRESSION_ERRORS):
            keys |= compile_expression(expression)[1] or set()
    return frozenset(keys)


def is_row_key(key: str, spec: TaskSpec) -> bool:
    """Whether a known format or ``data.fields`` reads this key, so that an object with it is a row."""
    return key in ROW_KEYS or key in named_in_fields(spec)


def parsed_time(value: Any) -> datetime:
    """Parse RFC 3339 text, a number since 1970 (seconds, or smaller units by its size), or a Python date. Raises
    ValueError."""
    try:
        if isinstance(value, str) and not _SINCE_1970.fullmatch(value.strip()):
            return datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", value.strip().upper()))
        if isinstance(value, date):
            return value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
        number = float(value) if not isinstance(value, bool) else math.nan
        for _ in range(3):  # from nanoseconds, microseconds or milliseconds
            if abs(number) > _LATEST_SECOND:
                number /= 1000
        return datetime.fromtimestamp(number, UTC)
    except (TypeError, OverflowError, OSError) as error:
        raise ValueError(str(error)) from error


def read_time(value: Any, place: str) -> tuple[str | None, list[Finding]]:
    """Read a time. Returns (RFC 3339 in UTC or None, findings). A time without a zone is read as UTC, with a warning."""
    if value is None or value == "":
        return None, []
    fix, findings = "write RFC 3339, such as 2026-05-01T12:00:00Z", []
    shown_value = quoted(str(value) if isinstance(value, date) else value)
    try:
        moment = parsed_time(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
            message = f"`time` is {shown_value}, without a time zone; it was read as UTC"
            zone_fix = "add Z, or the offset from UTC, such as +02:00"
            findings.append(row_finding("time_without_zone", place, message, zone_fix, "warning"))
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z"), findings
    except (ValueError, OverflowError):  # or an offset that leaves the years 1 to 9999
        return None, [row_finding("bad_time", place, f"`time` is {shown_value}, not a timestamp", fix)]
