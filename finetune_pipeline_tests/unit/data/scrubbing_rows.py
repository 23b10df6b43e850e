"""The labelled texts on which scrubbing is measured (``scrubbing_fixture.jsonl``, one JSON object a line).

Row: about (its topic), lang, text, spans [{start, end, kind}] in characters of the text, in order. Written by hand; all
values are made up or of documented test ranges (example.com, 555-01xx, test cards, sample IBANs and ids). A text with a
made-up key of a known issuer is a list of parts, so that no scanner takes the file for a leak: joined they are the text.
Rows about `name and address` alone hold names of people; every other name would count as a false hit of a recogniser.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from finetune_pipeline.data.scrub import Span

PATH = Path(__file__).with_name("scrubbing_fixture.jsonl")


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
