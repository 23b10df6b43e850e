"""Converts a tokenizer to GGUF's form: tokens, types, merge ranks, and llama.cpp's pre-tokenizer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import load_tokenizer

_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPLITS = {
    rf"{_SHORT}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_SHORT}|{_WORDS}|\p{{N}}|{_REST}": "qwen2",
}
"""llama.cpp's names for the ways a byte-level tokenizer splits text into words."""


def refused(rule: str, message: str, fix: str = "export it --for vllm or transformers") -> FindingsError:
    return FindingsError([Finding(f"gguf.{rule}", "error", "finetune export", message, fix)])


def add_tokenizer(writer: Any, folder: Path, vocabulary: int, stop_ids: Sequence[int]) -> None:
    """Write the tokenizer of a model folder; vocabulary: rows of the embedding. Leaves out tokens beyond it, which the model
    cannot read (Gemma 3's for images). Raises FindingsError if llama.cpp has no tokenizer that splits text in the same way."""
    from gguf import TokenType

    stored, loaded = read_json(folder / "tokenizer.json"), load_tokenizer(folder)
    pairs = stored["model"]
    if pairs["type"] != "BPE":
        raise refused("tokenizer", f"a tokenizer of type {pairs['type']} cannot be written as GGUF")
    byte_fallback = bool(pairs.get("byte_fallback"))
    merges = [m if isinstance(m, str) else " ".join(m) for m in pairs["merges"]]
    tokens, types = [f"[PAD{i}]" for i in range(vocabulary)], [int(TokenType.UNUSED)] * vocabulary
    for token, i in pairs["vocab"].items():
        is_byte = byte_fallback and re.fullmatch(r"<0x[0-9A-F]{2}>", token)
        tokens[i], types[i] = token, int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in stored["added_tokens"]:
        if added["id"] < vocabulary:
            kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
            tokens[added["id"]], types[added["id"]] = added["content"], int(kind)
    writer.add_tokenizer_model("llama" if byte_fallback else "gpt2")  # SentencePiece's pairs, or byte-level ones
    writer.add_tokenizer_pre("default" if byte_fallback else _pre_tokenizer_name(stored.get("pre_tokenizer")))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if byte_fallback:
        rank: dict[str, int] = {}
        for i, merge in enumerate(merges):
            rank.setdefault(merge.replace(" ", "", 1), i)
        writer.add_token_scores([-float(rank.get(token, len(merges))) for token in tokens])
        writer.add_add_space_prefix(_adds_leading_space(stored))
    else:
        writer.add_token_merges(merges)
    if loaded.bos_token_id is not None:
        writer.add_bos_token_id(loaded.bos_token_id)
    if loaded.unk_token_id is not None:
        writer.add_unk_token_id(loaded.unk_token_id)
    writer.add_add_bos_token(_adds_bos(loaded))
    ends = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, token in zip(ends, stop_ids, strict=False):
        add(token)


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its begin-of-sequence token before a text."""
    ids_without_bos, ids = (tokenizer("x", add_special_tokens=specials)["input_ids"] for specials in (False, True))
    return len(ids) > len(ids_without_bos) and ids[0] == tokenizer.bos_token_id


def leading_token(folder: Path) -> str:
    """Return the text of the token that llama.cpp puts before every prompt of this model folder; empty if none."""
    tokenizer = load_tokenizer(folder)
    return str(tokenizer.bos_token) if _adds_bos(tokenizer) else ""


def _pre_tokenizer_name(settings: Mapping[str, Any] | None) -> str:
    """Return llama.cpp's name for how a byte-level tokenizer splits text before it merges pairs."""
    parts = list((settings or {}).get("pretokenizers", [settings] if settings else []))
    kinds = [part["type"] for part in parts]
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        name = _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
    elif kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1].get("use_regex", True):
        name = "smollm"
    else:
        name = "gpt-2" if kinds == ["ByteLevel"] and parts[0].get("use_regex", True) else None
    if name is None:
        message = "its tokenizer splits text in a way that llama.cpp may not support"
        raise refused("tokenizer", message)
    return name


def _adds_leading_space(stored: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece tokenizer puts a space before the first word."""
    steps = []
    for settings in (stored.get("normalizer"), stored.get("pre_tokenizer")):
        for part in (settings or {}).get("normalizers") or (settings or {}).get("pretokenizers") or [settings or {}]:
            steps.append((part.get("type"), part.get("prepend_scheme", "never")))
    return any(kind == "Prepend" or (kind == "Metaspace" and scheme != "never") for kind, scheme in steps)
