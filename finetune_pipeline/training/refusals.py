"""Trainings that cannot work, refused before anything is loaded: the spec's own rules, and the base model's files.

No torch: the base's config.json, the headers of its weight files and its tokenizer say enough, within seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from finetune_pipeline.engine.store import read_json
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.hardware import cpu_has_bfloat16, has_nvidia
from finetune_pipeline.models.identity import weight_files
from finetune_pipeline.spec import training_rules
from finetune_pipeline.spec.method_defaults import LOW_RANK, SOFT_PROMPTS
from finetune_pipeline.spec.model import TaskSpec

_LEAST_ROOM = 16
"""The shortest training.max_tokens there is."""
SPEC_RULES = (
    training_rules.check_batches,
    training_rules.check_epochs,
    training_rules.check_second_phase,
    training_rules.check_gradient_checkpointing,
    training_rules.check_low_rank_options,
    training_rules.check_target_modules,
    training_rules.check_soft_prompt_options,
)
_USUAL_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_USUAL = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "phi3")
"""Architectures whose linear layers have these names (phi3 joins some of them)."""
_OTHER_NAMES = {"phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}}


def refusals(
    spec: TaskSpec, base_config: Mapping[str, Any] | None, base: Path | None = None, bfloat16: bool | None = None
) -> list[Finding]:
    """Everything that speaks against training as the spec says, each with what to change; errors must stop it.

    base_config: the base model's config.json, None while it is not at hand. base: its folder, for exact answers about
    layer names (from its weights' headers) and the system prompt's length (from its tokenizer). bfloat16: whether the
    processor has it natively (None: looked up for the CPU; unknown on machines with an NVIDIA device).
    """
    folder = Path(spec.name)
    found = [finding for rule in SPEC_RULES for finding in rule(spec, folder)]
    found += _hardware(spec, bfloat16)
    if base_config is not None:
        text = base_config.get("text_config") or base_config
        found += _quantized(spec, base_config)
        found += _lengths(spec, text)
        found += _window(spec, text)
        found += _layers(spec, text, base)
        found += _packing(spec, text)
    return found + _system_prompt(spec, base)


def _finding(rule: str, key: str, message: str, fix: str, severity: Any = "error") -> Finding:
    return Finding(f"training.{rule}", severity, f"task.yaml: {key}", message, fix)


def _hardware(spec: TaskSpec, bfloat16: bool | None) -> list[Finding]:
    if spec.training.precision != "bfloat16":
        return []
    if bfloat16 is None:
        bfloat16 = True if has_nvidia() else cpu_has_bfloat16()
    if bfloat16:
        return []
    return [
        _finding(
            "precision",
            "training.precision",
            "this processor has no native bfloat16: it is emulated, many times slower than float32",
            "set training.precision: auto",
            "warning",
        )
    ]


def _quantized(spec: TaskSpec, config: Mapping[str, Any]) -> list[Finding]:
    told = config.get("quantization_config")
    if not told:
        return []
    kind = told.get("quant_method", "some way") if isinstance(told, Mapping) else "some way"
    why = {
        "qlora": "qlora quantizes the base itself, and merges into the unquantized one",
        "full": "full fine-tuning trains the weights, and those are stored in too few bits to be trained",
    }.get(spec.training.method, "what is trained on rounded weights would have to be served with the same rounding")
    return [
        _finding("quantized_base", "base_model", f"the base model is quantized already ({kind}): {why}",
                 "name the unquantized model as base_model")
    ]  # fmt: skip


def _lengths(spec: TaskSpec, config: Mapping[str, Any]) -> list[Finding]:
    t = spec.training
    limit = config.get("max_position_embeddings")
    virtual = getattr(t, t.method).tokens if t.method in SOFT_PROMPTS else 0
    if not limit or t.max_tokens + virtual <= limit:
        return []
    room = max(limit - virtual, 0)
    also = f" and {virtual} virtual tokens" if virtual else ""
    return [
        _finding(
            "context_length",
            "training.max_tokens",
            f"the base model's context of {limit} tokens does not hold training.max_tokens = {t.max_tokens}{also}: examples "
            f"over {room} tokens count as too long",
            f"set training.max_tokens: {room}" + (f", or lower training.{t.method}.tokens" if virtual else ""),
            "warning" if room >= _LEAST_ROOM else "error",
        )
    ]


def _window(spec: TaskSpec, config: Mapping[str, Any]) -> list[Finding]:
    t = spec.training
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if t.method != "prefix" or not window or t.prefix.tokens < window:
        return []
    return [
        _finding(
            "prefix_window",
            "training.prefix.tokens",
            f"a prefix of {t.prefix.tokens} tokens does not fit into the sliding window of {window} of some layers",
            f"set training.prefix.tokens: {window // 2} or less, or use method: prompt",
        )
    ]


def linear_layers(config: Mapping[str, Any], base: Path | None = None) -> tuple[set[str], bool]:
    """(names of the linear layers of a block, whether that is all there are).

    From the weights' headers where the folder is at hand; else the usual names for architectures known to use them.
    """
    if base is not None:
        names = set()
        for file in weight_files(base):
            with file.open("rb") as handle:
                header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
            names |= {n for n, told in header.items() if n != "__metadata__" and len(told["shape"]) == 2}
        layers = {n.removesuffix(".weight").rpartition(".")[2] for n in names if n.endswith(".weight")}
        return layers - {"embed_tokens", "lm_head", "wte", "wpe", "embed_out"}, True
    kind = str(config.get("model_type"))
    return _OTHER_NAMES.get(kind, _USUAL_LAYERS), kind in _USUAL


def _layers(spec: TaskSpec, config: Mapping[str, Any], base: Path | None) -> list[Finding]:
    wanted = spec.training.lora.target_modules
    if spec.training.method not in LOW_RANK or isinstance(wanted, str):
        return []
    layers, complete = linear_layers(config, base)
    # PEFT takes a name for every module that ends with it
    known = {*layers, *training_rules.NOT_ADAPTED}  # about the latter a rule of the spec has spoken
    missing = [name for name in wanted if name.rpartition(".")[2] not in known and not re.search(r"[*\\]", name)]
    if not missing or not complete:
        return []
    return [
        _finding(
            "target_modules",
            "training.lora.target_modules",
            f"the base model ({config.get('model_type')}) has no linear layers named {', '.join(missing)}",
            f"choose from {', '.join(sorted(layers))}, or write all-linear",
        )
    ]


def _packing(spec: TaskSpec, config: Mapping[str, Any]) -> list[Finding]:
    if not spec.training.shared_prefix:
        return []
    why = []
    if config.get("attention_dropout"):
        why.append("it drops attention weights while it is trained")
    if config.get("attn_logit_softcapping"):
        why.append("it caps attention scores")
    kinds = sorted(set(config.get("layer_types") or []) - {"full_attention", "sliding_attention"})
    if kinds:
        why.append(f"it has layers of the kind {', '.join(kinds)}")
    if not why:
        return []
    return [
        _finding(
            "shared_prefix",
            "training.shared_prefix",
            f"beginnings that rows share cannot be computed once with this base model: {'; '.join(why)}. Batches will be "
            "padded, with the same result",
            "nothing needs to be done; training takes longer",
            "note",
        )
    ]


@lru_cache(maxsize=2)
def _tokenizer(path: Path, _changed: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    return tokenizer


def load_tokenizer_file(base: Path) -> Tokenizer | None:
    """The tokenizer of a model folder, read once; None where there is no tokenizer.json."""
    path = (base / "tokenizer.json").absolute()
    return _tokenizer(path, path.stat().st_mtime_ns) if path.is_file() else None


def _system_prompt(spec: TaskSpec, base: Path | None) -> list[Finding]:
    """Counted exactly where the tokenizer is at hand; else a word counts as one token, which no tokenizer goes below."""
    tokenizer = load_tokenizer_file(base) if base is not None else None

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids if tokenizer is not None else text.split())

    prompt, answer = count(spec.system_prompt), max(map(count, spec.labels), default=1)
    limit = spec.training.max_tokens
    if prompt + answer < limit:
        return []
    needed = prompt + answer
    unit = "tokens" if tokenizer is not None else "words"
    return [
        _finding(
            "system_prompt",
            "training.max_tokens",
            f"the system prompt ({prompt} {unit}) and {'the longest label' if spec.labels else 'an answer'} ({answer}) fill "
            f"training.max_tokens = {limit}: no example can fit",
            f"set training.max_tokens: {2 * needed} or more, or shorten the system prompt",
        )
    ]


def read_base_config(base: Path) -> dict[str, Any]:
    """The config.json of a model folder."""
    return dict(read_json(base / "config.json"))
