"""What a base model's files say about its chat template: has it one, can it write the task's, was it trained on its marks?

No torch and no model library: the tokenizer's own file, its configuration, and rows of the embedding matrix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from finetune_pipeline.findings import Finding
from finetune_pipeline.models.chat_templates import NAMED, marks, missing_marks, own_template, usable
from finetune_pipeline.models.identity import tensor_header, weight_files


def no_template(name: str, choices: Sequence[str]) -> Finding:
    """The refusal of a base model without a chat template; choices: names of templates it can write, the best first."""
    message = "the tokenizer has no chat template: this is a base model, trained to continue texts, not to answer"
    fix = (
        f"start from the model's instruct version; or set chat_template: {choices[0]} (what its vocabulary can "
        f"write: {', '.join(choices)}), and expect to need more examples"
    )
    return Finding("model.no_chat_template", "error", f"model {name}", message, fix)


def missing_tokens(name: str, missing: Sequence[str], choices: Sequence[str]) -> Finding:
    """The refusal of a template whose marks are no tokens of the base."""
    message = f"{name} has no tokens {', '.join(missing)}, which the template writes; added ones would stay untrained"
    fix = f"set chat_template to one of: {', '.join(choices)}; or use the model's instruct version"
    return Finding("model.template_tokens", "error", "task.yaml: chat_template", message, fix)


def given_template(name: str, had: bool) -> Finding:
    """The warning about a template of the task; had: whether the model has one of its own."""
    if had:
        message = "has a chat template of its own, which chat_template in task.yaml replaces"
        fix = "remove chat_template, unless you know that the model was trained with the other one"
    else:
        message = "is a base model without a chat template: it has never seen the turns it is to write"
        fix = "start from the instruct version of this model if there is one; it needs fewer examples"
    return Finding("model.template_from_task", "warning", f"model {name}", f"{name} {message}", fix)


def untrained_marks(name: str, tokens: Sequence[str]) -> Finding:
    """The warning about marks that are tokens of the base and were never trained."""
    message = (
        f"{', '.join(tokens)} are in the vocabulary of {name} but were never trained: their embeddings are those of unused "
        "tokens, and adapters do not train embeddings"
    )
    fix = "set chat_template: none, whose only mark is the end-of-sequence token; or train with method: full"
    return Finding("model.untrained_tokens", "warning", "task.yaml: chat_template", message, fix)


def endless(behind: str) -> Finding:
    """The refusal of a template that ends no turn; behind: what it writes after an answer."""
    message = (
        f"the template ends an assistant turn without a special token (it writes {behind!r}): the model would not learn to "
        "stop"
    )
    fix = "end the assistant's turns with the end-of-sequence token, {{ eos_token }}"
    return Finding("model.template_without_end", "error", "task.yaml: chat_template", message, fix)


def advisable(folder: Path, vocabulary: dict[str, int]) -> list[str]:
    """Names of the templates the vocabulary can write, those whose marks were never trained last."""
    names = usable(vocabulary)
    return sorted(names, key=lambda name: bool(untrained_tokens(folder, vocabulary, marks(NAMED[name]))))


def template_findings(folder: Path, template: str | None, name: str, tokenizer: Tokenizer) -> list[Finding]:
    """Errors and warnings about using the model folder with `template` (None: its own), before anything is loaded."""
    own = own_template(folder)
    if template is None:
        return [] if own else [no_template(name, advisable(folder, tokenizer.get_vocab()))]
    vocabulary = tokenizer.get_vocab()
    missing = missing_marks(template, vocabulary)
    if missing:
        return [missing_tokens(name, missing, usable(vocabulary))]
    untrained = untrained_tokens(folder, vocabulary, marks(template))
    return [given_template(name, bool(own)), *([untrained_marks(name, untrained)] if untrained else [])]


_PLACEHOLDER = re.compile(r"unused|reserved|placeholder|extra_?\d|dummy", re.IGNORECASE)
_SAMPLE = 64
_ALIKE = 0.5
"""Mean cosine of unused tokens with their common direction, from which they are taken to have one."""
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def untrained_tokens(folder: Path, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` whose embedding lies nearer to the vocabulary's unused tokens than to its words.

    Reads single rows of the embedding matrix. Empty where the vocabulary has no unused tokens to compare with, or where
    those have no direction in common.
    """
    if not tokens:
        return []
    unused = sorted(t for t in vocabulary if _PLACEHOLDER.search(t) and t not in tokens)[:_SAMPLE]
    words = sorted(t for t in vocabulary if t.isascii() and t.strip("Ġ▁ ").isalpha())
    words = words[:: max(1, len(words) // _SAMPLE)][:_SAMPLE]
    matrix = _embedding(folder)
    if matrix is None or len(unused) < 4 or len(words) < 4:
        return []

    def rows(names: Sequence[str]) -> np.ndarray:
        return _unit(_floats(matrix[[vocabulary[n] for n in names]]))

    direction = _unit(rows(unused).mean(0))
    alike, apart = float((rows(unused) @ direction).mean()), float((rows(words) @ direction).mean())
    if alike < _ALIKE:
        return []
    near = rows(tokens) @ direction > (alike + apart) / 2
    return [token for token, yes in zip(tokens, near.tolist(), strict=True) if yes]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _floats(stored: np.ndarray) -> np.ndarray:
    """float32 of stored numbers; bfloat16, which numpy does not know, is the upper half of a float32."""
    if stored.dtype == np.dtype("<u2"):
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _embedding(folder: Path) -> Any:
    """The embedding matrix as numbers on disk (bfloat16 as whole numbers of 16 bits), or None."""
    for file in weight_files(folder):
        header, data = tensor_header(file)
        for name, entry in header.items():
            if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight")) and entry["dtype"] in _STORED:
                start = data + entry["data_offsets"][0]
                return np.memmap(file, _STORED[entry["dtype"]], "r", start, tuple(entry["shape"]))
    return None
