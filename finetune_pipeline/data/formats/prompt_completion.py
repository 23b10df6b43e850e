"""A prompt and its completion, under one of several names."""

from collections.abc import Set

from finetune_pipeline.data.formats import base
from finetune_pipeline.data.formats.base import ANSWERS, RawFormat, Turns, first_key, register
from finetune_pipeline.data.json_lines import JsonObject
from finetune_pipeline.spec import TaskSpec

_PROMPTS = ("prompt", "question", "query", "input")
_ANSWERS = (*ANSWERS, "chosen")


@register
class PromptCompletion(RawFormat):
    """``{"prompt": "…", "completion": "…"}``"""

    name, order = "prompt_completion", 40
    documented = "`prompt`, `completion` (or response, answer; question/answer, query/response); `history` as above"
    row_keys = (*_PROMPTS, *ANSWERS)
    needs = (_PROMPTS, _ANSWERS)
    fields = ("prompt", "completion")

    def recognises(self, keys: Set[str]) -> bool:
        return super().recognises(keys) and not ("text" in keys and "label" in keys)

    def read(self, row: JsonObject, spec: TaskSpec, turns: Turns) -> set[str]:
        prompt_key, answer_key = first_key(row, _PROMPTS) or "prompt", first_key(row, _ANSWERS) or "completion"
        return base.read_single_texts(row, prompt_key, answer_key, spec, turns) | base.read_history(row, turns)
