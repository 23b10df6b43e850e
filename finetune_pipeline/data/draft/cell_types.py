"""Decides what the cells of a column are as values of a JSON answer: numbers, truth values, JSON, or text as it is written."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

from finetune_pipeline.data.draft.columns import Column, as_text
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import BOOLEANS, compile_expression
from finetune_pipeline.data.names import plain_name
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.findings import listed
from finetune_pipeline.spec.outputs import folded_label

NO_ANSWERS = frozenset(
    "? ?? ??? - -- – — . / n/a n.a. na nan null nil none tbd undefined unlabeled unlabelled k.a.".split()
)
"""Lower-case words that tables hold where there is no answer."""
_NO_NUMBERS = NO_ANSWERS | {
    "unknown",
    "unbekannt",
    "missing",
    "not available",
    "keine angabe",
    "#n/a",
    "#value!",
    "#nv",
}
"""These are no values between numbers or truth values; between other texts some may be."""
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{0,14}[1-9])?")
"""Numbers that text and number say alike: no `007`, no `12.50`, none that a float rounds."""
_AMOUNT = re.compile(r"-?(0|[1-9]\d{0,11})(\.\d{1,3})?")
"""Numbers with up to three decimals, such as money."""
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(\.\d{3})?")
"""Numbers whose point, if all have only such ones, may separate thousands."""
_NUMBERS_AS_NAMES = re.compile(
    r"(^|_)(version|release|phone|telephone|tel|telefon|telefonnummer|mobile|mobil|handy|fax|zip|zipcode|postal|postcode|plz"
    r"|postleitzahl|iban)(_|$)"
)
"""Names of columns whose digits count nothing."""
_UNIT = r"(?:[$€£¥₹%]|[A-Z]{3})"
_WRITTEN_AMOUNT = re.compile(rf"{_UNIT}?\s?-?\d{{1,15}}(?:[.,'’\s]\d{{3}}){{0,5}}(?:[.,]\d{{1,15}})?\s?{_UNIT}?")
_UNWRITTEN = re.compile(r"-?\d{1,15}(\.\d{1,2})?|0\d.*")
"""What is a number, or a code, in any country."""


def is_written_amount(text: str) -> bool:
    """Whether a text is a number as people write it: `12,50`, `1.234,00`, `€ 9,99`."""
    return bool(_WRITTEN_AMOUNT.fullmatch(text.strip()))


def are_written_amounts(texts: Collection[str]) -> bool:
    """Whether texts are numbers as people write them, at least one with a comma, a unit, or a point that may separate thousands."""
    return all(map(is_written_amount, texts)) and not all(_UNWRITTEN.fullmatch(text.strip()) for text in texts)


def json_reading(column: Column, rows: Sequence[RawRow]) -> tuple[str, str]:
    """Return (how `data.fields` reads a column into a JSON object, a note about it or nothing). An empty cell is null, JSON in a
    cell is its value, and so are truth values and numbers where all cells hold one; words for no value between these are null.
    Any other text between them stays text, and so do numbers that could be read in two ways."""
    path, read = column.path, compile_expression(column.path)[0]
    cells = [value for row in rows if (value := read(row.value, "", row.key)) is not None]
    texts = Counter(text for value in cells if isinstance(value, str) and (text := as_text(value)))
    others = {type(value) for value in cells} - {str}
    if column.is_json and not others:
        return f"from_json({path} || `null`)", ""
    missing = {text: n for text, n in texts.items() if folded_label(text) in _NO_NUMBERS}
    values = [text for text in texts if text not in missing]
    are_booleans = all(value.casefold() in BOOLEANS for value in values) and others <= {bool}
    are_numbers = _are_numbers(column.name, values) and others <= {int, float}
    if not (values or others) or (others and not missing) or not (are_booleans or are_numbers):
        return (path if others else f"{path} || `null`"), "" if others else _note_on_text(column, values)
    words = ", ".join(f"'{word}'" for word in sorted({*map(folded_label, missing)}))
    filled, note = f"{path} || `null`", ""
    if missing:
        filled = f"null_if({path}, [{words}])"
        found = listed([f"{quoted(text)} × {n:,}" for text, n in missing.items()])
        rest = "true or false" if are_booleans else "numbers"
        note = f"{path}: {found} become null, like empty cells, since all others are {rest}"
    if are_booleans:
        return f"to_boolean({filled if missing else path})", note
    return f"to_number({path}) || {filled}", note


def _are_numbers(name: str, texts: Collection[str]) -> bool:
    """Whether a number says all that each text says: no `007`, no number that a float rounds, no `1.234`, which may be a thousand.
    Final zeros, as in 12.50, count for nothing where all texts have as many decimals, which versions (1.9, 1.10) do not have."""
    if _NUMBERS_AS_NAMES.search(plain_name(name)) or _may_be_thousands(texts):
        return False
    decimals = {len(text.partition(".")[2]) for text in texts}
    return all(map((_AMOUNT if len(decimals) == 1 else _JSON_NUMBER).fullmatch, texts))


def _may_be_thousands(texts: Collection[str]) -> bool:
    return any("." in text for text in texts) and all(map(_THOUSANDS.fullmatch, texts))


def _note_on_text(column: Column, texts: Collection[str]) -> str:
    """Return a note on numbers that stay text; nothing about other texts."""
    if not texts or not are_written_amounts(texts) or _NUMBERS_AS_NAMES.search(plain_name(column.name)):
        return ""
    shown = quoted(next(text for text in texts if not _UNWRITTEN.fullmatch(text)))
    stays = f"{column.path}: {shown} and the like stay text, as written"
    if _may_be_thousands(texts):
        number = f'write to_number({column.path}) for it in data.fields and `"type": "number"` in schema.json'
        return f"{stays}, since the point may separate thousands; if it is a decimal point, {number}"
    return f"{stays}; to have numbers, write them in the file as 1234.50, with a point and nothing else"
