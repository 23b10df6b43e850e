"""Writes a model folder as one GGUF file, which llama.cpp and Ollama load: weights, tokenizer, template, end tokens.

Tensor and key names come from the `gguf` package. Weights are adapted where llama.cpp computes differently from
transformers: it rotates neighbouring dimensions in Llama's queries and keys, and multiplies by a norm's weight where Gemma
multiplies by one plus the weight. Weights are read, converted and written one tensor at a time.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.chat_templates import own_template
from finetune_pipeline.models.manifest import export_error
from finetune_pipeline.models.model_files import weight_files

Kind = Literal["f16", "q8_0"]
KINDS: tuple[Kind, ...] = ("f16", "q8_0")
ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gemma": "GEMMA",
    "gemma2": "GEMMA2",
    "gemma3_text": "GEMMA3",
}
"""Supported architectures: transformers' model type, and the name in the gguf package."""
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHER_TEXT = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPLIT_NAMES = {
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER_TEXT}": "llama-bpe",
    rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_OTHER_TEXT}": "qwen2",
}
"""llama.cpp's names for the ways a byte-level tokenizer splits text into words."""
_GEMMA3_LOCAL_BASE = 10_000.0
"""RoPE base of Gemma 3's sliding-window layers, which llama.cpp does not read from the file."""


