"""The heavy steps of a task rehearsed on a GPU that is not there: the product's own functions on tensors without data.

    python -m finetune_pipeline_tests.rehearsals '[{"shape": "mistral-7b", …}]'     # prints the results, a line each

A process of its own, since the device it registers would be taken for an accelerator by everything else in the process.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import PartialState
from torch._higher_order_ops.flex_attention import flex_attention
from transformers import TrainingArguments

from finetune_pipeline.models import loading, parity
from finetune_pipeline.models.chat import Encoded, load_tokenizer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import way_of_reading
from finetune_pipeline.planning.answering import PromptBatch, answering_memory
from finetune_pipeline.planning.batches import batch_of
from finetune_pipeline.planning.memory import GPU_OVERHEAD, evaluation_memory, training_memory
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training import flex, fused, packing, sft
from finetune_pipeline.training.attention import _PackedAttention
from finetune_pipeline.training.model import build
from finetune_pipeline.training.prefix_tree import FLEX, Layout
from finetune_pipeline.training.rows import Prepared
from finetune_pipeline_tests.fake_gpu import make_base, rehearsal
from finetune_pipeline_tests.tiny_model import make_tiny_tokenizer

PREFIX, TEXT, ANSWER, LABELS = 300, 100, 5, 6
"""Tokens of the rows: what all begin with, each one's own text, its answer; and how many labels are scored."""


def rows(number: int) -> list[Encoded]:
    """Rows behind one beginning."""
    length = PREFIX + TEXT + ANSWER
    ids = [[*range(PREFIX), *((13 * i + 7 * k) % 5000 for i in range(TEXT + ANSWER))] for k in range(number)]
    return [Encoded(str(k), ids[k], [i >= length - ANSWER for i in range(length)]) for k in range(number)]


@contextlib.contextmanager
def _trains_there(device: torch.device) -> Iterator[None]:
    """The training libraries take the first GPU they find; here they are given this one."""
    begin, setup = PartialState.__init__, TrainingArguments.__dict__["_setup_devices"]

    def started(state: PartialState, *args: Any, **kwargs: Any) -> None:
        begin(state, *args, **kwargs)
        state.device = device

    def chosen(arguments: TrainingArguments) -> torch.device:
        setup.__get__(arguments, type(arguments))
        return device

    with (
        mock.patch.object(PartialState, "__init__", started),
        mock.patch.object(TrainingArguments, "_setup_devices", property(chosen)),
    ):
        yield


def train_step(base: Path, settings: Mapping[str, Any], number: int, plant: str = "") -> dict[str, Any]:
    """Optimiser steps of a training, as :func:`finetune_pipeline.training.sft.train` makes it, each with a pass over the
    validation rows after it.

    {peak, planned: bytes of training; validation_peak, validation_planned: of the passes; waits: values that one pass asked for}
    """
    settings = TrainingSpec.model_validate(settings).model_dump()
    examples = Prepared(rows=rows(number))
    width = {"float32": 4}.get(settings["precision"], 2)
    with rehearsal() as device, _trains_there(device.device), tempfile.TemporaryDirectory() as work:
        tokenizer = load_tokenizer(base)
        built = build(base, settings, torch.bfloat16 if width == 2 else torch.float32, device.device, tokenizer, [])
        own_norms = model_shape(base).own_norms
        with device.read(same=not own_norms):
            packed = settings["shared_prefix"] and packing.supports_shared_prefix(built.model)[0]
            fused.fuse(built.model)
        collator: Any = packing.packed_collator(built.model) if packed else packing.PaddedCollator()
        job = {"settings": settings, "work": work, "stage": "adapter"}
        trainer, _ = sft._trainer(
            job, built, tokenizer, collator, {"train": examples, "validation": examples}, "", 1, False
        )
        size = settings["micro_batch_size"]
        plain = examples.plain_rows()
        # two optimiser steps: in the first one the optimiser has no states yet
        batches = [collator(plain[i : i + size]) for i in range(0, number, size)] * 2
        shape = model_shape(base)
        if settings["method"] != "full" and width == 2:
            # float32 by design: a norm's sums over the hidden states, the loss's logits, what is trained
            device.wide = max(batch["input_ids"].numel() for batch in batches) * shape.hidden
            device.allowed = {(shape.vocabulary,)}
            device.narrow = {(layer.fan_out, layer.fan_in) for layer in shape.linears}
        validated = collator(plain)
        waits: list[int] = []
        peaks: dict[str, int] = {"train": 0, "validation": 0}

        def validate(*_args: Any, **_more: Any) -> None:
            waited, peaks["train"] = device.waits, max(peaks["train"], device.peak)
            device.reset_peak()
            with device.read():
                trainer.validation_loss()
            waits.append(device.waits - waited)
            peaks["validation"] = max(peaks["validation"], device.peak)
            device.reset_peak()

        device.reset_peak()
        with (
            mock.patch.object(trainer, "get_train_dataloader", lambda: batches),
            mock.patch.object(trainer, "get_eval_dataloader", lambda: [validated]),
            mock.patch.object(trainer, "_maybe_log_save_evaluate", validate),
            mock.patch.object(trainer, "_finalize_training", lambda *_a, **_k: None),
            planted(plant),
        ):
            trainer.train()
        assert waits, "no step was made"
        batch = batch_of(plain[:size], settings, bool(packed))
        memory = training_memory(shape, settings, batch, width=width, device="cuda")
        asked = evaluation_memory(shape, settings, batch_of(plain, settings, bool(packed)), memory, width=width)
        return {
            "packed": bool(packed),
            "peak": peaks["train"],
            "planned": memory.needed - GPU_OVERHEAD,
            "parts": asdict(memory),
            "validation_peak": peaks["validation"],
            "validation_planned": asked.needed - GPU_OVERHEAD,
            "waits": waits[-1],
        }


