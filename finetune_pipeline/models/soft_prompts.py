"""The served forms of soft prompts, without PEFT: a plain model with added tokens, or a prefix in the key-value cache.

Prompt tuning trains vectors that take the place of token embeddings. Stored as rows of the embedding matrix, with names in
the tokenizer, they become tokens, and any server can run the model. The model must not generate the new tokens: see
:func:`_unlikely_rows`. Prefix tuning trains keys and values of every layer, which cannot be stored as rows of any weight. So
the adapter stays separate, and prediction starts from a cache that contains it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune_pipeline.engine.files import digest_file, read_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.facts import StoredModel
from finetune_pipeline.models.generation_settings import suppressed_tokens, write_greedy_settings
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_pipeline.models.weights import Checkpoint, digests, dtypes, write_record

NAME = "<|soft_{}|>"
_SUPPRESSING_BIAS = -1e4
"""Bias of the new tokens if the head has biases: their probability is zero in every float dtype."""

_EXPORT_ADAPTER = "export the adapter alone (`finetune export --adapter`)"
_PROBE = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}]


def plain_model(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> StoredModel:
    """Write base and prompt-tuned `adapter` as a plain model to out/model, and its record to out/model.json; return its facts.

    The chat template puts the tokens first in every rendered text. float32: store the embeddings in float32.
    Raises JobError if the base's embeddings cannot be extended, or if the template would not give the same tokens.
    """
    source, target = model_folder(base), out / "model"
    checkpoint = Checkpoint(source)
    vectors = load_file(adapter / ADAPTER_WEIGHTS)["prompt_embeddings"].float()  # [tokens, width]
    name, scale = _embedding(checkpoint)
    original, extended, ids, tokens = _extended_tokenizer(source, len(vectors))
    embeddings = checkpoint.tensor(name)
    dtype = torch.float32 if float32 else embeddings.dtype
    row_count = max(rows := len(embeddings), max(ids) + 1)
    # the new tokens, and those of the tokenizer that the base has no row for
    never = sorted({*ids, *range(rows, row_count)})
    head = checkpoint.head or checkpoint.usual_head
    head_rows = checkpoint.tensor(head) if head in checkpoint.place else embeddings
    changed = {
        name: _with_rows(embeddings, ids, vectors / scale, row_count, dtype),
        head: _with_rows(head_rows, never, _unlikely_rows(head_rows, never), row_count, dtype),
    }
    bias = head.removesuffix("weight") + "bias"
    if bias in checkpoint.place:
        suppressing, biases = torch.full((len(never),), _SUPPRESSING_BIAS), checkpoint.tensor(bias)
        changed[bias] = _with_rows(biases, never, suppressing, row_count, biases.dtype)
    config = {"vocab_size": row_count, "tie_word_embeddings": False} | ({"dtype": "float32"} if float32 else {})
    shutil.rmtree(target, ignore_errors=True)
    written = checkpoint.write_copy(target, changed, config)
    extended.save_pretrained(target)
    # transformers reads this; for other servers see _unlikely_rows
    write_greedy_settings(target, suppress_tokens=sorted({*suppressed_tokens(target), *never}))
    _check_same_text(original, extended, ids)
    soft, sha256 = dict(zip(tokens, ids, strict=True)), digest_file(adapter / ADAPTER_WEIGHTS)
    files = digests(target)
    return write_record(
        out, "model", base, files, kind="prompt", dtype=written, adapter_sha256=sha256, soft_tokens=soft
    )


def _embedding(base: Checkpoint) -> tuple[str, float]:
    """Return (tensor name of the input embeddings, the factor the model multiplies its rows by)."""
    model = load_for_prediction(base.folder, torch.device("meta"))
    layer, text = model.get_input_embeddings(), model.config.get_text_config()
    is_plain = type(layer) is torch.nn.Embedding
    scale = 1.0 if is_plain else getattr(layer, "scalar_embed_scale", None)
    name = base.embedding
    if name is None or scale is None or getattr(text, "hidden_size_per_layer_input", None):
        raise JobError(
            f"the embeddings of {base.folder.name!r} ({type(layer).__name__}) are not a matrix that can get more rows",
            _EXPORT_ADAPTER,
        )
    return name, float(scale)


def _extended_tokenizer(folder: Path, count: int) -> tuple[Any, Any, list[int], list[str]]:
    """Return (the base's tokenizer, a copy with `count` new tokens, which its template writes first, their ids, their names)."""
    from transformers import AddedToken

    original, extended = load_tokenizer(folder), load_tokenizer(folder)
    vocabulary = extended.get_vocab()
    first_number = next(i for i in range(len(vocabulary) + 1) if NAME.format(i) not in vocabulary)
    tokens = [NAME.format(i) for i in range(first_number, first_number + count)]
    extended.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)
    ids = [int(extended.convert_tokens_to_ids(t)) for t in tokens]
    extended.chat_template = "".join(tokens) + extended.chat_template
    return original, extended, ids, tokens


