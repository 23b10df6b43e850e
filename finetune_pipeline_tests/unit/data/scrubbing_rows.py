"""The labelled texts on which scrubbing is measured (``scrubbing_fixture.jsonl``, one JSON object a line).

Row: about (its topic), lang, text, spans [{start, end, kind}] in characters of the text, in order. Written by hand; all
values are made up or of documented test ranges (example.com, 555-01xx, test cards, sample IBANs and ids). A text with a
made-up key of a known issuer is a list of parts, so that no scanner takes the file for a leak: joined they are the text.
Rows about `name and address` alone hold names of people; every other name would count as a false hit of a recogniser.
"""

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune_pipeline.data.scrub import Span, find_spans, scrub_text

PATH = Path(__file__).with_name("scrubbing_fixture.jsonl")
SETS = Path(__file__).with_name("scrub_sets")
_MARKED = re.compile("⟦(.*?)⟧")
_CODE = re.compile(r"\{([0-9a-f]{4})\}")


@dataclass(frozen=True)
class Labelled:
    """One row of the fixture."""

    about: str
    lang: str
    text: str
    spans: list[Span]


def labelled_rows() -> list[Labelled]:
    """All rows, in file order."""
    rows = []
    for line in PATH.read_text("utf-8").splitlines():
        row = json.loads(line)
        text = row["text"] if isinstance(row["text"], str) else "".join(row["text"])
        rows.append(Labelled(row["about"], row["lang"], text, [Span(**span) for span in row["spans"]]))
    return rows


@dataclass(frozen=True)
class Marked:
    """A line of a file in ``scrub_sets``: the values in it that must go, and the texts around them that must stay."""

    section: str
    text: str
    values: list[str]
    kept: list[str]

    def scrubbed(self, with_region: bool = False) -> str:
        """The line as scrubbing leaves it; `with_region`: with the country its section begins with."""
        region = self.section.split()[0]
        regions = [region] if with_region and region != "any" else []
        return scrub_text(self.text, partial(find_spans, regions=regions))

    def missed(self, scrubbed: str) -> list[str]:
        """Values of which six characters in a row, or the whole of a shorter one, are left in the scrubbed text."""
        return [v for v in self.values if any(v[i : i + 6] in scrubbed for i in range(max(1, len(v) - 5)))]

    def harmed(self, scrubbed: str) -> bool:
        """Whether more was taken than the values."""
        at = 0
        for piece in self.kept:
            place = scrubbed.find(piece, at)
            if place < 0:
                return True
            at = place + len(piece)
        return False


def marked_lines(name: str) -> list[Marked]:
    """The lines of one of the files in ``scrub_sets``."""
    section, lines = "", []
    for line in (SETS / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("== "):
            section = line[3:]
            continue
        line = _CODE.sub(lambda code: chr(int(code[1], 16)), line) if name == "hidden" else line
        kept = _MARKED.sub("\0", line).split("\0")
        lines.append(Marked(section, _MARKED.sub(r"\1", line), _MARKED.findall(line), kept))
    return lines
