"""OpenAI's preference format: a chat under `input`, and the better answer under `preferred_output`."""

from finetune_pipeline.data.formats.base import RawFormat, Turns, register
from finetune_pipeline.data.formats.messages import read_messages
from finetune_pipeline.data.formats.tool_calls import read_tools
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.spec import TaskSpec


@register
class OpenAiPreference(RawFormat):
    """``{"input": {"messages": […]}, "preferred_output": [{"role": "assistant", "content": "…"}]}``"""

    name, order = "openai_preference", 5
    documented = "`input` of `messages` and `tools`, `preferred_output`"
    row_keys = ("preferred_output", "non_preferred_output")
    needs = (("preferred_output",), ("input",))

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        chat_input = row["input"] if isinstance(row["input"], dict) else {}
        chat = {"messages": chat_input.get("messages"), "chosen": row["preferred_output"]}
        read_messages(chat, "messages", spec, turns, loose=False)
        if chat_input.get("tools"):
            turns.tools = read_tools(chat_input["tools"], turns.say)
        return {"input", "preferred_output"}
