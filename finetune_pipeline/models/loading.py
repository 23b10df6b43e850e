"""Loads a base model for training (4-bit or not) and a model for prediction, from safetensors only."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind
from finetune_pipeline.models.classifier import adapter_classes, answer_by_class, with_head
from finetune_pipeline.models.facts import WeightBytes, Weights
from finetune_pipeline.models.hardware import cpu_has_bfloat16
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import classes_of


def pick_device() -> torch.device:
    """Return the first visible CUDA device, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bfloat16()


def resolve_precision(setting: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype of training for ``auto``, ``float32`` or ``bfloat16``."""
    if setting == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]


def _config(folder: Path) -> PretrainedConfig:
    source, options = model_folder(folder), {"local_files_only": True, "trust_remote_code": False}
    config: PretrainedConfig = AutoConfig.from_pretrained(source, **options)
    return config


def _load(folder: Path, dtype: torch.dtype, device: torch.device, **options: Any) -> PreTrainedModel:
    """Load a model's weights from safetensors; a classifier then has the forward of :mod:`.classifier`.
    Raises JobError for tensors that are missing or have another shape, which transformers would fill with random numbers."""
    source = model_folder(folder)
    classes = classes_of(source)
    mapping: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if classes else MODEL_FOR_CAUSAL_LM_MAPPING
    family: Any = AutoModelForSequenceClassification if classes else AutoModelForCausalLM
    architecture = mapping.get(type(_config(folder)), None)
    attention = "sdpa" if getattr(architecture, "_supports_sdpa", True) else "eager"  # Gemma 2 has no other
    loaded: Any = family.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation=attention,
        device_map={"": device},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    model: PreTrainedModel = loaded[0]
    info: dict[str, set[Any]] = loaded[1]
    if unloadable := sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}):
        raise JobError(
            f"{source.name!r} lacks {len(unloadable)} of the tensors that its config.json asks for, or has them in another shape: "
            f"{', '.join(unloadable[:3])}",
            "fetch the model again, all its files",
        )
    model.requires_grad_(False)
    return answer_by_class(model) if classes else model


def as_stored(model: PreTrainedModel, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Return a model's tensors as its files have them: transformers renames some, and joins experts, when it loads them.
    state: the model's state dict, if the caller has it. Tensors that are stored alone are returned as the same objects."""
    from transformers.core_model_loading import revert_weight_conversion

    tensors: dict[str, torch.Tensor] = revert_weight_conversion(model, state or model.state_dict())
    return tensors


def stored_names(folder: Path) -> dict[str, str]:
    """Return the name in the model's files of each weight that is stored alone, by its name in the loaded model."""
    model = _load(folder, torch.float32, torch.device("meta"))
    state = model.state_dict()
    file_names = {id(tensor): name for name, tensor in as_stored(model, state).items()}
    return {name: file_names[id(tensor)] for name, tensor in state.items() if id(tensor) in file_names}


def inference_dtype(folder: Path, precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of inference for ``evaluation.precision``.

    ``serving`` is the dtype of a server: bfloat16 if the device supports it, but float32 for a model stored in float32, since
    bfloat16 would round its training away (see :mod:`.merging`).
    """
    stored = _config(folder).dtype
    needs_float32 = precision == "float32" or stored in (None, torch.float32)
    return resolve_precision("float32" if needs_float32 else "auto", device)


def load_for_prediction(
    folder: Path, device: torch.device, adapter: Path | None = None, precision: str = "float32"
) -> Any:
    """Load a model for inference.

    adapter: folder of a prefix, the only kind of adapter that is served unmerged. precision: ``serving`` or ``float32``
    (evaluation.precision); only float32 gives the same greedy answers regardless of batching.
    """
    dtype = inference_dtype(folder, precision, device)
    model = _load(folder, dtype, device).eval()
    if device.type == "cpu" and dtype == torch.bfloat16 and has_onednn():
        predict_by_onednn(model)
    if adapter is None:
        return model
    from finetune_pipeline.models.soft_prompts import PrefixedModel

    return PrefixedModel(model, adapter)


def load_for_comparison(
    folder: Path, device: torch.device, prefix: Path | None = None, adapter: Path | None = None
) -> Any:
    """Load a model as it is stored, to compute in float32 (see :mod:`.widening`).

    prefix: as `adapter` of :func:`load_for_prediction`. adapter: folder of any adapter, which PEFT adds.
    """
    from finetune_pipeline.models.widening import compute_in_float32

    model = _load_as_stored(folder, device) if adapter is None else load_with_adapter(folder, adapter, device)
    compute_in_float32(model)
    if prefix is None:
        return model
    from finetune_pipeline.models.soft_prompts import PrefixedModel

    return PrefixedModel(model, prefix)


def load_with_adapter(folder: Path, adapter: Path, device: torch.device) -> Any:
    """Load a model as it is stored, with an adapter of any kind that PEFT adds in float32."""
    from peft import PeftModel

    model = _load_as_stored(folder, device)
    if adapter_kind(adapter) == "classifier":
        model = with_head(model, adapter_classes(adapter))
    return PeftModel.from_pretrained(model, adapter).eval()


def _load_as_stored(folder: Path, device: torch.device) -> Any:
    """Load a model in the dtype of its configuration, for inference."""
    stored = _config(folder).dtype
    return _load(folder, stored if isinstance(stored, torch.dtype) else torch.float32, device).eval()


def load_for_training(
    folder: Path, holds: str, compute: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, Weights]:
    """Load the frozen model in the form that a training method needs (spec.methods.base.Method.holds), with weight facts.

    four_bit: every linear layer but the output head is stored in 4 bits (NF4, double quantization), everything else
    (embeddings, norms) in bfloat16, regardless of the compute dtype, so that the documented memory use holds everywhere.
    """
    if holds != "four_bit":
        model = _load(folder, torch.float32 if holds == "float32" else compute, device)
        return model, weight_facts(model)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    quantization = BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=compute)
    model = _load(folder, torch.bfloat16, device, quantization_config=quantization)
    settle_four_bit_layers(model, compute)
    facts = weight_facts(model)
    if 2 * sum(p.numel() for p in _unquantized(model)) > facts.by_kind.quantized:
        raise JobError(
            f"the weights of {model.config.model_type} outside plain linear layers cannot be stored in 4 bits, and need more "
            "memory than all others",
            "set training.method: lora",
        )
    if compute != torch.bfloat16:
        _compute_in(model, compute)
    return model, weight_facts(model)


def settle_four_bit_layers(model: nn.Module, compute: torch.dtype) -> None:
    """Change two bitsandbytes settings that would make training and validation compute with different weights.

    Outside training mode it repacks weights in place for its CPU inference kernel, which rounds more and whose format training
    cannot read. It also dequantizes weights to the dtype they were loaded in, not the compute dtype.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.weight.quant_state.dtype = compute  # type: ignore[attr-defined]


def _unquantized(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the parameters of a 4-bit model that are stored as they are, except embeddings and the output head."""
    head = model.get_output_embeddings()
    excluded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding) or module is head}
    return [p for p in model.parameters() if not hasattr(p, "quant_state") and id(p) not in excluded]


def _compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make a model with 4-bit and bfloat16 weights compute in `dtype`. Converts the weights only of the small layers that need
    inputs of their own dtype."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.Conv1d):
            module.to(dtype)
    embeddings.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))

    def project(hidden: torch.Tensor) -> torch.Tensor:
        bias = head.bias.to(hidden.dtype) if head.bias is not None else None
        return F.linear(hidden, head.weight.to(hidden.dtype), bias)

    head.forward = project


def weight_facts(model: PreTrainedModel) -> Weights:
    """Return the bytes of the loaded weights (tied ones once, quantization constants included), compared with bfloat16."""
    quantized = unquantized = parameters = modules = 0
    tensors_by_storage = {tensor.untyped_storage()._cdata: tensor for tensor in [*model.buffers(), *model.parameters()]}
    for tensor in tensors_by_storage.values():
        size = tensor.numel() * tensor.element_size()
        state = getattr(tensor, "quant_state", None)
        if state is None:
            unquantized += size
            parameters += tensor.numel()
            continue
        modules += 1
        parameters += state.shape.numel()
        constants = [state.absmax, state.code, state.offset]
        constants += [state.state2.absmax, state.state2.code] if state.nested else []
        quantized += size + sum(t.numel() * t.element_size() for t in constants if t is not None)
    loaded = quantized + unquantized
    return Weights(
        bytes_loaded=loaded,
        bf16_bytes=2 * parameters,
        ratio=round(loaded / (2 * parameters), 4),
        parameters=parameters,
        quantized_modules=modules,
        by_kind=WeightBytes(quantized=quantized, other=unquantized),
    )


def has_onednn() -> bool:
    """Whether this build of PyTorch can call oneDNN's matrix products directly."""
    operations = ("_linear_pointwise", "_reorder_linear_weight")
    return bool(torch.backends.mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in operations)


class OneDnnLinear(nn.Linear):
    """A linear layer for bfloat16 on the CPU, without gradients, whose weight is kept in oneDNN's own order.

    PyTorch's own path reorders the weight for every product, which takes as long as the product of one row, and copies it once
    per row if the input is a slice, as for the output head. The results are the same to the bit.
    """

    def pack(self, keep: bool) -> None:
        """Reorder the weight. keep: also keep the plain weight, since another layer uses it; else only its shape and dtype."""
        weight = self.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        if not keep:
            del self.weight
            self.weight = torch.empty_like(weight, device="meta")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return product


def predict_by_onednn(model: Any) -> None:
    """Make the linear layers of a bfloat16 model on the CPU use oneDNN; it can then be neither trained nor saved."""
    embeddings = model.get_input_embeddings().weight
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:  # subclasses compute something else
            module.__class__ = OneDnnLinear
            OneDnnLinear.pack(module, keep=module.weight is embeddings)  # type: ignore[arg-type]