def write_gguf(folder: Path, target: Path, kind: Kind, *, name: str, stop_ids: Sequence[int]) -> None:
    """Write a model folder in the transformers format as a GGUF file.

    kind: `f16`: matrices in float16. `q8_0`: in 8 bits, in blocks of 32. Vectors stay float32. stop_ids: tokens that end an
    answer, at most three. Raises FindingsError if there are more, or if llama.cpp would not compute the same.
    """
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType
    from gguf.quants import quant_shape_to_byte_shape
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.model_type not in ARCHITECTURES:
        fix = f"supported: {', '.join(ARCHITECTURES)}; export it --for vllm or transformers"
        raise export_error("gguf.architecture", f"a model of type {config.model_type} cannot be written as GGUF", fix)
    arch = MODEL_ARCH[ARCHITECTURES[config.model_type]]
    if len(stop_ids) > 3:
        message = f"the model ends answers with {len(stop_ids)} tokens, and a GGUF file names at most three"
        raise export_error("gguf.end_tokens", message)
    if problems := _unsupported_settings(config):
        raise export_error("gguf.settings", "; ".join(problems))
    writer = GGUFWriter(target, MODEL_ARCH_NAMES[arch])
    try:
        writer.add_name(name)
        writer.add_file_type(LlamaFileType.MOSTLY_F16 if kind == "f16" else LlamaFileType.MOSTLY_Q8_0)
        _add_settings(writer, config)
        _add_tokenizer(writer, folder, config.vocab_size, stop_ids)
        writer.add_chat_template(own_template(folder) or "")
        for gguf_name, tensor in _tensors(folder, config, arch):
            storage_type = _storage_type(tensor.shape, gguf_name, kind)
            shape = quant_shape_to_byte_shape(tensor.shape, storage_type)
            writer.add_tensor_info(gguf_name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=storage_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for gguf_name, tensor in _tensors(folder, config, arch):
            writer.write_tensor_data(_quantized(tensor, _storage_type(tensor.shape, gguf_name, kind)))
    finally:
        writer.close()


def _rope(config: Any) -> dict[str, Any]:
    """Return the RoPE settings of the layers with full attention."""
    return dict(config.rope_parameters.get("full_attention", config.rope_parameters))


def _head_dim(config: Any) -> int:
    """Return the width of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _unsupported_settings(config: Any) -> list[str]:
    """Return the model settings that llama.cpp would silently compute differently."""
    is_gemma, rope = config.model_type.startswith("gemma"), _rope(config)
    problems = []
    if (kind := rope.get("rope_type", "default")) not in ("default", "linear", "llama3"):
        problems.append(f"RoPE of type {kind}")
    if not is_gemma and getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        problems.append("sliding attention")
    if not is_gemma and config.hidden_act != "silu":
        problems.append(f"the activation {config.hidden_act}")
    scale = getattr(config, "query_pre_attn_scalar", None)
    if scale is not None and scale != config.head_dim:
        problems.append(f"query_pre_attn_scalar {scale} with heads of width {config.head_dim}")
    if config.model_type == "gemma3_text":
        local_base = dict(config.rope_parameters).get("sliding_attention", {}).get("rope_theta", _GEMMA3_LOCAL_BASE)
        if local_base != _GEMMA3_LOCAL_BASE:
            problems.append(f"a RoPE base of {local_base} in sliding-window layers")
        expected = ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(config.num_hidden_layers)]
        if list(config.layer_types) != expected:
            problems.append("a different order of sliding-window layers")
    return problems


def _add_settings(writer: Any, config: Any) -> None:
    """Write the model's shape and arithmetic settings under the keys of the GGUF specification."""
    from gguf import RopeScalingType

    head_dim, rope = _head_dim(config), _rope(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if config.model_type in ("gemma2", "gemma3_text"):
        writer.add_sliding_window(config.sliding_window)
    if limit := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(limit)
    if limit := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(limit)


def _tensors(folder: Path, config: Any, arch: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name in the file, float32 values) of every tensor, as llama.cpp expects them.
    Raises FindingsError naming a tensor that has no place in the architecture."""
    from gguf import get_tensor_name_map
    from safetensors import safe_open

    gguf_names = get_tensor_name_map(arch, config.num_hidden_layers)
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dictionary
                if config.tie_word_embeddings and name == "lm_head.weight":
                    continue
                gguf_name = gguf_names.get_name(name, try_suffixes=(".weight", ".bias"))
                if gguf_name is None:
                    message = f"the tensor {name} has no place in a GGUF file of {config.model_type}"
                    raise export_error("gguf.tensor", message)
                yield gguf_name, _in_gguf_layout(name, weights.get_tensor(name).float().numpy(), config)
    if (rope := _rope(config)).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, rope)


def _in_gguf_layout(name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    """Convert a tensor for llama.cpp, which rotates neighbouring dimensions (Llama) and does not add 1 to norms (Gemma)."""
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    match = re.search(r"\.([qk])_proj\.(weight|bias)$", name)
    if match and ARCHITECTURES[config.model_type] == "LLAMA":
        heads = config.num_attention_heads if match[1] == "q" else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
    return tensor


def _llama3_factors(config: Any, rope: Mapping[str, Any]) -> np.ndarray:
    """Return the divisor of each RoPE frequency in Llama 3.1 and later: 1 for short wavelengths, `factor` for long ones, and
    a smooth transition in between (Grattafiori et al. 2024)."""
    head_dim = _head_dim(config)
    frequency = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    rotations = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)  # within the first context
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((rotations - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / rope["factor"] + smooth), dtype=np.float32)


def _storage_type(shape: Sequence[int], gguf_name: str, kind: Kind) -> Any:
    """Return the type in which a tensor is stored: matrices in that of the file, norms and vectors in float32."""
    from gguf import GGMLQuantizationType as Type

    if len(shape) == 1 or "norm" in gguf_name or gguf_name == "rope_freqs.weight":
        return Type.F32
    return Type.Q8_0 if kind == "q8_0" and shape[-1] % 32 == 0 else Type.F16


def _quantized(tensor: np.ndarray, storage_type: Any) -> np.ndarray:
    """Convert a tensor to its stored type. Raises FindingsError if float16 cannot represent it."""
    from gguf.quants import quantize

    values = quantize(tensor, storage_type)
    if values.dtype == np.float16 and not np.isfinite(values).all():
        raise export_error("gguf.range", "the weights contain values that float16 cannot represent")
    return np.asarray(values)


def _add_tokenizer(writer: Any, folder: Path, vocabulary: int, stop_ids: Sequence[int]) -> None:
    """Write the tokenizer of a model folder; vocabulary: rows of the embedding. Leaves out tokens beyond it, which the model
    cannot read (Gemma 3's for images). Raises FindingsError if llama.cpp has no tokenizer that splits text in the same way."""
    from gguf import TokenType

    stored, loaded = read_json(folder / "tokenizer.json"), load_tokenizer(folder)
    model = stored["model"]
    if model["type"] != "BPE":
        raise export_error("gguf.tokenizer", f"a tokenizer of type {model['type']} cannot be written as GGUF")
    byte_fallback = bool(model.get("byte_fallback"))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    tokens, types = [f"[PAD{i}]" for i in range(vocabulary)], [int(TokenType.UNUSED)] * vocabulary
    for token, i in model["vocab"].items():
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
        ranks: dict[str, int] = {}
        for i, merge in enumerate(merges):
            ranks.setdefault(merge.replace(" ", "", 1), i)
        writer.add_token_scores([-float(ranks.get(token, len(merges))) for token in tokens])
        writer.add_add_space_prefix(_adds_leading_space(stored))
    else:
        writer.add_token_merges(merges)
    if loaded.bos_token_id is not None:
        writer.add_bos_token_id(loaded.bos_token_id)
    if loaded.unk_token_id is not None:
        writer.add_unk_token_id(loaded.unk_token_id)
    writer.add_add_bos_token(_adds_bos(loaded))
    add_end_token = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, token in zip(add_end_token, stop_ids, strict=False):  # there may be fewer than three
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
        name = _SPLIT_NAMES.get(parts[0]["pattern"].get("Regex", ""))
    elif kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1].get("use_regex", True):
        name = "smollm"
    else:
        name = "gpt-2" if kinds == ["ByteLevel"] and parts[0].get("use_regex", True) else None
    if name is None:
        message = "its tokenizer splits text in a way that llama.cpp may not support"
        raise export_error("gguf.tokenizer", message)
    return name


def _adds_leading_space(stored: Mapping[str, Any]) -> bool:
    """Whether a SentencePiece tokenizer puts a space before the first word."""
    steps: list[Mapping[str, Any]] = []
    for stage in (stored.get("normalizer") or {}, stored.get("pre_tokenizer") or {}):
        steps += stage.get("normalizers") or stage.get("pretokenizers") or [stage]
    prepends = any(step.get("type") == "Prepend" for step in steps)
    return prepends or any(
        step.get("type") == "Metaspace" and step.get("prepend_scheme", "never") != "never" for step in steps
    )
