"""Texts on which a regular expression may take more than linear time, derived from the expression, and the measure of its time.

An expression is slow where a repeat is tried from many places of a text, or in many ways from one. So every repeat of an
expression gives texts of what it repeats, with what stands before it and with separators, which end in a character that
lets the match fail.
"""

import ast
import importlib
import itertools
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser
from typing import Any

import finetune_pipeline

ROOT = Path(finetune_pipeline.__file__).parent
_SEARCHES = {"search", "sub", "subn", "findall", "finditer", "split"}
_ANCHORED = {"match", "fullmatch"}
_CHARACTERS = " -._:/,0a\\\"'\n\t1Z[({<#*=@+%|é"
_SEPARATORS = ' -.,:\n"\\0a_'
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)
_LONG = 20
"""Repeats up to this number cost a constant factor."""


@dataclass(frozen=True)
class Expression:
    """An expression of the package. name: module and variable, or module and line; uses: methods it is called with."""

    name: str
    pattern: re.Pattern[Any]
    uses: frozenset[str]


def expressions() -> list[Expression]:
    """Return every regular expression of the package: those that its modules hold, and literals within functions."""
    paths = [path for path in sorted(ROOT.rglob("*.py")) if re.search(r"\bre\.", path.read_text())]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    methods: dict[str, set[str]] = {}
    for path, tree in trees.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                owner = call.func.value
                name = (
                    owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
                )
                if call.func.attr in _SEARCHES | _ANCHORED:
                    methods.setdefault(_place(path, name), set()).add(call.func.attr)
    by_pattern: dict[tuple[Any, int], Expression] = {}
    for path, tree in trees.items():
        module_name = ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts))
        module = importlib.import_module(module_name.removesuffix(".__init__"))
        for variable, value in list(vars(module).items()):
            for name, pattern in _patterns_in(value, variable):
                uses = frozenset(methods.get(_place(path, name), ())) or frozenset(("search", "fullmatch"))
                by_pattern.setdefault(
                    (pattern.pattern, pattern.flags), Expression(f"{module_name}.{name}", pattern, uses)
                )
        for node in ast.walk(tree):
            if (literal := _inline(node)) is not None:
                pattern, method, line = literal
                key = (pattern.pattern, pattern.flags)
                by_pattern.setdefault(
                    key, Expression(f"{module_name}:{method}({pattern.pattern!r})"[:160], pattern, frozenset((method,)))
                )
    return sorted(by_pattern.values(), key=lambda expression: expression.name)


def _place(path: Path, name: str) -> str:
    """Return a variable's name, with its module if no other module uses it."""
    return f"{path}:{name}" if name.startswith("_") else name


def _patterns_in(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, re.Pattern[Any]]]:
    if isinstance(value, re.Pattern):
        yield name, value
    elif isinstance(value, list | tuple | set | frozenset) and depth < 3:
        for number, item in enumerate(value):
            yield from _patterns_in(item, f"{name}[{number}]", depth + 1)
    elif isinstance(value, dict) and depth < 3 and not name.startswith("__"):
        for key, item in value.items():
            yield from _patterns_in(item, f"{name}[{key!r:.40}]", depth + 1)


def _inline(node: ast.AST) -> tuple[re.Pattern[Any], str, int] | None:
    """Return the pattern, the method and the line of a call such as ``re.sub("…", …)`` with a literal."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
        return None
    if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
        return None
    if node.func.attr not in _SEARCHES | _ANCHORED or not isinstance(node.args[0], ast.Constant):
        return None
    flags = re.NOFLAG
    for part in itertools.chain(*map(ast.walk, [*node.args[1:], *(keyword.value for keyword in node.keywords)])):
        if isinstance(part, ast.Attribute) and isinstance(flag := getattr(re, part.attr, None), re.RegexFlag):
            flags |= flag
    return re.compile(node.args[0].value, flags), node.func.attr, node.lineno


def _has_long_repeat(sequence: Any) -> bool:
    """Whether a parsed expression repeats something more than _LONG times."""
    if isinstance(sequence, tuple) and any(sequence[:1] and sequence[0] is code for code in _REPEATS):
        return bool(sequence[1][1] > _LONG) or _has_long_repeat(sequence[1][2])
    return isinstance(sequence, tuple | list | parser.SubPattern) and any(map(_has_long_repeat, sequence))


def attacks(pattern: re.Pattern[Any]) -> list[tuple[str, str]]:
    """Return pairs of a text's beginning and the part to repeat."""
    tree = parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    parts: dict[tuple[str, str], None] = {}

    def visit(sequence: Any, before: str) -> None:
        for code, value in sequence:
            if code in _REPEATS:
                _, most, body = value
                if most > _LONG:
                    parts.update(((before, sample), None) for sample in _samples(body, 6) if sample)
                visit(body, before)
            elif code is codes.SUBPATTERN:
                visit(value[-1], before)
            elif code is codes.ATOMIC_GROUP:
                visit(value, before)
            elif code is codes.BRANCH:
                for branch in value[1]:
                    visit(branch, before)
            elif code in (codes.ASSERT, codes.ASSERT_NOT):
                visit(value[1], before)
            before = (before + _matches(code, value, 1)[0])[-60:]

    visit(tree, "")
    texts: list[tuple[str, str]] = []
    for before, part in list(parts)[:40]:
        texts += [("", part), (before, part), ("", before + part), ("", before + part * 5)]
        texts += [("", part + separator) for separator in _SEPARATORS]
        texts += [("", before + part * 3 + separator) for separator in " -\n"]
    for whole in filter(None, _samples(tree, 8)):
        texts += [("", whole), ("", whole[:-1] or whole), (whole[:-1], whole[-2:])]
    texts += [("", part) for part in (*_CHARACTERS, "2020-01-02-", "1,", "a@b.", "a'", "00 ", '\\"', " \n", "a_", "0-")]
    return list(dict.fromkeys(texts))


