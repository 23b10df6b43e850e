"""Reads a base model's sizes from config.json and the headers of its weight files, without loading it."""

import math
from collections.abc import Mapping
from pathlib import Path

from finetune_pipeline.models.model_files import (
    EMBEDDINGS,
    HEADS,
    StoredTensor,
    read_config,
    stored_tensors,
    text_settings,
)
from finetune_pipeline.spec.methods.base import Linear, ModelShape
from finetune_pipeline.spec.methods.low_rank import expert_blocks

_PADDED = ("deepseek_v3", "falcon", "falcon_h1", "gpt_oss", "nemotron", "stablelm")
"""Architectures whose batches training pads, as its trial (training.shared_prefix) refuses to pack them."""


def model_shape(folder: Path) -> ModelShape:
    """Return the exact shape of the model in a transformers folder, from the tensor sizes in the file headers."""
    config = read_config(folder)
    tensors = stored_tensors(folder)
    text = text_settings(config)
    kind = str(text.get("model_type", "llama"))
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind.startswith("gemma"))))
    linears, embedding, head, other = _by_role(tensors, tied)
    kinds = text.get("layer_types") or ["full_attention"]
    return ModelShape(
        layers=text["num_hidden_layers"],
        hidden=hidden,
        inner=text.get("intermediate_size") or 4 * hidden,
        vocabulary=text["vocab_size"],
        heads=heads,
        key_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or hidden // heads,
        linears=linears,
        embedding=embedding,
        head=head,
        other=other,
        packs=kind not in _PADDED
        and not text.get("attention_dropout")
        and not text.get("attn_logit_softcapping")
        and set(kinds) <= {"full_attention", "sliding_attention"},
        stored_bytes=sum(tensor.size for tensor in tensors.values()),
    )


def _by_role(tensors: Mapping[str, StoredTensor], tied: bool) -> tuple[tuple[Linear, ...], int, int, int]:
    """Return (linear layers of the blocks; parameters of the embedding, of a separate head, of everything else)."""
    linears, embedding, head, other = [], 0, 0, 0
    blocks = expert_blocks(tensors)
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        leaf = module.rpartition(".")[2]
        size = math.prod(tensor.shape)
        if name.endswith(EMBEDDINGS):
            embedding += size
        elif name.endswith(HEADS):
            head += 0 if tied else size  # some files contain the tied matrix twice
        elif (
            part == "weight" and "embed" not in leaf and len(tensor.shape) == 2 and blocks.isdisjoint(module.split("."))
        ):
            linears.append(Linear(module, tensor.shape[1], tensor.shape[0]))
        else:
            other += size
    return tuple(linears), embedding, head, other
