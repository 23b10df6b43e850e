"""Loads the tokenizer of a model folder, with what ends an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.models.identity import model_folder


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder or artifact; where it has no pad token, EOS pads.

    ``end_token_ids`` of the result: the end tokens of the folder's generation config. Instruct models often end a turn
    with another token than the tokenizer's EOS (Gemma 3: ``<end_of_turn>``).
    """
    from transformers import AutoTokenizer

    source = model_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    path = source / "generation_config.json"
    told = read_json(path).get("eos_token_id") if path.exists() else None
    tokenizer.end_token_ids = told if isinstance(told, list) else [] if told is None else [told]
    return tokenizer
