"""Labels with a column each, which says for every row whether it has that label: 0 or 1, true or false."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import Column

_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
_LEAST = 3
"""Fewer such columns are more likely labels of their own."""


def indicators(columns: Mapping[str, Column], answer: Column) -> list[Column]:
    """The columns of labels, the likeliest answer among them; none if they are few, or its name says that it is one alone."""
    some = [c for c in columns.values() if c.is_top and c.filled == c.rows and "'" not in c.name]
    some = [c for c in some if len(c.values) <= 2 and {value.casefold() for value in c.values} <= {*_ON, *_OFF}]
    alone = names.plain_name(answer.name) in names.LABELS and not any(f"_{answer.name}" in c.name for c in some)
    return some if len(some) >= _LEAST and answer in some and not alone else []


def labels_of(columns: list[Column]) -> str:
    """The expression of the names of the columns that say yes, or `none`."""
    asked = []
    for column in columns:
        on = next((value for value in column.values if value.casefold() in _ON), "1")
        value = f"'{on}'" if column.kind == "text" else f"`{json.dumps(json.loads(on))}`"
        asked.append(f"{column.path} == {value} && '{column.name}'")
    return f"join(', ', [{', '.join(asked)}][?@]) || 'none'"
