"""Files of text that are no tables of rows, though they may look like it: what they are, and what to do."""

from __future__ import annotations

import re

_HEADERS = rb"Return-Path|Delivered-To|Received|From|To|Subject|Date|MIME-Version|Message-ID|X-[\w-]+"
_E_MAIL = rb"(From \S+ .*\r?\n)?((" + _HEADERS + rb"): .*\r?\n[ \t]?){2}"
_MESSENGER = rb"\[?\d{1,4}[./-]\d{1,2}[./-]\d{1,4},? \d{1,2}:\d\d(:\d\d)?( ?[AaPp]\.?[Mm]\.?)?(\]| -) "
_OTHERS = {
    rb"__label__\S+ ": (
        "lines of fastText",
        r"put label and text into columns: sed -E 's/^__label__(\S+) +/\1\t/' FILE > rows.tsv",
    ),
    rb"<(\?xml|!DOCTYPE)": ("XML or HTML", "write a row for each of its elements, as CSV or JSON Lines"),
    rb"(INSERT INTO|CREATE TABLE|-- .*dump)": ("an SQL dump", "export the table as CSV from the database"),
    rb"\|.*\|[ \t]*\r?\n[ \t]*\|[-:| \t]+\|[ \t]*\r?\n": (
        "a table in Markdown",
        "save it as CSV, without the line of dashes",
    ),
    _E_MAIL: ("e-mail", "write a row for each message, with its text and the answer to it, as CSV or JSON Lines"),
    _MESSENGER: (
        "the log of a messenger",
        "write a row for each message, with conversation_id, role (customer or agent) and text, as CSV or JSON Lines",
    ),
}


def other_text(head: bytes) -> tuple[str, str] | None:
    """(what a file of text is, what to do with it) by its first lines; None for one that may hold rows."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((said for begin, said in _OTHERS.items() if re.match(begin, start, re.IGNORECASE)), None)
