"""An instruction, its input, and the reference output."""

from finetune_pipeline.data.formats import base
from finetune_pipeline.data.formats.base import ANSWERS, RawFormat, Turns, first_key, register
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.data.quoting import quoted
from finetune_pipeline.spec import TaskSpec

_INPUTS = ("input", "context")
NO_INPUT = frozenset({"noinput", "no input", "n/a", "na", "none", "<noinput>", "<no input>", "[noinput]", "nan"})
"""Lowercase words that mean "no input"."""


@register
class Instruction(RawFormat):
    """``{"instruction": "…", "input": "…", "output": "…"}``"""

    name, order = "instruction", 30
    documented = "`instruction`, `input` (may be empty), `output`; `history` of earlier `[request, answer]` pairs"
    row_keys = ("instruction", *_INPUTS, "output")
    needs = (("instruction",),)
    fields = ("instruction", "output")

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        answer_key = first_key(row, ("output", *ANSWERS, "chosen")) or "output"
        key = first_key(row, _INPUTS)
        subject = None if key is None else _subject(row, key, turns)
        read = base.read_single_texts(row, "instruction", answer_key, spec, turns, subject)
        read |= base.read_history(row, turns)
        return read if key is None else {*read, key}


def _subject(row: JsonObject, key: str, turns: Turns) -> str | None:
    """Return the instruction's input, or None. A word for "nothing" counts as none, with a warning."""
    value = row[key]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and base.clean_text(value).casefold() in NO_INPUT:
        message = f"`{key}` is {quoted(base.clean_text(value))}; it was read as empty"
        turns.say("no_input_marker", message, "leave it empty", "warning")
        return None
    return turns.text_of(row, key, key)
