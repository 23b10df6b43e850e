"""Runs the product's training, evaluation and attention on a fake GPU (see :mod:`fake_gpu`).

Needs a separate process, since other code would take the registered device for a real accelerator.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch._higher_order_ops.flex_attention import flex_attention
from transformers import AutoModelForCausalLM, TrainingArguments

from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models import loading, parity
from finetune_pipeline.models.chat import Encoded, load_tokenizer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import way_of_reading
from finetune_pipeline.planning.answering import PromptBatch, answering_memory, comparison_memory
from finetune_pipeline.planning.memory import GPU_OVERHEAD, training_memory
from finetune_pipeline.planning.planner import batch_of
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training import flex, fused, packing, sft
from finetune_pipeline.training.attention import _PackedAttention
from finetune_pipeline.training.model import build
from finetune_pipeline.training.prefix_tree import FLEX, Layout
from finetune_pipeline.training.rows import Prepared
from finetune_pipeline_tests import fake_gpu
from finetune_pipeline_tests.fake_gpu import make_base, rehearsal
from finetune_pipeline_tests.tiny_model import make_tiny_tokenizer

PREFIX, TEXT, ANSWER, LABELS = 300, 100, 5, 6
"""Tokens per row in the shared prefix, the row's own text and the answer; and the number of scored labels."""


def rows(number: int) -> list[Encoded]:
    """Rows with a shared prefix."""
    length = PREFIX + TEXT + ANSWER
    ids = [[*range(PREFIX), *((13 * i + 7 * k) % 5000 for i in range(TEXT + ANSWER))] for k in range(number)]
    return [Encoded(str(k), ids[k], [i >= length - ANSWER for i in range(length)]) for k in range(number)]


@contextlib.contextmanager
def _train_on(device: torch.device) -> Iterator[None]:
    """Make accelerate and transformers train on this device, instead of the first GPU they find."""
    init, setup_devices = PartialState.__init__, TrainingArguments.__dict__["_setup_devices"]

    def init_on_device(state: PartialState, *args: Any, **kwargs: Any) -> None:
        init(state, *args, **kwargs)
        state.device = device

    def setup_device(arguments: TrainingArguments) -> torch.device:
        setup_devices.__get__(arguments, type(arguments))
        return device

    with (
        mock.patch.object(PartialState, "__init__", init_on_device),
        mock.patch.object(TrainingArguments, "_setup_devices", property(setup_device)),
    ):
        yield


def train_step(base: Path, settings: Mapping[str, Any], number: int, plant: str = "") -> dict[str, Any]:
    """Run optimizer steps as :func:`finetune_pipeline.training.sft.train` does, each followed by a validation pass.

    Returns {peak, planned: bytes of training; validation_peak, validation_planned: of the validation passes; waits: values that
    one pass read from the device; packed: whether rows were packed; parts: of the memory plan}.
    """
    settings = TrainingSpec.model_validate(settings)
    examples = Prepared(rows=rows(number))
    width = {"float32": 4}.get(settings.precision, 2)
    shape = model_shape(base)
    with rehearsal() as device, _train_on(device.device), tempfile.TemporaryDirectory() as work:
        tokenizer = load_tokenizer(base)
        built = build(base, settings, torch.bfloat16 if width == 2 else torch.float32, device.device, tokenizer, [])
        with device.read(same="gemma" not in base.name):
            packed = settings.shared_prefix and packing.supports_shared_prefix(built.model)[0]
            fused.fuse(built.model)
        collator = packing.packed_collator(built.model) if packed else packing.padded_batch
        folder = Path(work)
        job = TrainJob(base=base, train=folder, validation=folder, settings=settings, out=folder, work=folder)
        size = settings.micro_batch_size
        splits = {"train": examples, "validation": examples}
        trainer, _ = sft._trainer(job, built, tokenizer, collator, splits, "", 1, size, False)
        plain = examples.plain_rows()
        # two optimizer steps, since the optimizer's states are allocated in the first
        batches = [collator(plain[i : i + size]) for i in range(0, number, size)] * 2
        if settings.method not in ("full", "prompt") and width == 2:
            # float32 by design: sums of norms over the hidden states, logits of the loss, trained weights
            device.wide = max(batch["input_ids"].numel() for batch in batches) * shape.hidden
            device.allowed = {(shape.vocabulary,)}
            device.narrow = {(layer.fan_out, layer.fan_in) for layer in shape.linears}
        validation_batch = collator(plain)
        waits: list[int] = []
        peaks: dict[str, int] = {"train": 0, "validation": 0}

        def validate(*_args: Any, **_options: Any) -> None:
            waits_before, peaks["train"] = device.waits, max(peaks["train"], device.peak)
            device.reset_peak()
            with device.read():
                trainer.validation_loss()
            waits.append(device.waits - waits_before)
            peaks["validation"] = max(peaks["validation"], device.peak)
            device.reset_peak()

        device.reset_peak()
        with (
            mock.patch.object(trainer, "get_train_dataloader", lambda: batches),
            mock.patch.object(trainer, "get_eval_dataloader", lambda: [validation_batch]),
            mock.patch.object(trainer, "_maybe_log_save_evaluate", validate),
            mock.patch.object(trainer, "_finalize_training", lambda *_a, **_k: None),
            planted(plant),
        ):
            trainer.train()
        assert waits, "no optimizer step ran"
        batch = batch_of(plain[:size], settings, bool(packed))
        memory = training_memory(shape, settings, batch, width=width, device="cuda")
        passed = batch_of(plain, settings, bool(packed))
        validation = training_memory(shape, settings, passed, width=width, device="cuda", validating=True)
        return {
            "packed": bool(packed),
            "peak": peaks["train"],
            "planned": memory.total - GPU_OVERHEAD,
            "parts": asdict(memory),
            "validation_peak": peaks["validation"],
            "validation_planned": validation.total - GPU_OVERHEAD,
            "waits": waits[-1],
        }


