"""The prefix tree of a batch: a prefix that several rows share becomes one segment.

Each system prompt is a root, and each row a leaf; few-shot examples or documents that only some rows share are in between.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.models.chat import common_prefix

Row = dict[str, Any]
BUCKETS, FLEX = "buckets", "flex"
"""Kernels for attention over a tree of segments: :mod:`.attention` or :mod:`.flex`."""
_LARGEST_BUCKET = 8
_MIN_FILL = 0.7
"""Minimum length of a segment, as a share of its bucket's longest."""
_MIN_SEGMENT_TOKENS = 16
"""Minimum length in tokens of a shared segment below a root: each further segment costs a step in the attention."""
_ROUND_TO = 16
"""Packed sequences and buckets get lengths divisible by this. For every new size oneDNN compiles a kernel of its own (some
milliseconds and a MiB each, 50 in a step, of which it keeps 1,024), and its matrix units compute 16 rows at a time anyway."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens start..end of row number `row`, after segment number `parent` (-1: none)."""

    row: int
    start: int
    end: int
    parent: int


def sharable(row: Row) -> int:
    """Return how many leading tokens of a row may be shared: those before its first loss, and at most all but one."""
    first_loss = next((i for i, learned in enumerate(row["loss"]) if learned), len(row["ids"]))
    return int(min(first_loss, len(row["ids"]) - 1))


def shared_by_all(rows: Sequence[Row]) -> int:
    """Return the number of leading tokens without loss that all rows share, less than the length of every row."""
    return common_prefix([row["ids"] for row in rows], min(map(sharable, rows)))


def prefix_tree(rows: Sequence[Row]) -> tuple[list[Segment], list[Segment]]:
    """Return (shared segments, each after its parent; the last segment of each row, in the order of `rows`)."""
    limits = [sharable(row) for row in rows]
    inner: list[Segment] = []
    leaves: dict[int, Segment] = {}

    def grow(members: list[int], depth: int, parent: int) -> None:
        """Add the segments of these rows (numbers, sorted by their tokens), which share the first `depth` tokens."""
        if len(members) == 1:
            row = members[0]
            leaves[row] = Segment(row, depth, len(rows[row]["ids"]), parent)
            return
        # rows are sorted: the tokens that the first and the last share, all share
        length = common_prefix([rows[m]["ids"] for m in (members[0], members[-1])], min(limits[m] for m in members))
        if length - depth >= (1 if depth == 0 else _MIN_SEGMENT_TOKENS):
            inner.append(Segment(members[0], depth, length, parent))
            parent, depth = len(inner) - 1, length
        # more than one group: no prefix of that length is common to all members
        for group in groups_of(members, depth + _MIN_SEGMENT_TOKENS):
            grow(group, depth, parent)

    def groups_of(members: list[int], length: int) -> list[list[int]]:
        """Group neighbours with at least `length` tokens in common."""
        groups = [[members[0]]]
        for previous, row in itertools.pairwise(members):
            may_share = min(limits[previous], limits[row]) >= length
            if may_share and rows[previous]["ids"][:length] == rows[row]["ids"][:length]:
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    grow(sorted(range(len(rows)), key=lambda row: (rows[row]["ids"], row)), 0, -1)
    return inner, [leaves[row] for row in range(len(rows))]


def segments(inner: Sequence[Segment], leaves: Sequence[Segment], leading: int) -> tuple[list[int], list[int]]:
    """Return (lengths, parents) of the tree's segments in a packed sequence, after `leading` virtual tokens. The last row is
    padded at its end, where no token with loss sees it, until the sequence's length is divisible by 16."""
    offset = 1 if leading else 0
    tree = [*inner, *leaves]
    lengths = [s.end - s.start for s in tree]
    parents = [s.parent + offset if s.parent >= 0 else offset - 1 for s in tree]
    if leading:
        lengths, parents = [leading, *lengths], [-1, *parents]
    lengths[-1] += -sum(lengths) % _ROUND_TO
    return lengths, parents


def ancestors(parents: Sequence[int], segment: int) -> list[int]:
    """Return the segments before this one, from the root on."""
    path = []
    while (segment := parents[segment]) >= 0:
        path.append(segment)
    return path[::-1]


@dataclass
class Layout:
    """The layout of rows in a packed sequence: consecutive segments of `lengths` tokens, as a tree.

    parents[i]: the segment that segment i continues, -1 for none. A parent comes before all segments without children.
    virtual: number of keys and values before all segments, without tokens (a trained prefix). kernel: BUCKETS or FLEX.
    cache: plans and masks, computed once per batch and used by every layer. windows: filled by the attention function
    with each layer's sliding window (None: full attention).
    """

    lengths: list[int]
    parents: list[int]
    virtual: int = 0
    kernel: str = BUCKETS
    windows: list[int | None] = field(default_factory=list, repr=False)
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        inner = len(set(self.parents) - {-1})
        if any(parent >= inner or parent >= i for i, parent in enumerate(self.parents)):
            raise ValueError("a segment with children must come before those without, and before its own children")

    def starts(self) -> list[int]:
        """Return the start of each segment in the packed sequence."""
        return list(itertools.accumulate(self.lengths[:-1], initial=0))


def buckets(lengths: Sequence[int], parents: Sequence[int], cached: int) -> list[tuple[list[int], int, int]]:
    """Return groups of segments that attention computes together, as (segments, length of their context, longest segment).
    A group's segments have equally long contexts, including `cached` virtual keys, and similar lengths, longest first; the
    longest is rounded up to a multiple of 16."""
    context_lengths = [cached + sum(lengths[a] for a in ancestors(parents, i)) for i in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda i: (context_lengths[i], -lengths[i], i))
    groups: list[tuple[list[int], int, int]] = []
    for i in order:
        if groups:
            members, context, longest = groups[-1]
            fits = context == context_lengths[i] and lengths[i] >= _MIN_FILL * longest
            if fits and len(members) < _LARGEST_BUCKET:
                members.append(i)
                continue
        groups.append(([i], context_lengths[i], lengths[i] + -lengths[i] % _ROUND_TO))
    return groups