def _check_same_text(original: Any, extended: Any, ids: Sequence[int]) -> None:
    """Raise JobError unless the new template gives the new tokens, followed by exactly the tokens of the old one."""
    before, after = (
        list(t.apply_chat_template(_PROBE, tokenize=True, return_dict=True)["input_ids"]) for t in (original, extended)
    )
    if after != [*ids, *before]:
        raise JobError(
            "with new tokens in front, this tokenizer splits the following text differently, so the model would get input it "
            "was not trained on",
            _EXPORT_ADAPTER,
        )


def _with_rows(
    tensor: torch.Tensor, ids: Sequence[int], rows: torch.Tensor, total: int, dtype: torch.dtype
) -> torch.Tensor:
    """Return a copy of a tensor with `total` rows in `dtype`, whose rows at `ids` are `rows`."""
    extended = torch.zeros((total, *tensor.shape[1:]), dtype=dtype)
    extended[: len(tensor)] = tensor
    extended[list(ids)] = rows.to(dtype)
    return extended


def _unlikely_rows(head: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Return head rows that keep the new tokens from being chosen: the mean of all other rows, in float32.

    For any input, their logit is then the mean of the other tokens' logits. It is below the maximum, so greedy decoding never
    chooses them, and by Jensen's inequality their probability is at most 1 / vocabulary at any temperature (with a 135M
    model: at worst 40 times less than that). Both hold up to the rounding of the stored row. A row of zeros has no such
    bound: its logit is 0, while all others may be negative. A very negative logit for every input needs a bias, which most
    heads lack.
    """
    others = torch.ones(len(head), dtype=torch.bool)
    others[[token for token in ids if token < len(head)]] = False
    mean = head[others].sum(0, dtype=torch.float64) / int(others.sum())
    return mean.float().expand(len(ids), -1)


def prefix_reference(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> StoredModel:
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
    of_adapter = digests(target)
    files = {file.name: digest_file(file) for file in checkpoint.files}
    files |= {f"adapter/{name}": digest for name, digest in of_adapter.items()}
    dtype, sha256 = dtypes(checkpoint.tensors()), of_adapter[ADAPTER_WEIGHTS]
    return write_record(out, "adapter", base, files, kind="prefix", dtype=dtype, adapter_sha256=sha256)


class PrefixedModel:
    """A model whose cache begins with trained keys and values in every layer; called like models of transformers.
    Callers pass masks and positions of their own tokens only: this class adds the prefix, and fills an empty cache first."""

    def __init__(self, model: Any, adapter: Path) -> None:
        config = read_json(adapter / ADAPTER_CONFIG)
        self.model, self.config = model, model.config
        flat = load_file(adapter / ADAPTER_WEIGHTS)["prompt_embeddings"].float()
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

    def register_forward_pre_hook(self, hook: Callable[..., None]) -> Any:
        """Have `hook` called before each forward pass, as by a module of torch. Returns its handle."""
        return self.model.register_forward_pre_hook(hook)

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
