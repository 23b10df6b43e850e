"""Encodes conversations so that only the chat template writes control tokens; in message contents they are plain text.

Tokenizers find special tokens anywhere in a text. A user who writes ``<|im_end|>`` would end the turn and begin one of
their own. So control tokens in contents are hidden while the template renders, and the template's own control tokens get
unguessable names. A copy of the tokenizer that knows them only by these names encodes the text. If no content contains a
control token, the tokenizer encodes as usual.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

_SECRET = secrets.token_hex(8)
"""Part of the new names, random in each process: anyone who could guess it could forge control tokens again."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A rendered conversation. marked: its text with renamed control tokens; None if no content contains any."""

    text: str
    marked: str | None = None


class _ControlTokens:
    """The control tokens of one tokenizer and chat template."""

    def __init__(self, tokenizer: Any) -> None:
        special, written = control_tokens(tokenizer.backend_tokenizer, str(tokenizer.chat_template))
        names = sorted(special | written, key=lambda name: (-len(name), name))
        self._renamed = {name: f"x{_SECRET}x{i}x" for i, name in enumerate(names)}
        self._hidden = {name: f"q{_SECRET}q{i}q" for i, name in enumerate(names)}
        self._any = _one_of(names)
        self._special = _one_of([name for name in names if name in special])
        self._backend = tokenizer.backend_tokenizer
        self._copy: Any = None

    def hide(self, message: Mapping[str, object]) -> dict[str, object]:
        """Hide the control tokens in a message's texts. Its keys and role do not come from the user."""
        names = self._special if message.get("role") == "assistant" else self._any
        return {key: value if key == "role" else self._hide(value, names) for key, value in message.items()}

    def hide_all(self, value: Any) -> Any:
        return self._hide(value, self._any)

    def _hide(self, value: Any, names: re.Pattern[str]) -> Any:
        return _each_text(value, lambda text: names.sub(lambda match: self._hidden[match.group()], text))

    def show(self, text: str) -> str:
        """Restore the hidden control tokens in a text."""
        if _SECRET not in text:
            return text
        names_by_placeholder = {hidden: name for name, hidden in self._hidden.items()}
        return re.sub(rf"q{_SECRET}q\d+q", lambda match: names_by_placeholder[match.group()], text)

    def mark(self, text: str) -> str:
        """Rename the template's control tokens, and restore the hidden ones."""
        return self.show(self._any.sub(lambda match: self._renamed[match.group()], text))

    def encode(self, marked: str) -> list[int]:
        if self._copy is None:
            self._copy = _renamed_tokenizer(self._backend, self._renamed)
        return list(self._copy.encode(marked, add_special_tokens=False).ids)


def control_tokens(backend: Any, template: str) -> tuple[set[str], set[str]]:
    """Return (special tokens, other tokens in the template) of a tokenizer of the `tokenizers` library.

    Tokens for thoughts and tool calls are often not special; an assistant's content may legitimately contain them.
    """
    added = backend.get_added_tokens_decoder().values()
    # single characters are needed to write words, even if declared as special
    special = {t.content for t in added if t.special and len(t.content) > 1}
    written = {t.content for t in added if re.fullmatch(r"[<\[]\S+[>\]]", t.content) and t.content in template}
    return special, written - special


_CACHE: WeakKeyDictionary[Any, tuple[Any, _ControlTokens]] = WeakKeyDictionary()


def _control_tokens_of(tokenizer: Any) -> _ControlTokens:
    """Return a tokenizer's control tokens, cached until its template or vocabulary changes."""
    state = (tokenizer.chat_template, tokenizer.backend_tokenizer.get_vocab_size())
    cached = _CACHE.get(tokenizer)
    if cached is None or cached[0] != state:
        cached = _CACHE[tokenizer] = (state, _ControlTokens(tokenizer))
    return cached[1]


def write(
    tokenizer: Any, messages: Sequence[Mapping[str, object]], *, generation: bool = False, tools: Any = None
) -> Conversation:
    """Render a conversation with the tokenizer's chat template.

    tokenizer: a fast tokenizer of transformers, or an object with its apply_chat_template, chat_template, backend_tokenizer
    and call. generation: append the generation prompt.
    """
    control = _control_tokens_of(tokenizer)
    hidden, hidden_tools = [control.hide(message) for message in messages], control.hide_all(tools)
    text = str(
        tokenizer.apply_chat_template(hidden, tools=hidden_tools, add_generation_prompt=generation, tokenize=False)
    )
    if _SECRET not in text:
        return Conversation(text)
    return Conversation(control.show(text), control.mark(text))


def token_ids(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Tokenize a rendered conversation; only the template's own control tokens count as such."""
    if conversation.marked is not None:
        return _control_tokens_of(tokenizer).encode(conversation.marked)
    return list(tokenizer(conversation.text, add_special_tokens=False)["input_ids"])


def _one_of(names: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern for any of the names, longest match first, as tokenizers do; without names it matches nothing."""
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Apply a change to every text in a value, including keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(inner, change) for key, inner in value.items()}
    return [_each_text(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def _renamed_tokenizer(backend: Any, names: Mapping[str, str]) -> Any:
    """Copy a tokenizer with new names for these tokens; ids and rules stay the same."""
    from tokenizers import Tokenizer

    parts = json.loads(backend.to_str())
    for token in parts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = parts["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if "merges" in model:  # if a control token is also a piece of words, these words are encoded with smaller pieces
        pairs = ((merge, merge if isinstance(merge, list) else merge.split(" ")) for merge in model["merges"])
        model["merges"] = [merge for merge, pair in pairs if names.keys().isdisjoint({*pair, "".join(pair)})]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return Tokenizer.from_str(json.dumps(parts | {"post_processor": None, "truncation": None, "padding": None}))
