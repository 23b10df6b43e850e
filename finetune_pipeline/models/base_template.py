"""What a base model's files say about its chat template: has it one, can it write the task's, was it trained on its marks?

No torch and no model library: the tokenizer's own file, its configuration, and rows of the embedding matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.chat_templates import NAMED, marks, missing_marks, usable
from finetune_pipeline.models.untrained import untrained_tokens


def own_template(folder: Path) -> str | None:
    """The chat template a model folder brings, or None. Of several in tokenizer_config.json, the one called ``default``."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text("utf-8")
    path = folder / "tokenizer_config.json"
    told = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(told, list):
        told = {entry["name"]: entry["template"] for entry in told}.get("default")
    return told or None


def no_template(name: str, choices: Sequence[str]) -> Finding:
    """The refusal of a base model without a chat template; choices: names of templates it can write, the best first."""
    return Finding(
        "model.no_chat_template",
        "error",
        f"model {name}",
        "the tokenizer has no chat template: this is a base model, trained to continue texts, not to answer",
        f"start from the model's instruct version; or set chat_template: {choices[0]} (what its vocabulary can "
        f"write: {', '.join(choices)}), and expect to need more examples",
    )


def missing_tokens(name: str, missing: Sequence[str], choices: Sequence[str]) -> Finding:
    """The refusal of a template whose marks are no tokens of the base."""
    return Finding(
        "model.template_tokens",
        "error",
        "task.yaml: chat_template",
        f"{name} has no tokens {', '.join(missing)}, which the template writes; added ones would stay untrained",
        f"set chat_template to one of: {', '.join(choices)}; or use the model's instruct version",
    )


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
    return Finding(
        "model.untrained_tokens",
        "warning",
        "task.yaml: chat_template",
        f"{', '.join(tokens)} are in the vocabulary of {name} but were never trained: their embeddings are those of unused "
        "tokens, and adapters do not train embeddings",
        "set chat_template: none, whose only mark is the end-of-sequence token; or train with method: full",
    )


def endless(behind: str) -> Finding:
    """The refusal of a template that ends no turn; behind: what it writes after an answer."""
    return Finding(
        "model.template_without_end",
        "error",
        "task.yaml: chat_template",
        f"the template ends an assistant turn without a special token (it writes {behind!r}): the model would not learn to "
        "stop",
        "end the assistant's turns with the end-of-sequence token, {{ eos_token }}",
    )


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
