"""The labelled texts on which scrubbing is measured (``scrubbing_fixture.jsonl``, one JSON object per line).

Keys: about (topic), lang, text, spans [{start, end, kind}] in characters and in order. All texts are written by hand, with
invented values or documented test values (example.com, 555-01xx, test cards, sample IBANs and ids). Texts with an invented key
of a known issuer are split into a list of parts, so that secret scanners do not report the file. Only rows about `name and
address` contain names of people, since any other name would count as a false positive.
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
    """A row of the fixture."""

    about: str
    lang: str
    text: str
    spans: list[Span]


def labelled_rows() -> list[Labelled]:
    """All rows of the fixture, in file order."""
    rows = []
    for line in PATH.read_text("utf-8").splitlines():
        row = json.loads(line)
        text = row["text"] if isinstance(row["text"], str) else "".join(row["text"])
        rows.append(Labelled(row["about"], row["lang"], text, [Span(**span) for span in row["spans"]]))
    return rows


@dataclass(frozen=True)
class Marked:
    """A line of a file in ``scrub_sets``: the values to remove, and the texts around them to keep."""

    section: str
    text: str
    values: list[str]
    kept: list[str]

    def scrubbed(self, with_region: bool = False) -> str:
        """The scrubbed text. with_region: Scrub for the country that the section's name begins with."""
        region = self.section.split()[0]
        regions = [region] if with_region and region != "any" else []
        return scrub_text(self.text, partial(find_spans, regions=regions))

    def missed(self, scrubbed: str) -> list[str]:
        """Values of which six consecutive characters (or all of a shorter value) remain in the scrubbed text."""
        return [v for v in self.values if any(v[i : i + 6] in scrubbed for i in range(max(1, len(v) - 5)))]

    def harmed(self, scrubbed: str) -> bool:
        """Whether more than the values was removed."""
        end = 0
        for piece in self.kept:
            start = scrubbed.find(piece, end)
            if start < 0:
                return True
            end = start + len(piece)
        return False


def marked_lines(name: str) -> list[Marked]:
    """The lines of a file in ``scrub_sets``, without section headings."""
    section, lines = "", []
    for line in (SETS / f"{name}.txt").read_text("utf-8").splitlines():
        if line.startswith("== "):
            section = line[3:]
            continue
        line = _CODE.sub(lambda code: chr(int(code[1], 16)), line) if name == "hidden" else line
        kept = _MARKED.sub("\0", line).split("\0")
        lines.append(Marked(section, _MARKED.sub(r"\1", line), _MARKED.findall(line), kept))
    return lines
