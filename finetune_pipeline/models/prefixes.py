"""Prefix tuning without PEFT: a model whose key-value cache is filled before it reads the prompt.

Prefix tuning trains keys and values of every layer, which cannot be stored as rows of any weight. So the adapter stays
separate, and prediction starts from a cache that contains it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.engine.files import digest_file, read_json
from finetune_pipeline.models.checkpoint import Checkpoint, Copy, write_record
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_pipeline.models.streaming import TensorFile


def prefix_reference(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> dict[str, Any]:
    """Write a copy of a prefix `adapter` to out/adapter, and its base to out/model.json.

    The record's path points to the adapter, which is not a model folder: code that does not support prefixes fails instead of
    loading the plain base. float32 has no effect.
    """
    source, target = model_folder(base), out / "adapter"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(adapter / name, target / name)
    checkpoint = Checkpoint(source)
    digests = {f"adapter/{p.name}": digest_file(p) for p in sorted(target.iterdir())}
    files = {f.path.name: digest_file(f.path) for f in checkpoint.files} | digests
    dtype, sha256 = Copy.of(checkpoint).dtypes, digests[f"adapter/{ADAPTER_WEIGHTS}"]
    return write_record(out, "adapter", base, files, kind="prefix", dtype=dtype, adapter_sha256=sha256)


class PrefixedModel:
    """A model whose cache begins with trained keys and values in every layer; called like models of transformers.
    Callers pass masks and positions of their own tokens only: this class adds the prefix, and fills an empty cache first."""

    def __init__(self, model: Any, adapter: Path) -> None:
        config = read_json(adapter / ADAPTER_CONFIG)
        self.model, self.config, self.generation_config = model, model.config, model.generation_config
        flat = TensorFile(adapter / ADAPTER_WEIGHTS).tensor("prompt_embeddings").float()
        layers, heads = int(config["num_layers"]), int(config["num_attention_heads"])
        self.tokens = len(flat)
        # [2 * layers, heads, tokens, d]: keys and values of each layer in turn
        parts = flat.view(self.tokens, 2 * layers, heads, -1).permute(1, 2, 0, 3).to(model.dtype).to(model.device)
        self._parts = parts.view(layers, 2, *parts.shape[1:])

    def rows_at_once(self, batch_size: int, longest: int) -> int:
        """Return how many rows of up to `longest` tokens may be read together: `batch_size`, or 1 if a sliding window ends
        within them, since it counts the padding between the prefix and a row's own tokens."""
        from transformers import DynamicCache

        windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=self.config).layers]
        return 1 if any(window and self.tokens + longest > window for window in windows) else batch_size

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    def eval(self) -> PrefixedModel:
        self.model.eval()
        return self

    def __call__(
        self,
        input_ids: torch.Tensor,
        *,
        cache: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        **options: Any,
    ) -> Any:
        """Return the base model's output for `input_ids` after the prefix."""
        from transformers import DynamicCache

        rows, n = len(input_ids), self.tokens
        cache = DynamicCache(config=self.config) if cache is None else cache
        if cache.get_seq_length() == 0:
            for i, (keys, values) in enumerate(self._parts):
                cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), i)
        if position_ids is not None:
            position_ids = position_ids + n
        if attention_mask is not None:
            prefix_mask = attention_mask.new_full((*attention_mask.shape[:-1], n), int(attention_mask.dim() == 2))
            attention_mask = torch.cat([prefix_mask, attention_mask], -1)
        options |= {"cache": cache, "attention_mask": attention_mask, "position_ids": position_ids}
        return self.model(input_ids=input_ids, **options)
