"""A fake GPU for machines without one: tensors with shapes, dtypes and a device, but no data.

PyTorch's FakeTensorMode computes the shape of every result and refuses mixed devices and reads of values. The device is called
``gpu``, since CPU builds of PyTorch abort on gradients of ``cuda`` tensors, even fake ones, but support gradients on a device
registered from Python.
"""

import contextlib
import json
import struct
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from finetune_pipeline.training import attention, packing

_COMMON = {"dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "llama-2-13b": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
        "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40, "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "mistral-7b": {
        "model_type": "mistral", "vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 32768, "sliding_window": None, "tie_word_embeddings": False,
    },
    "gemma-3-4b": {
        "model_type": "gemma3_text", "vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "max_position_embeddings": 131072, "sliding_window": 1024, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""The published shapes."""


class _Fake(FakeTensorMode):
    avoid_device_init = True  # torch.tensor(..., device=) must not allocate on the device


class HostSyncError(AssertionError):
    """The program waited for a value from the device."""


class DeviceMixUpError(AssertionError):
    """An operation mixed devices or dtypes."""


class WideCopyError(AssertionError):
    """A large tensor was made in float32 instead of bfloat16."""


class _Backend(_DummyBackendModule):  # type: ignore[misc]
    """The backend module that PyTorch requires of a device type."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_AUTOCAST = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm")
"""Operations of language models that autocast runs in its narrow dtype."""
_narrow: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
"""Autocast's cache of weights and their narrow copies, by id."""
_libraries: list[torch.library.Library] = []


@cache
def _register() -> torch.device:
    """Register the device, with autocast as on CUDA, which PyTorch does not provide for a device registered from Python."""
    _setup_privateuseone_for_python_backend("gpu", backend_module=_Backend())
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    products = torch.library.Library("aten", "IMPL")
    for name in _AUTOCAST:
        products.impl(name, _in_narrow_type(getattr(torch.ops.aten, name).default), "AutocastPrivateUse1")
    _libraries.extend((fallback, products))
    for operator in (flex_attention, flex_attention_backward):
        operator.py_impl(Device)(partial(Device.watch, func=operator))
        operator.py_impl(_Fake)(operator.python_key_table[FakeTensorMode])
    return torch.device("gpu:0")


def _in_narrow_type(operation: Any) -> Any:
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def narrow(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (value.requires_grad and value.is_leaf):
            return value.to(torch.get_autocast_dtype("gpu"))
        if id(value) not in _narrow:
            _narrow[id(value)] = value, value.to(torch.get_autocast_dtype("gpu"))
        return _narrow[id(value)][1]

    def compute(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*map(narrow, args), **{k: narrow(v) for k, v in kwargs.items()})

    return compute


class Device(TorchDispatchMode):
    """Counts the bytes allocated on the device and checks operations.

    Attributes:
        now, peak: Allocated bytes.
        waits: Number of values read from the device.
        wide: Largest allowed number of elements of a float32 result; None: no limit.
        allowed: Shapes or last dimensions exempt from `wide`.
        narrow: Shapes that must never be float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = _register()
        self.now = self.peak = 0
        self.wide: int | None = None
        self.allowed: set[tuple[int, ...]] = set()
        self.narrow: set[tuple[int, ...]] = set()
        self.waits = 0
        self._allclose_result: bool | None = None
        self._live: dict[int, int] = {}
        self._lock = threading.RLock()

    def reset_peak(self) -> None:
        self.peak = self.now

    @contextlib.contextmanager
    def read(self, same: bool = True) -> Iterator[None]:
        """Allow reads of values in the block: numbers read as zero, and ``allclose`` returns `same`. `waits` counts them."""
        self._allclose_result = same
        try:
            yield
        finally:
            self._allclose_result = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_device = any(t.device.type == "gpu" for t in inputs)
        name = str(func)
        can_read = self._allclose_result is not None
        if on_device and can_read and name.startswith(("aten._local_scalar_dense", "aten.allclose")):
            self.waits += 1
            return self._allclose_result if "allclose" in name else 0
        if on_device and name.startswith(
            ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.allclose", "aten.unique")
        ):
            raise HostSyncError(f"{name} waits for the device")
        return self.watch(*args, func=func, on_device=on_device, **(kwargs or {}))

    def watch(self, *args: Any, func: Any, on_device: bool = True, **kwargs: Any) -> Any:
        """Run an operation and check and count its results. on_device: Whether an input is on the device."""
        results = func(*args, **kwargs)
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._check(str(func), result, on_device)
        return results

    def _check(self, name: str, result: torch.Tensor, on_device: bool) -> None:
        if result.device.type != "gpu":
            if on_device and result.numel() > 0 and self._allclose_result is None:
                raise HostSyncError(f"{name} brings {tuple(result.shape)} to the {result.device.type}")
            return
        self._count(result.untyped_storage())
        if self.wide is None or result.dtype not in (torch.float32, torch.float64):
            return
        shapes = set(_equivalent_shapes(result.shape))
        if shapes & self.narrow or (result.numel() > self.wide and not shapes & self.allowed):
            raise WideCopyError(f"{name} gives {tuple(result.shape)} in {result.dtype}")

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        with self._lock:
            if key in self._live:
                return
            self._live[key] = storage.nbytes()
            self.now += self._live[key]
            self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        with self._lock:
            self.now -= self._live.pop(key)


def _equivalent_shapes(shape: torch.Size) -> list[tuple[int, ...]]:
    """A shape without leading ones, its transpose, and its last dimension."""
    squeezed = tuple(shape)
    while len(squeezed) > 1 and squeezed[0] == 1:
        squeezed = squeezed[1:]
    return [squeezed, squeezed[::-1], squeezed[-1:]]


def make_base(folder: Path, name: str, layers: int | None = None) -> Path:
    """Write a model folder of a published shape: its configuration, and weights in a sparse file of zeros. Returns
    `folder`."""
    values = {**_COMMON, **CONFIGS[name], **({"num_hidden_layers": layers} if layers else {})}
    config: PreTrainedConfig = AutoConfig.for_model(**values)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in model.state_dict().items():
        if config.tie_word_embeddings and key.startswith("lm_head"):
            continue
        start, end = end, end + tensor.numel() * 2
        header[key] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return folder


def _from_config(folder: Path, *, dtype: torch.dtype, device_map: Mapping[str, torch.device], **options: Any) -> Any:
    """Replaces ``from_pretrained``, which cannot load fake tensors: make the same model from its configuration.

    For 4-bit models, insert bitsandbytes' layers by hand, since its weight class cannot hold a fake tensor. Their storage,
    quantization state and dequantization are bitsandbytes' own.
    """
    config = AutoConfig.from_pretrained(folder)
    quantization = options.pop("quantization_config", None)
    with torch.device(device_map[""]):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=options["attn_implementation"]
        )
    if quantization is not None:
        for name, module in list(model.named_modules()):
            if type(module) is torch.nn.Linear and name != "lm_head":
                model.set_submodule(name, _four_bit(module, quantization))
        model.is_loaded_in_4bit = True
    return model.eval(), {"missing_keys": set(), "mismatched_keys": set()}


def _four_bit(linear: torch.nn.Linear, settings: Any) -> Any:
    import bitsandbytes as bnb
    from bitsandbytes.functional import create_dynamic_map, name2qmap, quantize_4bit

    with unset_fake_temporarily():
        map_size = len(create_dynamic_map())
        layer: Any = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=False,
            compute_dtype=settings.bnb_4bit_compute_dtype,
            quant_type="nf4",
            compress_statistics=True,
            device="meta",
        )
    with mock.patch.dict(name2qmap, dynamic=torch.empty(map_size, device=linear.weight.device)):
        data, state = quantize_4bit(linear.weight.data, blocksize=64, quant_type="nf4", compress_statistics=True)
    layer.weight = torch.nn.Parameter(data, requires_grad=False)
    layer.weight.quant_state, layer.weight.quant_type, layer.weight.compress_statistics = state, "nf4", True
    layer._apply = lambda *_args, **_options: layer  # already on the device, with its quantization state
    return layer


class _Attention(torch.autograd.Function):
    """Attention with the results and saved tensors of CUDA's kernel; PyTorch's generic fallback would keep every score."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any) -> torch.Tensor:
        inputs = [query, key, value, *([mask] if mask is not None else [])]
        if len({t.device for t in inputs}) > 1 or len({t.dtype for t in inputs[:3]}) > 1:
            raise DeviceMixUpError(f"attention is given {[(t.device, t.dtype) for t in inputs]}")
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        norms = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, result, norms)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*(torch.empty_like(t) for t in ctx.saved_tensors[:3]), None)


def _attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *_args: Any, **_options: Any) -> torch.Tensor:
    if torch.is_autocast_enabled("gpu"):
        query, key, value = (t.to(torch.get_autocast_dtype("gpu")) for t in (query, key, value))
    return _Attention.apply(query, key, value, attn_mask)  # type: ignore[no-any-return, no-untyped-call]


