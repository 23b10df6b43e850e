"""Makes the blind review sheet: answers of two models to the same inputs, half of them random, half likely failures.

Only the random half gives an error rate, since answers selected because they look wrong are wrong more often. The other
half shows how the model fails.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RANDOM, SELECTED = "random", "selected"
CHOICES = ("A", "B", "both", "neither")
"""Possible ratings: which of the two answers is acceptable."""
MOST_ITEMS = 9999
_SHEET_NAME = re.compile(r"^([0-9a-f]{16})-([1-9][0-9]{0,3})$")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SheetItem:
    """One row of a sheet. drawn: `random` or `selected`, which the rater does not see."""

    id: str
    text: str
    reference: str
    a: str
    b: str
    drawn: str


def sheet_name(predictions: str, items: int) -> str:
    """Return the name of a sheet with this number of items on these predictions (their artifact's version)."""
    return f"{predictions}-{items}"


def read_sheet_name(name: str) -> tuple[str, int] | None:
    """Parse a sheet's name to (predictions version, items); None if it is not one."""
    match = _SHEET_NAME.match(name)
    return (match.group(1), int(match.group(2))) if match else None


def draw(
    base: Sequence[Row], candidate: Sequence[Row], is_right: Mapping[str, bool], items: int, secret: bytes
) -> dict[str, str]:
    """Choose the examples to show: {example id: `random` or `selected`}, in display order.

    base, candidate: prediction rows of the same examples. is_right: whether the candidate is right, by the metric. Half of
    `items` is drawn at random. The other half is drawn from the rest, first examples on which the candidate is wrong or the
    two models differ. The secret and the ids determine the draw, so it is reproducible; the two halves are mixed.
    """
    base_texts = {row["example_id"]: row["text"].strip() for row in base}
    candidate_texts = {row["example_id"]: row["text"].strip() for row in candidate}
    example_ids = sorted(candidate_texts, key=lambda i: keyed(secret, "draw", i))
    n = min(items, len(example_ids))
    chosen = dict.fromkeys(example_ids[: (n + 1) // 2], RANDOM)
    candidates = sorted(
        (i for i in example_ids if i not in chosen),
        key=lambda i: (is_right.get(i, False) and candidate_texts[i] == base_texts[i], keyed(secret, "pick", i)),
    )
    chosen |= dict.fromkeys(candidates[: n - len(chosen)], SELECTED)
    return {i: chosen[i] for i in sorted(chosen, key=lambda i: keyed(secret, "order", i))}


def make_sheet(
    name: str,
    drawn: Mapping[str, str],
    base: Sequence[Row],
    candidate: Sequence[Row],
    texts: Mapping[str, str],
    secret: bytes,
) -> list[SheetItem]:
    """Return the items of a sheet, in order, with sides swapped according to the secret. Failed answers are shown as such."""
    by_id = [{row["example_id"]: row for row in rows} for rows in (base, candidate)]
    items = []
    for example, how in drawn.items():
        base_row, candidate_row = by_id[0][example], by_id[1][example]
        a, b = (candidate_row, base_row) if candidate_is_a(secret, name, example) else (base_row, candidate_row)
        items.append(SheetItem(example, texts.get(example, ""), base_row["gold"], shown(a), shown(b), how))
    return items


def shown(row: Row) -> str:
    return shown_text(None if row["status"] == "error" else row["text"])


def shown_text(answer: str | None) -> str:
    """Return what people see of an answer; None: it failed."""
    if answer is None:
        return "(no answer: the generation failed)"
    return answer if answer.strip() else "(an empty answer)"


def keyed(secret: bytes, *parts: str) -> bytes:
    """Derive 32 bytes from the secret and the parts; neither can be recovered from them (HMAC-SHA-256)."""
    return hmac.new(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def candidate_is_a(secret: bytes, sheet: str, item: str) -> bool:
    """Whether side A of this item shows the candidate: for half of the items, in an unpredictable order."""
    return keyed(secret, "side", sheet, item)[0] % 2 == 0