def answer(base: Path, number: int, new_tokens: int) -> dict[str, Any]:
    """Generate answers and score labels for one batch, as the evaluation does in serving precision.

    Returns {peak, planned: bytes; waits: values read from the device}.
    """
    prompts = [row.ids[:-ANSWER] for row in rows(number)]
    labels = [[[*range(10 * i, 10 * i + ANSWER - 1), 2] for i in range(LABELS)]] * number
    with rehearsal() as device, mock.patch.object(loading, "native_bfloat16", lambda _: True):
        tokenizer = load_tokenizer(base)
        model = loading.load_for_prediction(base, device.device, precision="serving")
        with device.read():
            way_of_reading(model, Reader)  # the result is cached per model
        waits_before = device.waits
        device.reset_peak()
        with device.read():
            answers = generate_and_score(model, tokenizer, prompts, labels, new_tokens, number)
        assert all(a.status != "error" and len(a.new_ids) == new_tokens for a in answers), answers[0].error
        batch = PromptBatch(number, len(prompts[0]), PREFIX, new_tokens, LABELS * ANSWER)
        memory = answering_memory(model_shape(base), batch, width=2, device="cuda")
        return {
            "peak": device.peak,
            "planned": memory.total - GPU_OVERHEAD,
            "waits": device.waits - waits_before,
        }


class _UnreadLogits(parity._Logits):
    """Logits without values, whose shape is all that can be compared."""

    def append(self, logits: torch.Tensor) -> None:
        self.positions, self.width = self.positions + len(logits), logits.shape[1]

    def divergence(self, other: parity._Logits) -> np.ndarray:
        assert self.positions >= other.positions > 0 and self.width == other.width
        return np.zeros(other.positions)


def compare(base: Path, number: int, new_tokens: int, plant: str = "") -> dict[str, Any]:
    """Run the merge parity test of an adapter, but for the comparison of stored values, which fake tensors lack.

    plant: ``kept`` keeps each model, as a variable would. Returns {peak, planned: bytes; models: bytes on the device when each
    model begins to be loaded}.
    """
    kept: list[Any] = []
    held: list[int] = []
    from_config = fake_gpu._from_config
    examples = rows(number)
    adapted = TrainingSpec(method="lora")

    def encode(*_: Any) -> parity.Rows:
        return parity.Rows([row.ids[:-ANSWER] for row in examples], [row.ids[-ANSWER:] for row in examples])

    with rehearsal() as device, tempfile.TemporaryDirectory() as out:

        def load(*arguments: Any, **options: Any) -> Any:
            held.append(device.now)
            loaded = from_config(*arguments, **options)
            kept.extend([loaded] if plant == "kept" else [])
            return loaded

        def add_adapter(model: Any, _folder: Path) -> Any:
            return METHODS["lora"].add(model, None, adapted, [])[0]

        adapter = Path(out) / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        with (
            mock.patch.object(AutoModelForCausalLM, "from_pretrained", load),
            mock.patch.object(PeftModel, "from_pretrained", add_adapter),
            mock.patch.object(loading, "native_bfloat16", lambda _: True),
            mock.patch.object(parity, "pick_device", lambda: device.device),
            mock.patch.object(parity.Rows, "encode", encode),
            mock.patch.object(parity, "_Logits", _UnreadLogits),
            mock.patch.object(parity, "differing_weights", lambda *_: (0, [])),
            device.read(),
        ):
            parity.parity(
                base, adapter, base, [SimpleNamespace(id=row.id) for row in examples],  # type: ignore[misc]
                max_new_tokens=new_tokens, batch_size=number,
            )  # fmt: skip
        batch = PromptBatch(number, len(examples[0].ids) - ANSWER, PREFIX, new_tokens, ANSWER)
        memory = comparison_memory(model_shape(base), batch, device="cuda")
        return {"peak": device.peak, "planned": memory.total - GPU_OVERHEAD, "models": held}


