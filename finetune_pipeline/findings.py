"""Findings: problems worded so that a person can act on them. Used by every stage."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from finetune_pipeline.escaping import printable

Severity = Literal["error", "warning", "note"]
SHOWN = 5
"""Places of equal findings that are named, and different findings of a rule that are printed."""
_LONGEST = 2_000


def shortened(text: str) -> str:
    """Return the text for a message, without the middle if it has more than 2,000 characters."""
    omitted = len(text) - _LONGEST
    if omitted <= 0:
        return text
    return f"{text[: _LONGEST // 2]} … ({omitted:,} characters left out) … {text[-_LONGEST // 2 :]}"


def listed(names: Sequence[object], most: int = 12) -> str:
    """Return the first of these names for a message."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")


def listed_files(names: Sequence[str], most: int = 4) -> str:
    """Return the first of these files, and how many there are if not all are shown."""
    return listed(names, most) + (f" ({len(names):,} files)" if len(names) > most else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    rule: stable id such as ``data.unknown_label``; severity: ``error`` stops, ``warning`` asks for a look, ``note``
    informs; place: where (``raw/a.jsonl:12``, ``task.yaml: training.epochs``); message: what is wrong; fix: what to do.
    """

    rule: str
    severity: Severity
    place: str
    message: str
    fix: str

    def __post_init__(self) -> None:
        for name in ("place", "message", "fix"):  # they may quote untrusted texts
            object.__setattr__(self, name, printable(shortened(getattr(self, name))))

    def __str__(self) -> str:
        return f"{self.severity}: {self.place}: {self.message} [{self.rule}]\n    fix: {self.fix}"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class FindingsError(ValueError):
    """Raised with *all* problems found, never only the first."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(finding_lines(self.findings)))


def folded(findings: Iterable[Finding]) -> list[Finding]:
    """Join findings that differ in their places only, which are named up to the fifth and counted."""
    places: dict[Finding, list[str]] = defaultdict(list)
    for finding in findings:
        places[replace(finding, place="")].append(finding.place)
    return [replace(finding, place=_named(at)) for finding, at in places.items()]


def _named(places: Sequence[str]) -> str:
    more = len(places) - SHOWN
    return "; ".join(places[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Return findings for printing: equal ones joined, and of each rule the first five; the others are counted."""
    lines: list[str] = []
    by_rule = Counter[str]()
    for finding in folded(findings):
        by_rule[finding.rule] += 1
        if by_rule[finding.rule] <= SHOWN:
            lines.append(str(finding))
    return [*lines, *(f"and {n - SHOWN:,} more of [{rule}]" for rule, n in by_rule.items() if n > SHOWN)]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that must stop the work."""
    return [f for f in findings if f.severity == "error"]


def count_by_rule(findings: Iterable[Finding]) -> dict[str, int]:
    """Return the number of findings per rule, most frequent first, ties by name."""
    return most_first(Counter(f.rule for f in findings))


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """Sort counts, most frequent first, ties by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def as_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Convert findings to dictionaries for JSON output."""
    return [f.to_dict() for f in findings]
