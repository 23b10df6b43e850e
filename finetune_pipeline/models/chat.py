"""Encodes chat messages as tokens, with loss on assistant tokens only; training and serving use the same text.

The model's own template is used. Answer tokens are found by rendering: the tokens of the prompt (with the generation
prompt) must be a proper prefix of the tokens of prompt and answer. Otherwise the model would be trained on a text that it
never sees when served. Control tokens in message contents are plain text (:mod:`.control_tokens`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from finetune_pipeline.data.examples import Message, Tool
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat_templates import generation_ends
from finetune_pipeline.models.control_tokens import Conversation, token_ids, write
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import base_error

KNOWS_TOOLS = "Qwen/Qwen2.5-0.5B-Instruct"
"""A small model whose chat template writes tools, their calls and their results, for the fix of a finding."""
Tools = Sequence[Tool] | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens. loss[i]: whether token i has loss (is predicted from the tokens before it).
    label: of a classifier's row, which is a prompt; its class is predicted from all its tokens."""

    id: str
    ids: list[int]
    loss: list[bool]
    label: str | None = None

    @property
    def learned(self) -> int:
        """Number of predictions with loss: tokens, or one class."""
        return sum(self.loss) if self.label is None else 1


def end_ids(tokenizer: Any) -> set[int]:
    """Return the tokens that end an answer: EOS and those :func:`..loading.load_tokenizer` found in the generation config."""
    tokens = {tokenizer.eos_token_id, *getattr(tokenizer, "end_token_ids", ())}
    return {int(t) for t in tokens if t is not None}


def for_template(message: Message) -> dict[str, object]:
    """Convert a turn to the form that templates expect: tool-call arguments as objects, without our own keys."""
    turn: dict[str, object] = {k: v for k, v in message.items() if k != "weight"}
    if calls := message.get("tool_calls"):
        turn["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _parsed_arguments(call["function"]["arguments"])}}
            for call in calls
        ]
    return turn


