"""Rows of single texts (text and label, prompt and completion, instruction and output) as chats, where there is no doubt."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from finetune_pipeline.data.canonical_writer import Row, Turn
from finetune_pipeline.data.formats import NO_INPUT


class FlatRow(msgspec.Struct, gc=False):
    """A raw row of single texts, and perhaps some of the other keys."""

    text: str | UnsetType = UNSET
    label: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    completion: str | UnsetType = UNSET
    instruction: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    output: str | UnsetType = UNSET
    group: str | UnsetType | None = UNSET
    origin: str | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET


def as_chat(row: FlatRow, keys: int) -> tuple[str, Row, str] | None:
    """(shape, the row as a chat of two turns, what an instruction is about) of a row whose line holds `keys` keys.

    None unless its keys are those of one shape, each there once, and nothing else is but `group`, `origin` and `id`.
    """
    more = (row.group is not UNSET) + (row.origin is not UNSET) + (row.id is not UNSET)
    subject = ""
    said: str | UnsetType
    answer: str | UnsetType
    if row.text is not UNSET:
        shape, said, answer = "text_label", row.text, row.label
    elif row.prompt is not UNSET:
        shape, said, answer = "prompt_completion", row.prompt, row.completion
    else:
        shape, said, answer = "instruction", row.instruction, row.output
        if row.input is not UNSET:
            more, subject = more + 1, row.input
    if said is UNSET or answer is UNSET or keys != 2 + more:
        return None
    if subject:
        if subject.strip() != subject or subject.casefold() in NO_INPUT or said.strip() != said or not said:
            return None
        said = f"{said}\n\n{subject}"
    turns = [Turn("user", said), Turn("assistant", answer)]
    return shape, Row(turns, UNSET, row.group, row.origin, row.id), subject