def attend(base: Path, kernel: str, tokens: int) -> dict[str, Any]:
    """Run one layer's packed attention forward and backward: a prefix of a quarter of the tokens, followed by 16 rows.

    Returns {kept: bytes saved for the backward pass; peak: bytes besides the inputs and the mask}.
    """
    shape = model_shape(base)
    layout = Layout([tokens // 4] + [tokens * 3 // 64] * 16, [-1] + [0] * 16, kernel=kernel)
    total = sum(layout.lengths)
    mask: Any = flex.block_mask(layout, 0, None, torch.device("cpu"))  # CUDA would compile it
    with rehearsal() as device, _flex_operator(mask):
        query, key, value = (
            torch.empty(total, heads, shape.head_dim, dtype=torch.bfloat16, device=device.device, requires_grad=True)
            for heads in (shape.heads, shape.key_heads, shape.key_heads)
        )
        before = device.now
        device.reset_peak()
        if kernel == FLEX:
            out = flex.flex_attend(query, key, value, layout, shape.head_dim**-0.5, None)
        else:
            out = _PackedAttention.apply(query, key, value, layout, shape.head_dim**-0.5, None)
        kept = device.now - before
        out.backward(torch.empty_like(out))
        return {"kept": kept, "peak": device.peak - before}


@contextlib.contextmanager
def _flex_operator(mask: Any) -> Iterator[None]:
    """Replace FlexAttention's compiled kernels by its operator, which saves and returns the same tensors but needs no
    CUDA."""

    def attend(query: Any, key: Any, value: Any, block_mask: Any, scale: float, enable_gqa: bool) -> torch.Tensor:
        mask_parts = tuple(
            torch.empty(t.shape, dtype=t.dtype, device=query.device) if isinstance(t, torch.Tensor) else t
            for t in mask.as_tuple()
        )
        options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False, "WRITE_DQ": True, "BLOCKS_ARE_CONTIGUOUS": False}
        score_mod = lambda score, *_: score  # noqa: E731
        result: torch.Tensor = flex_attention(query, key, value, score_mod, mask_parts, scale, options, (), ())[0]
        return result

    with mock.patch.object(flex, "_kernel", lambda _: attend), mock.patch.object(flex, "block_mask", lambda *_: mask):
        yield


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """Plant a fault in the training step: ``device``, ``sync``, ``wide``, or none for an empty name."""
    losses, weight = fused.token_losses, fused._weight

    def targets_on_cpu(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return losses(logits, torch.zeros(len(targets), dtype=torch.long))

    def host_sync(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(logits).all():
            raise ValueError("not finite")
        return losses(logits, targets)

    def float32_copy(layer: Any, dtype: torch.dtype) -> torch.Tensor:
        return weight(layer, torch.float32).to(dtype)

    faults = {
        "device": ("finetune_pipeline.training.trainer.token_losses", targets_on_cpu),
        "sync": ("finetune_pipeline.training.trainer.token_losses", host_sync),
        "wide": ("finetune_pipeline.training.fused._weight", float32_copy),
    }
    with mock.patch(*faults[fault]) if fault else contextlib.nullcontext():
        yield


def rehearse(cases: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the results of cases {shape, layers, step (of `steps`), and the step's arguments}; {error} for a failing
    case."""
    steps = {"train_step": train_step, "answer": answer, "compare": compare, "attend": attend}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            arguments = dict(case)
            name, layers, step = arguments.pop("shape"), arguments.pop("layers", None), arguments.pop("step")
            base = Path(folder) / f"{name}-{layers}"
            if not base.exists():
                make_base(base, name, layers)
                make_tiny_tokenizer(base)
            try:
                yield steps[step](base, **arguments)
            except Exception as error:  # noqa: BLE001 - tests expect planted faults
                yield {"error": f"{type(error).__name__}: {error}"}


def print_results(cases: Sequence[Mapping[str, Any]]) -> None:
    """Print a line with the result of each case."""
    for result in rehearse(cases):
        print("RESULT " + json.dumps(result), flush=True)