def _parsed_arguments(arguments: Any) -> Any:
    """Parse a tool call's arguments, which may be JSON text; return them unchanged if they are not JSON."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


def render(tokenizer: Any, messages: Sequence[Message], generation: bool = False, tools: Tools = None) -> str:
    """Render a conversation as text; generation: add the generation prompt, which begins an answer.
    Raises FindingsError if the template refuses the messages."""
    return rendered(tokenizer, messages, generation, tools).text


def rendered(
    tokenizer: Any, messages: Sequence[Message], generation: bool = False, tools: Tools = None
) -> Conversation:
    """Render a conversation for :func:`token_ids`. Arguments and errors are those of :func:`render`."""
    try:
        turns = [for_template(m) for m in messages]
        return write(tokenizer, turns, generation=generation, tools=list(tools) if tools else None)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        message = f"the model's chat template cannot render this conversation: {error}"
        fix = "change the example, or use a model whose template supports these turns"
        raise FindingsError([Finding("chat.template_refuses", "error", "example ?", message, fix)]) from error


def common_prefix(texts: Sequence[list[int]], limit: int | None = None) -> int:
    """Return the number of leading tokens that all texts share: at most `limit`, and less than the length of every text."""
    if not texts:
        return 0
    first, last = min(texts), max(texts)  # what the lexically first and last share, all share
    longest = max(0, len(first) - 1 if limit is None else min(limit, len(first) - 1))
    return next((i for i in range(longest) if first[i] != last[i]), longest)


def to_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenize a trusted text, parsing special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(tokenizer: Any, messages: Sequence[Message], tools: Tools = None) -> list[int]:
    """Tokenize `messages` (ending with a user or tool turn) with the generation prompt, as in serving."""
    return token_ids(tokenizer, rendered(tokenizer, messages, True, tools))


class _Turn(NamedTuple):
    """An assistant turn with loss: tokens of prompt and answer as in serving. The answer is ids[start:end]."""

    ids: list[int]
    start: int
    end: int


def _encode_turn(
    tokenizer: Any, messages: Sequence[Message], i: int, tools: Tools, full: tuple[str, list[int]]
) -> _Turn:
    """Encode messages[i], an assistant turn with loss, after the messages before it.

    full: text and tokens of the whole conversation. Raises FindingsError if the turn's prompt is not a proper prefix, or if the
    template drops its content.
    """
    prompt_rendering = rendered(tokenizer, messages[:i], True, tools)
    prompt = token_ids(tokenizer, prompt_rendering)
    text, ids = full
    if i < len(messages) - 1:
        rendering = rendered(tokenizer, messages[: i + 1], False, tools)
        text, ids = rendering.text, token_ids(tokenizer, rendering)
    end = _end_of_answer(tokenizer, prompt, ids, i)
    answer_rendering = text[len(prompt_rendering.text) :]
    answer_text = messages[i]["content"].rpartition("</think>")[2].strip()  # templates format thoughts differently
    called_functions = [call["function"]["name"] for call in messages[i].get("tool_calls") or []]
    if answer_text not in answer_rendering:
        raise FindingsError([_content_lost(f"turn {i + 1}", "the assistant's text")])
    if any(name not in answer_rendering for name in called_functions):
        raise FindingsError([_content_lost(f"turn {i + 1}", "a tool call", True)])
    return _Turn(ids, len(prompt), end)


def _encode_turns(tokenizer: Any, messages: Sequence[Message], tools: Tools) -> tuple[list[int], list[_Turn]]:
    """Return (tokens of the whole conversation, its turns with loss). Raises FindingsError like :func:`encode_example`."""
    full = rendered(tokenizer, messages, False, tools)
    for i, message in enumerate(messages):
        content = message["content"].strip()
        quoted = json.dumps(content, ensure_ascii=False)  # as Llama 3.1 and gpt-oss write the results of tools
        if message["role"] != "assistant" and content not in full.text and quoted not in full.text:
            raise FindingsError(
                [_content_lost(f"turn {i + 1}", f"the text of the {message['role']}", message["role"] == "tool")]
            )
    if tools and render(tokenizer, messages, False) == full.text:
        raise FindingsError([_content_lost("tools", "the list of tools", True)])
    ids = token_ids(tokenizer, full)
    turns = [
        _encode_turn(tokenizer, messages, i, tools, (full.text, ids))
        for i, m in enumerate(messages)
        if m["role"] == "assistant" and m.get("weight") != 0
    ]
    return ids, turns


def encode_example(
    tokenizer: Any, messages: Sequence[Message], example_id: str = "", tools: Tools = None
) -> list[Encoded]:
    """Encode a conversation as training rows: one row, with loss on all assistant turns (except those of weight 0) and their
    end-of-turn tokens. Text that the template adds after these (a line break in ChatML) has no loss: generation has
    stopped by then.

    If the template changes earlier turns when later ones follow (Qwen3 drops their thoughts), each turn becomes a row of its
    own, exactly as served at that turn. Raises FindingsError, naming the example, if the template refuses it, leaves
    something out, or renders a turn differently in training than in serving.
    """
    try:
        full, turns = _encode_turns(tokenizer, messages, tools)
    except FindingsError as error:
        place = f"example {example_id or '?'}"
        raise FindingsError(
            replace(f, place=f"{place}, {f.place}" if f.place.startswith("turn") else place) for f in error.findings
        ) from error
    if all(full[: len(turn.ids)] == turn.ids for turn in turns):
        loss = [False] * len(full)
        for turn in turns:
            loss[turn.start : turn.end] = [True] * (turn.end - turn.start)
        return [Encoded(example_id, full, loss)]
    return [Encoded(example_id, turn.ids, [turn.start <= i < turn.end for i in range(len(turn.ids))]) for turn in turns]


def _mismatch(tokenizer: Any, prompt: list[int], full: list[int], turn: int) -> Finding:
    index = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    texts = " against ".join(repr(tokenizer.decode(ids[index : index + 4])) for ids in (prompt, full))
    message = "the chat template renders a different text for serving than for training: they differ from token "
    message += f"{index} on ({texts})"
    fix = "use a chat template whose generation prompt is the start of an assistant turn"
    if "</think>" in texts:
        fix = "remove the reasoning from the answers, or copy the model's own template to a file and name it in chat_template"
    return Finding("chat.template_mismatch", "error", f"turn {turn + 1}", message, fix)


def _content_lost(place: str, content: str, is_tool: bool = False) -> Finding:
    message = f"the model's chat template leaves out {content}"
    model = f"set base_model: {KNOWS_TOOLS}, or another" if is_tool else "use a model"
    fix = f"{model} whose template supports such turns; or set chat_template, or remove these examples"
    return Finding("chat.content_lost", "error", place, message, fix)


def encode_answer(
    tokenizer: Any, prompt_messages: Sequence[Message], answer: str | Message, tools: Tools = None
) -> list[int]:
    """Tokenize `answer` (text, or an assistant message) in the context of that prompt, up to and including the end-of-turn
    token.

    Raises FindingsError if the prompt is not a proper prefix of prompt and answer.
    """
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    prompt = encode_prompt(tokenizer, prompt_messages, tools)
    full = token_ids(tokenizer, rendered(tokenizer, [*prompt_messages, message], False, tools))
    return full[len(prompt) : _end_of_answer(tokenizer, prompt, full, len(prompt_messages))]


def _end_of_answer(tokenizer: Any, prompt: list[int], ids: list[int], turn: int) -> int:
    """Return the end of the answer in `ids`: after its first end token, or the end of `ids` without one. Raises FindingsError
    if the prompt is not a proper prefix."""
    start, ends = len(prompt), end_ids(tokenizer)
    if ids[:start] != prompt or len(ids) <= start:
        raise FindingsError([_mismatch(tokenizer, prompt, ids, turn)])
    return next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), len(ids))


def end_of_turn_token(tokenizer: Any) -> str:
    """Return the first special token that the template writes after an answer. Raises FindingsError if there is none, and like
    :func:`render`."""
    answer = "an answer"
    turns: list[Message] = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": answer}]
    text_after_answer = render(tokenizer, turns).rpartition(answer)[2]
    backend = tokenizer.backend_tokenizer
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    end = next((t for t in backend.encode(text_after_answer, add_special_tokens=False).tokens if t in special), None)
    if end is None:
        ending = f"without a special token (it writes {text_after_answer!r})"
        message = f"the template ends an assistant turn {ending}: the model would not learn to stop"
        fix = "end the assistant's turns with the end-of-sequence token, {{ eos_token }}"
        raise FindingsError([Finding("model.template_without_end", "error", "task.yaml: chat_template", message, fix)])
    return str(end)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder or artifact; without a pad token, EOS is used for padding. Of several chat templates
    it has ``default``, like :func:`..chat_templates.own_template`.

    ``end_token_ids`` of the result: the end tokens of the folder's generation config. Instruct models often end a turn
    with a different token than the tokenizer's EOS (Gemma 3: ``<end_of_turn>``).
    Raises FindingsError if its files cannot be read.
    """
    from transformers import AutoTokenizer

    source = model_folder(folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # libraries raise anything for files they do not understand
        raise unusable("tokenizer", source, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if isinstance(tokenizer.chat_template, dict):  # another template for rows with tools would be in no other place
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    tokenizer.end_token_ids = generation_ends(source)
    return tokenizer


def unusable(part: str, folder: Path, error: Exception) -> FindingsError:
    """Return the error for the part (model, tokenizer) of a model folder that its library cannot load."""
    reason = " ".join(str(error).split()) or type(error).__name__
    message = f"the {part} in {folder.name!r} cannot be loaded: {reason:.300}"
    fix = "fetch the model again, all its files; or use an unquantized model of a family that transformers knows"
    return base_error(message, fix, part)