def _samples(sequence: Any, most: int) -> list[str]:
    """Return texts that a sequence of a parsed expression may match."""
    texts = [""]
    for code, value in sequence:
        texts = [text + more for text in texts for more in _matches(code, value, most)]
        texts = texts if len(texts) <= most else [texts[i * len(texts) // most] for i in range(most)]
    return texts


def _matches(code: Any, value: Any, most: int) -> list[str]:
    if code is codes.LITERAL:
        return [chr(value)]
    if code is codes.NOT_LITERAL:
        return [c for c in _CHARACTERS if ord(c) != value][:most]
    if code is codes.ANY:
        return ["a", " ", "0", "-"]
    if code is codes.IN:
        return _members(value)
    if code is codes.BRANCH:
        return [text for branch in value[1] for text in _samples(branch, 2)][: most * 4]
    if code in (codes.SUBPATTERN, codes.ATOMIC_GROUP):
        return _samples(value[-1] if code is codes.SUBPATTERN else value, most)
    if code in _REPEATS:
        least, _, body = value
        return [text * max(least, 1) for text in _samples(body, most)] + ([""] if least == 0 else [])
    return [""]


def _members(items: list[tuple[Any, Any]]) -> list[str]:
    """Return characters of a class."""
    inverted = items[0][0] is codes.NEGATE

    def holds(character: str) -> bool:
        for code, value in items:
            if code is codes.LITERAL and value == ord(character):
                return not inverted
            if code is codes.RANGE and value[0] <= ord(character) <= value[1]:
                return not inverted
            if code is codes.CATEGORY:
                kind = str(value)
                is_in = character.isdigit() if "DIGIT" in kind else character.isspace() if "SPACE" in kind else None
                is_in = (character.isalnum() or character == "_") if is_in is None else is_in
                if is_in != ("NOT" in kind):
                    return not inverted
        return inverted

    named = [
        chr(v if c is codes.LITERAL else v[0]) for c, v in items if c in (codes.LITERAL, codes.RANGE) and not inverted
    ]
    return list(dict.fromkeys([*filter(holds, _CHARACTERS), *named]))[:8] or ["a"]


class _TooSlow(BaseException):
    pass


_LIMIT_S = 1.0


def cpu_seconds(call: Any, tries: int = 1, limit: float = _LIMIT_S) -> float:
    """Return the CPU time of a call, the least of so many, or `limit` if it takes longer."""

    def stop(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    best = limit
    try:
        for _ in range(tries):
            signal.setitimer(signal.ITIMER_VIRTUAL, limit)
            start = time.process_time()
            call()
            best = min(best, time.process_time() - start)
            if best > 0.1:
                break  # long times are exact
    except _TooSlow:
        return limit
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return best


_LEAST_S = {4_000: 3e-4, 16_000: 0.01}
"""Lengths of the texts, and the CPU seconds below which no longer text is tried: the time cannot be quadratic."""
_SLOW = 9
_AGAIN = 4
"""How often a large factor is measured again. Other work on the machine never makes all of them large."""


def growth(call: Any) -> float:
    """Return by what factor the CPU time of ``call(size)`` grows when the size grows to four times: about 4 if it is linear,
    16 if it is quadratic; 0 where it stays short, and infinity where it is too slow to go on. A large factor is measured
    again, several times and on longer texts, since short times are not exact."""
    factor = _growth(call, tries=1)
    for _ in range(_AGAIN):
        if factor <= _SLOW or factor == float("inf"):
            break
        factor = min(factor, _growth(call, tries=3))
    return factor


def _growth(call: Any, tries: int) -> float:
    before = 0.0
    for size, least in _LEAST_S.items():
        seconds = cpu_seconds(lambda size=size: call(size), tries)
        if seconds >= _LIMIT_S:
            return float("inf")
        if seconds < least:
            return 0.0
        factor, before = seconds / max(before, 1e-3), seconds
    if factor <= _SLOW or before > 0.1 or tries == 1:
        return factor
    again = cpu_seconds(lambda: call(64_000), tries)
    return float("inf") if again >= _LIMIT_S else again / before


def slow_attack(expression: Expression, longest: int | None = None) -> tuple[str, str, float] | None:
    """Return an attack under which an expression's time grows clearly faster than the text, with the factor; None if none
    does. longest: length to which texts are cut before they meet it; then the time itself is measured, which must be short."""
    pattern = expression.pattern
    if not _has_long_repeat(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)):
        return None  # what it reads from one place of the text is bounded
    for before, part in attacks(pattern):

        def run(size: int, before: str = before, part: str = part) -> None:
            text: Any = before + part * max(1, size // len(part)) + "\0"
            text = text if isinstance(pattern.pattern, str) else text.encode("utf-8", "replace")
            for method in expression.uses:
                if method in _ANCHORED:
                    getattr(pattern, method)(text)
                elif method in ("sub", "subn"):
                    pattern.sub("", text) if isinstance(pattern.pattern, str) else pattern.sub(b"", text)
                else:
                    any(False for _ in pattern.finditer(text))

        if longest is not None:
            seconds = cpu_seconds(lambda: run(longest))
            if seconds > 0.1 and (seconds := cpu_seconds(lambda: run(longest), 3)) > 0.1:
                return before, part, seconds
        elif (factor := growth(run)) > _SLOW:
            return before, part, factor
    return None