@contextlib.contextmanager
def rehearsal() -> Iterator[Device]:
    """Compute with fake tensors on the fake device in the block. Yields the device.

    Batches are prepared with real tensors on the CPU, since sorting rows needs values, and then replaced by fake ones.
    """
    device, fake, make_plan = Device(), _Fake(), attention._make_plan

    def fake_plan(layout: Any, key: attention.PlanKey) -> Any:
        with unset_fake_temporarily():
            # tensors that the plan moves to the device become meta tensors; all others stay on the CPU
            plan = make_plan(layout, key._replace(device=torch.device("meta")))

        def fake_tensor(tensor: torch.Tensor) -> torch.Tensor:
            device = key.device if tensor.device.type == "meta" else tensor.device
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

        buckets = [replace(b, mask=fake_tensor(b.mask), shared=fake_tensor(b.shared)) for b in plan.buckets]
        tensors = {f.name: fake_tensor(v) for f in fields(plan) if isinstance(v := getattr(plan, f.name), torch.Tensor)}
        return replace(plan, buckets=buckets, **tensors)

    def fake_collate(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> dict[str, Any]:
            with unset_fake_temporarily():
                batch = original(*arguments, **options)
            return {
                k: torch.empty(v.shape, dtype=v.dtype) if isinstance(v, torch.Tensor) else v for k, v in batch.items()
            }

        return call

    with (
        mock.patch.object(packing, "packed_batch", fake_collate(packing.packed_batch)),
        mock.patch.object(packing, "padded_batch", fake_collate(packing.padded_batch)),
        mock.patch.object(AutoModelForCausalLM, "from_pretrained", _from_config),
        mock.patch.object(attention, "_make_plan", fake_plan),
        mock.patch("torch.nn.functional.scaled_dot_product_attention", _attend),
        mock.patch("torch.clear_autocast_cache", _narrow.clear),
        mock.patch("weakref.getweakrefs", lambda _: []),  # modules refuse to move weights with weak references, as here
        fake,
        device,
    ):
        yield device
