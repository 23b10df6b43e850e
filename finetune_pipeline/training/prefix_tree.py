"""The prefix tree of a batch: a prefix that several rows share becomes one segment.

One system prompt gives a root with a leaf a row; several system prompts in one data set give a root each; few-shot
examples or documents that only some rows share nest below them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
BUCKETS, FLEX = "buckets", "flex"
"""What computes the attention over a tree of segments: :mod:`.attention` or :mod:`.flex`."""
_LARGEST_BUCKET = 8
_FILLED = 0.7
_WORTH = 16
"""Tokens a beginning must be longer than what is shared already, for some of the rows to share it as well: every further
segment costs a step of its own in the attention."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens start..end of row number `row`, behind the segment number `parent` (-1: nothing)."""

    row: int
    start: int
    end: int
    parent: int


def sharable(row: Row) -> int:
    """Leading tokens of a row that may be shared: those before its first loss, at least one being left to itself."""
    first = next((i for i, learned in enumerate(row["loss"]) if learned), len(row["ids"]))
    return int(min(first, len(row["ids"]) - 1))


def _common(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def common_prefix(rows: Sequence[Row]) -> int:
    """Number of leading tokens all rows share, kept free of loss and shorter than every row."""
    ids = [row["ids"] for row in rows]
    return _common(min(ids), max(ids), min(map(sharable, rows)))  # in lexical order, what these two share all share


def prefix_tree(rows: Sequence[Row]) -> tuple[list[Segment], list[Segment]]:
    """(shared segments, each after its parent; one last segment a row, in the order of `rows`)."""
    limits = [sharable(row) for row in rows]
    inner: list[Segment] = []
    leaves: dict[int, Segment] = {}

    def grow(members: list[int], depth: int, parent: int) -> None:
        if len(members) == 1:
            row = members[0]
            leaves[row] = Segment(row, depth, len(rows[row]["ids"]), parent)
            return
        first, last = rows[members[0]]["ids"], rows[members[-1]]["ids"]  # sorted: what these two share all share
        length = _common(first, last, min(limits[m] for m in members))
        if length - depth >= (1 if depth == 0 else _WORTH):
            inner.append(Segment(members[0], depth, length, parent))
            parent, depth = len(inner) - 1, length
        for group in groups_of(members, depth + _WORTH):  # more than one: something parts them before that length
            grow(group, depth, parent)

    def groups_of(members: list[int], length: int) -> list[list[int]]:
        """Neighbours with at least `length` tokens in common stay together."""
        groups = [[members[0]]]
        for a, b in itertools.pairwise(members):
            limit = min(limits[a], limits[b])
            if limit >= length and _common(rows[a]["ids"], rows[b]["ids"], limit) >= length:
                groups[-1].append(b)
            else:
                groups.append([b])
        return groups

    grow(sorted(range(len(rows)), key=lambda m: (rows[m]["ids"], m)), 0, -1)
    return inner, [leaves[m] for m in range(len(rows))]


def segments(inner: Sequence[Segment], leaves: Sequence[Segment], leading: int) -> tuple[list[int], list[int]]:
    """(lengths, parents) of the tree's segments as they lie in a packed sequence, `leading` virtual tokens before all."""
    first = 1 if leading else 0
    tree = [*inner, *leaves]
    lengths = [s.end - s.start for s in tree]
    parents = [s.parent + first if s.parent >= 0 else first - 1 for s in tree]
    return [*[leading] * first, *lengths], [*[-1] * first, *parents]


def ancestors(parents: Sequence[int], segment: int) -> list[int]:
    """The segments before this one, from the first on."""
    line = []
    while (segment := parents[segment]) >= 0:
        line.append(segment)
    return line[::-1]


@dataclass
class Layout:
    """How rows lie in a packed sequence: segments of `lengths` tokens, one after the other, and who follows whom.

    parents[i]: the segment that segment i goes on from, -1 for none. A parent stands before all segments that have no
    children. virtual: keys and values that stand before all of them without tokens of their own (a trained prefix).
    kernel: what computes it, BUCKETS or FLEX. kept: plans and masks, made once a batch and used by every layer.
    windows: filled by the attention function with each layer's sliding window (None: it sees everything).
    """

    lengths: list[int]
    parents: list[int]
    virtual: int = 0
    kernel: str = BUCKETS
    windows: list[int | None] = field(default_factory=list, repr=False)
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        inner = len(set(self.parents) - {-1})
        if any(parent >= inner or parent >= i for i, parent in enumerate(self.parents)):
            raise ValueError("a segment with children must stand before those without, and before its own children")

    def starts(self) -> list[int]:
        """The start of each segment in the packed sequence."""
        return list(itertools.accumulate(self.lengths[:-1], initial=0))


def buckets(lengths: Sequence[int], parents: Sequence[int], cached: int) -> list[tuple[list[int], int, int]]:
    """Segments that attention takes together, as (segments, length of their context, longest of them): behind equally long
    contexts, `cached` virtual keys included, and of similar length, longest first."""
    behind = [cached + sum(lengths[a] for a in ancestors(parents, i)) for i in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda i: (behind[i], -lengths[i], i))
    groups: list[tuple[list[int], int, int]] = []
    for i in order:
        if groups:
            members, context, longest = groups[-1]
            fits = context == behind[i] and lengths[i] >= _FILLED * longest
            if fits and len(members) < _LARGEST_BUCKET:
                members.append(i)
                continue
        groups.append(([i], behind[i], lengths[i]))
    return groups
