"""What a page consists of: sections of typed blocks, each for an audience."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Audience = Literal["public", "team", "page"]
"""Who sees a block: everybody (it may appear in a model card), readers of the Markdown report, or only readers of the HTML
page (texts of rows and of people)."""
Format = Callable[[Any], str]


def text(value: Any) -> str:
    """Format a value as it is; a table aligns such a column to the left. Texts keep their marks (differences.Marked)."""
    return value if isinstance(value, str) else str(value)


def figure(value: Any) -> str:
    """Format a figure that is text already; a table aligns such a column to the right, like every format but :func:`text`."""
    return str(value)


@dataclass(frozen=True)
class Block:
    """A part of a section. Templates identify it by its `kind`; a block without rows is left out."""

    audience: Audience = field(default="public", kw_only=True)

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    def __bool__(self) -> bool:
        return bool(getattr(self, "rows", True))


@dataclass(frozen=True)
class Text(Block):
    """A paragraph, or small print. Backticks mark code."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Heading(Block):
    text: str


@dataclass(frozen=True)
class Items(Block):
    rows: Sequence[str]


@dataclass(frozen=True)
class Code(Block):
    text: str
    language: str = "text"


@dataclass(frozen=True)
class Table(Block):
    """Columns (title and format of their values) and rows of values.

    Attributes:
        strong: Indices of rows to highlight.
        style: CSS classes.
        marks: CSS classes of single cells, by (row, column).
        filters: Columns by which readers can filter and search the rows.
    """

    columns: Sequence[tuple[str, Format]]
    rows: Sequence[Sequence[Any]]
    strong: Collection[int] = ()
    style: str = "figures"
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    filters: Sequence[int] = ()

    @property
    def headers(self) -> list[str]:
        return [title for title, _ in self.columns]

    @property
    def right(self) -> list[bool]:
        return [format_ is not text for _, format_ in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        return [[format_(value) for (_, format_), value in zip(self.columns, row, strict=True)] for row in self.rows]

    def without_empty_columns(self) -> Table:
        """Return the table without columns whose cells are all empty. Keeps the first column."""
        cells = self.cells
        indices = [j for j in range(len(self.columns)) if j == 0 or any(row[j] for row in cells)]
        return replace(
            self,
            columns=[self.columns[j] for j in indices],
            rows=[[row[j] for j in indices] for row in self.rows],
            filters=[indices.index(j) for j in self.filters if j in indices],
        )


@dataclass(frozen=True)
class Bars(Block):
    title: str
    rows: Sequence[tuple[str, int]]
    total: int


@dataclass(frozen=True)
class Answer:
    """The result of a gate or a check. `status`: passed, failed, warned or not_asked; `anchor`: id of a section."""

    name: str
    status: str
    answer: str
    message: str
    what_to_do: Sequence[str] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Answers(Block):
    """Gates or checks with their results. `headers`: of name, result and measurement."""

    headers: tuple[str, str, str]
    rows: Sequence[Answer]


@dataclass(frozen=True)
class Matrix(Block):
    """Counts of rows by reference answer and given answer; `outside`: the column of invalid answers."""

    title: str
    labels: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    outside: str
    audience: Audience = field(default="team", kw_only=True)

    @property
    def lines(self) -> list[list[str]]:
        return [[label, *map(str, counts)] for label, counts in zip(self.labels, self.counts, strict=True)]


@dataclass(frozen=True)
class Span:
    """A token: its CSS classes, and its text in parts, each with whether it is a symbol for an invisible character."""

    style: str
    parts: Sequence[tuple[bool, str]]


@dataclass(frozen=True)
class TokenRow:
    """A row token by token: runs of tokens, each with whether it is folded (hidden at first)."""

    title: str
    fault: bool
    caption: str
    runs: Sequence[tuple[bool, Sequence[Span]]]


@dataclass(frozen=True)
class Tokens(Block):
    """Rows token by token. legend: explain the styles first."""

    rows: Sequence[TokenRow]
    legend: bool = False
    audience: Audience = field(default="page", kw_only=True)


@dataclass(frozen=True)
class Plot(Block):
    """A plot for wide and one for narrow screens, as SVG that follows the colours of the page.

    Attributes:
        name: Name of the plot's file.
        values: What Markdown shows instead.
    """

    name: str
    title: str
    wide: str
    narrow: str
    values: Table | None = None
    audience: Audience = field(default="team", kw_only=True)

    @property
    def document(self) -> str:
        """Return the wide plot as a standalone file, on white."""
        head, body = self.wide.split(">", 1)
        return f'{head}><rect width="100%" height="100%" fill="#fff"/>{body}\n'


Blocks = Iterable[Block | str | None]
"""The content of a section: strings are paragraphs; None and blocks without rows are left out."""


def notes(*texts: str) -> list[Text]:
    return [Text(sentence, note=True) for sentence in texts if sentence]


@dataclass(frozen=True)
class Section:
    """A part of a page. `id`: its anchor."""

    id: str
    title: str
    blocks: Sequence[Block]

    @classmethod
    def of(cls, id_: str, title: str, blocks: Blocks) -> Section:
        return cls(id_, title, [Text(block) if isinstance(block, str) else block for block in blocks if block])

    def public(self) -> list[Block]:
        """Return the blocks that may appear in a published model card."""
        return [block for block in self.blocks if block.audience == "public"]


@dataclass(frozen=True)
class Verdict:
    """The verdict at the top of a page.

    Attributes:
        status: passed, warned or failed.
        answer: The verdict in a few words; the sentence says why.
        more: Content directly below it.
        faults: Problems and fixes.
        next_steps: The most urgent first.
        facts: What was evaluated, when, and on which data, by name.
        picture: Shown beside it.
    """

    status: str
    answer: str
    sentence: str
    more: Sequence[str] = ()
    faults: Sequence[tuple[str, str]] = ()
    next_steps: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    picture: Plot | None = None


@dataclass(frozen=True)
class Page:
    """A page. Sections without blocks are left out; those after the first `unfolded` ones are folded."""

    title: str
    lead: str
    verdict: Verdict | None
    sections: Sequence[Section]
    unfolded: int = 1

    @property
    def shown(self) -> list[Section]:
        return [section for section in self.sections if section.blocks]
