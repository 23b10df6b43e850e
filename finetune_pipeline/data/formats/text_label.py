"""A text and its label."""

from finetune_pipeline.data.formats.base import RawFormat, Turns, read_single_texts, register
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.spec import TaskSpec


@register
class TextLabel(RawFormat):
    """``{"text": "…", "label": "…"}``"""

    name, order = "text_label", 50
    documented = "`text`, `label`"
    row_keys = ("text", "label")
    needs = (("text", "label"),)
    fields = ("text", "label")

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        return read_single_texts(row, "text", "label", spec, turns)