def answer(base: Path, number: int, new_tokens: int, *, comparing: bool = False) -> dict[str, Any]:
    """Answers and label likelihoods of one batch, as the evaluation asks for them in the serving precision; comparing: in
    float32 and with logits along the right answers, as an adapter is compared with PEFT's merge of it.

    {peak, planned: bytes; waits: values the program asked the device for}
    """
    examples = rows(number)
    prompts = [row.ids[:-ANSWER] for row in examples]
    labels = [[[*range(10 * i, 10 * i + ANSWER - 1), 2] for i in range(LABELS)]] * number
    with rehearsal() as device, mock.patch.object(loading, "native_bfloat16", lambda _: True):
        tokenizer = load_tokenizer(base)
        precision = "float32" if comparing else "serving"
        model = loading.load_for_prediction(base, device.device, precision=precision)
        if comparing:
            method = METHODS["lora"]
            with device.read():
                model, _ = method.add(model, tokenizer, TrainingSpec(method="lora").model_dump(), [])
            model.eval()
        with device.read():
            way_of_reading(model, Reader)  # once for a model
        tried = device.waits
        device.reset_peak()
        with device.read():
            answers = generate_and_score(model, tokenizer, prompts, None if comparing else labels, new_tokens, number)
            waits = device.waits - tried
            if comparing:
                gold = parity.Rows(prompts, [row.ids[-ANSWER:] for row in examples])
                trained = parity.teacher_forced_logits(model, gold, number)[0]
                merged = model.merge_and_unload()
                parity.divergence(trained, parity.teacher_forced_logits(merged, gold, number)[0])
                assert not [n for n, _ in merged.named_parameters() if "lora" in n], "the adapter is still there"
        assert all(a.status != "error" and len(a.new_ids) == new_tokens for a in answers), answers[0].error
        asked = PromptBatch(number, len(prompts[0]), PREFIX, new_tokens, ANSWER if comparing else LABELS * ANSWER)
        shape = model_shape(base)
        planned = answering_memory(shape, asked, width=4 if comparing else 2, device="cuda").needed - GPU_OVERHEAD
        return {"peak": device.peak, "planned": planned, "waits": waits}


def attend(base: Path, kernel: str, tokens: int) -> dict[str, Any]:
    """One layer's packed attention, forward and backward: a beginning of a quarter of the tokens, and 16 rows behind it.

    {kept: bytes that wait for the backward pass; peak: bytes beside its inputs and the mask, at most}
    """
    shape = model_shape(base)
    layout = Layout([tokens // 4] + [tokens * 3 // 64] * 16, [-1] + [0] * 16, kernel=kernel)
    total = sum(layout.lengths)
    mask: Any = flex.block_mask(layout, 0, None, torch.device("cpu"))  # on CUDA it is compiled, and made block by block
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
    """FlexAttention as the operator that its compiled kernels stand for: it keeps and gives what they do.

    Only its own checks ask for a CUDA device.
    """

    def attend(query: Any, key: Any, value: Any, block_mask: Any, scale: float, enable_gqa: bool) -> torch.Tensor:
        given = tuple(
            torch.empty(t.shape, dtype=t.dtype, device=query.device) if isinstance(t, torch.Tensor) else t
            for t in mask.as_tuple()
        )
        options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False, "WRITE_DQ": True, "BLOCKS_ARE_CONTIGUOUS": False}
        scores = lambda score, *_: score  # noqa: E731
        result: torch.Tensor = flex_attention(query, key, value, scores, given, scale, options, (), ())[0]
        return result

    with mock.patch.object(flex, "_kernel", lambda _: attend), mock.patch.object(flex, "block_mask", lambda *_: mask):
        yield


@contextlib.contextmanager
def planted(fault: str) -> Iterator[None]:
    """A fault put into the training step: ``device``, ``sync`` or ``wide``; none for the empty name."""
    losses, weight = fused.token_losses, fused._weight

    def on_the_processor(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return losses(logits, torch.zeros(len(targets), dtype=torch.long))

    def waiting(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(logits).all():
            raise ValueError("not finite")
        return losses(logits, targets)

    def in_float32(layer: Any, dtype: torch.dtype) -> torch.Tensor:
        return weight(layer, torch.float32).to(dtype)

    faults = {
        "device": ("finetune_pipeline.training.trainer.token_losses", on_the_processor),
        "sync": ("finetune_pipeline.training.trainer.token_losses", waiting),
        "wide": ("finetune_pipeline.training.fused._weight", in_float32),
    }
    with mock.patch(*faults[fault]) if fault else contextlib.nullcontext():
        yield


def rehearse(cases: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results of cases {shape, layers, step (train_step, answer or attend), and its arguments}; a case that fails gives {error}."""
    with tempfile.TemporaryDirectory() as place:
        for case in cases:
            given = dict(case)
            name, layers, step = given.pop("shape"), given.pop("layers", None), given.pop("step")
            base = Path(place) / f"{name}-{layers}"
            if not base.exists():
                make_base(base, name, layers)
                make_tiny_tokenizer(base)
            try:
                yield {"train_step": train_step, "answer": answer, "attend": attend}[step](base, **given)
            except Exception as error:  # noqa: BLE001 - the test asks for it
                yield {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for result in rehearse(json.loads(sys.argv[1])):
        print("RESULT " + json.dumps(result), flush=True)
