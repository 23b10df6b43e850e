"""What a model reads when it is asked, as text: for people who serve it without a chat endpoint."""

from __future__ import annotations

from pathlib import Path

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.models.base_template import own_template
from finetune_pipeline.models.template_engine import compile_template

USER_TEXT = "{text}"
"""Stands where the user's text comes."""


def prompt_text(folder: Path, system_prompt: str) -> str | None:
    """The prompt of a model folder's chat template for one user's turn; None where there is no template.

    Raises jinja2.TemplateError where the template refuses a system turn and a user's.
    """
    template, config = own_template(folder), folder / "tokenizer_config.json"
    if template is None:
        return None
    told = read_json(config) if config.is_file() else {}
    special = {k: v["content"] if isinstance(v, dict) else v for k, v in told.items() if k.endswith("_token") and v}
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages = [*turns, {"role": "user", "content": USER_TEXT}]
    return str(compile_template(template).render(messages=messages, add_generation_prompt=True, **special))
