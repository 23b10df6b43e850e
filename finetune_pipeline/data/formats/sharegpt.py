"""ShareGPT's chat format: `conversations` of `from` and `value`, with other role names than OpenAI's."""

from finetune_pipeline.data.formats.base import RawFormat, Turns, first_key, register
from finetune_pipeline.data.formats.messages import read_messages
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.spec import TaskSpec

_CHATS = ("conversations", "conversation")


@register
class ShareGpt(RawFormat):
    """``{"conversations": [{"from": "human", "value": "…"}, …]}``"""

    name, order = "sharegpt", 20
    documented = "`conversations` of `from`, `value`"
    row_keys = (*_CHATS, "system")
    needs = (_CHATS,)

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        return read_messages(row, first_key(row, _CHATS) or "", spec, turns, loose=True)
