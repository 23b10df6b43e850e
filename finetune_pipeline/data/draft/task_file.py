"""Writes task.yaml: the keys that matter, each with what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from finetune_pipeline.data.draft.draft import Draft
from finetune_pipeline.spec.loading import parse_spec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import STUB
from finetune_pipeline.spec.training import TrainingSpec

_WIDTH = 1 << 20


def task_yaml(name: str, draft: Draft, files: str, min_per_label: int | None = None) -> str:
    """The text of task.yaml.

    Args:
        name: Of the task.
        draft: What its files hold.
        files: They, for the first line.
        min_per_label: Where the default is more than the rarest label has.
    """
    data = {k: v for k, v in draft.data.items() if v not in ({}, None)}
    defaults, training = TaskSpec.model_fields, TrainingSpec()
    described = "write down" if STUB in draft.system_prompt else "look at"
    lines = [
        f"# Drafted by `finetune init` from {files}. `finetune show {name}` prints every setting, `finetune schema` says",
        "# what is allowed.",
        f"name: {name}",
        f"description: {_scalar(_description(draft))}  # say what the model is for",
        f"base_model: {defaults['base_model'].default}  # or a folder, or a Hub id",
        f"# System prompt of every input, in training and in production: {described} what each line means.",
        f"system_prompt: {_block(draft.system_prompt)}",
        "output:",
        *_output(draft),
        "data:",
        "  raw: [raw/*]",
        *(f"  {key}: {_flow(value)}" for key, value in data.items()),
    ]
    if draft.answers.kind == "labels":
        default = draft.spec.data.min_per_label
        least = f"the rarest label has few rows; the default is {default}"
        lines.append(f"  min_per_label: {min_per_label or default}" + (f"  # {least}" if min_per_label else ""))
    lines += [
        f"  min_examples: {draft.spec.data.min_examples}  # fewer clean rows stop the pipeline",
        "training:",
        f"  method: {training.method}  # qlora, lora, full, prefix or prompt: `finetune plan {name}` compares them",
        f"  epochs: {training.epochs:g}",
    ]
    text = "\n".join(lines) + "\n"
    if parse_spec(text).system_prompt != draft.system_prompt:  # a text that a block of YAML cannot hold
        text = text.replace(
            f"system_prompt: {_block(draft.system_prompt)}", f"system_prompt: {_scalar(draft.system_prompt)}"
        )
    parse_spec(text)
    return text


def _description(draft: Draft) -> str:
    choice = draft.choice
    if choice.chat:
        return "Answer as the conversations do."
    return f"Tell {choice.answer} from {choice.text}."


def _output(draft: Draft) -> list[str]:
    answers, output = draft.answers, draft.output
    lines = [f"  kind: {output['kind']}  # labels, json (extraction) or text"]
    if answers.kind == "labels":
        lines += ["  labels:", *(f"    - {_scalar(label)}  # {answers.counts[label]} rows" for label in answers.labels)]
    return lines + [f"  {key}: {_flow(value)}" for key, value in output.items() if key not in ("kind", "labels")]


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and set(value) & set("{}[],"):
        return _quoted(value)
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, allow_unicode=True, width=_WIDTH).removesuffix("\n").removesuffix("\n...")
    return text if "\n" not in text else _quoted(value)


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, allow_unicode=True, width=_WIDTH, default_style='"').rstrip("\n")


def _block(text: str) -> str:
    """A text as a block that keeps its lines; in quotes where a block would change it."""
    if text != text.strip() or (not text.isprintable() and not text.replace("\n", "").isprintable()):
        return _quoted(text)
    return "|-\n" + "\n".join(f"  {line}" if line else "" for line in text.split("\n"))
