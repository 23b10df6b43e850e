"""What pages are made of: typed blocks, sections of them, and who may see a block."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Audience = Literal["public", "team", "page"]
"""Who sees a block: everybody (it may stand in a model card), readers of the Markdown report, or of the HTML page alone
(texts of rows and of people)."""
Format = Callable[[Any], str]


def text(value: Any) -> str:
    """Format of a column that is aligned to the left."""
    return str(value)


def figure(value: Any) -> str:
    """Format of a column that is aligned to the right and holds written figures."""
    return str(value)


@dataclass(frozen=True)
class Text:
    """A paragraph. Backticks mark code."""

    text: str
    note: bool = False
    audience: Audience = "public"
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    audience: Audience = "public"
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: Sequence[str]
    ordered: bool = False
    audience: Audience = "public"
    kind: ClassVar[str] = "items"

    def __bool__(self) -> bool:
        return bool(self.texts)


@dataclass(frozen=True)
class Table:
    """Columns (title and format of their values) and rows of values.

    Attributes:
        strong: Indices of rows to stress.
        style: CSS classes.
        marks: CSS classes of single cells, by (row, column).
    """

    columns: Sequence[tuple[str, Format]]
    rows: Sequence[Sequence[Any]]
    strong: Collection[int] = ()
    style: str = "figures"
    marks: Mapping[tuple[int, int], str] = field(default_factory=dict)
    audience: Audience = "public"
    kind: ClassVar[str] = "table"

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def headers(self) -> list[str]:
        """Titles of the columns."""
        return [title for title, _ in self.columns]

    @property
    def right(self) -> list[bool]:
        """Whether each column is aligned to the right."""
        return [format_ is not text for _, format_ in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The written values."""
        return [[f(value) for (_, f), value in zip(self.columns, row, strict=True)] for row in self.rows]

    def without_empty_columns(self) -> Table:
        """The table without columns in which nothing is written."""
        kept = [j for j in range(len(self.columns)) if j == 0 or any(row[j] for row in self.cells)]
        return Table([self.columns[j] for j in kept], [[row[j] for j in kept] for row in self.rows], self.strong)


@dataclass(frozen=True)
class Bars:
    """Names with counts, shares of `total` and bars."""

    title: str
    rows: Sequence[tuple[str, int]]
    total: int
    audience: Audience = "public"
    kind: ClassVar[str] = "bars"

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Answer:
    """What a gate or a check found. `status`: passed, failed, warned or not_asked; `anchor`: id of a section."""

    name: str
    status: str
    answer: str
    message: str
    what_to_do: Sequence[str] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Answers:
    """Gates or checks with their answers. `headers`: of name, answer, and what was measured."""

    headers: tuple[str, str, str]
    rows: Sequence[Answer]
    audience: Audience = "public"
    kind: ClassVar[str] = "answers"


@dataclass(frozen=True)
class Matrix:
    """Counts of rows by right answer and given answer; `outside`: the column of invalid answers."""

    title: str
    labels: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    outside: str
    audience: Audience = "team"
    kind: ClassVar[str] = "matrix"

    @property
    def lines(self) -> list[list[str]]:
        """Rows of the matrix as text, each with its label."""
        return [[label, *map(str, counts)] for label, counts in zip(self.labels, self.counts, strict=True)]


@dataclass(frozen=True)
class Example:
    """A row with its text (None where it was not kept) and what was answered, by whom."""

    id: str
    text: str | None
    answers: Sequence[tuple[str, str]]
    place: str = ""


@dataclass(frozen=True)
class Examples:
    """Rows with their texts."""

    rows: Sequence[Example]
    audience: Audience = "page"
    kind: ClassVar[str] = "examples"

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Places:
    """Where rows stand, as (id, file and line); `count`: all of them, also those not named."""

    title: str
    count: int
    rows: Sequence[tuple[str, str]]
    audience: Audience = "team"
    kind: ClassVar[str] = "places"

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Span:
    """A token: its CSS classes, and its text in parts, of which (True, ...) are signs for what cannot be seen."""

    style: str
    parts: Sequence[tuple[bool, str]]


@dataclass(frozen=True)
class TokenRow:
    """A row token by token: runs of tokens, of which folded ones are hidden at first."""

    title: str
    fault: bool
    caption: str
    runs: Sequence[tuple[bool, Sequence[Span]]]


@dataclass(frozen=True)
class TokenRows:
    """Rows token by token."""

    rows: Sequence[TokenRow]
    audience: Audience = "page"
    kind: ClassVar[str] = "tokens"

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True)
class Legend:
    """What the colours of tokens mean."""

    audience: Audience = "page"
    kind: ClassVar[str] = "legend"


@dataclass(frozen=True)
class Plot:
    """A plot for wide and one for narrow screens, as SVG that follows the colours of the page.

    Attributes:
        embedded: Whether Markdown holds the plot too, as an image.
        values: What Markdown shows in its place.
    """

    name: str
    title: str
    wide: str
    narrow: str
    embedded: bool = False
    values: Table | None = None
    audience: Audience = "team"
    kind: ClassVar[str] = "plot"

    @property
    def document(self) -> str:
        """The wide plot as a file of its own, on white."""
        head, rest = self.wide.split(">", 1)
        return f'{head}><rect width="100%" height="100%" fill="#fff"/>{rest}\n'

    @property
    def encoded(self) -> str:
        """The document in base64, for Markdown."""
        return base64.b64encode(self.document.encode()).decode()


@dataclass(frozen=True)
class Code:
    """Lines of code or of a file."""

    text: str
    language: str = "text"
    audience: Audience = "public"
    kind: ClassVar[str] = "code"


Block = Text | Heading | Items | Table | Bars | Answers | Matrix | Examples | Places | TokenRows | Legend | Plot | Code
Blocks = Iterable[Block | str | None]
"""What a section is made of: a string is a paragraph; None and empty blocks are left out."""


def notes(*texts: str) -> list[Text]:
    """Small print."""
    return [Text(each, note=True) for each in texts if each]


@dataclass(frozen=True)
class Section:
    """A part of a page. `id`: its anchor."""

    id: str
    title: str
    blocks: Sequence[Block]

    @classmethod
    def of(cls, id_: str, title: str, blocks: Blocks) -> Section:
        """A section of what there is to show."""
        return cls(id_, title, [Text(block) if isinstance(block, str) else block for block in blocks if block])

    def public(self) -> list[Block]:
        """Blocks that may stand in a published model card."""
        return [block for block in self.blocks if block.audience == "public"]


@dataclass(frozen=True)
class Verdict:
    """The answer at the top of a page. `status`: passed, warned or failed; `faults`: what is wrong, and what to do."""

    status: str
    answer: str
    sentence: str
    more: Sequence[str] = ()
    faults: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Page:
    """A page. Sections without blocks are left out."""

    title: str
    lead: str
    verdict: Verdict | None
    sections: Sequence[Section]

    @property
    def shown(self) -> list[Section]:
        """Sections in which there is something to show."""
        return [section for section in self.sections if section.blocks]
