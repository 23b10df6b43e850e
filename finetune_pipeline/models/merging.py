"""Merges an adapter into the unquantized base by PEFT: W + scaling * B A in float32, stored in the base's dtype.

It never merges into 4-bit weights: these differ from the base by their rounding error, which the merged model would keep.
All tensors that the adapter does not change are those of the base's files, also ones that transformers would not load.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open

from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models.adapters import CLASSIFIER_HEAD, Adapter, adapter_kind, read_adapter
from finetune_pipeline.models.facts import MergedModel, RoundedMerge, Serving, StoredModel
from finetune_pipeline.models.generation_settings import write_greedy_settings
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import ADAPTER_CLASSES, ADAPTER_WEIGHTS, FLOATS, text_files, weight_files
from finetune_pipeline.models.weights import Checkpoint, digests, dtypes, write_record
from finetune_pipeline.spec.methods import kind_of

_FIX_OTHER_BASE = "merge the adapter into the base model it was trained on"
_FIX_TRAIN = "train with one of the methods of training.method"
_LEAST_AGREEMENT = 0.9
"""If a smaller share of greedy answers is equal, float32 is tried."""


def merge(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> StoredModel:
    """Write the merged model, or classifier, to out/model and its record to out/model.json; return the record's facts.

    base: a model folder or artifact; adapter: a low-rank adapter, or the whole model of a full fine-tune, which
    is used unchanged. float32: store the changed tensors in float32, which rounds no change away.
    Raises JobError for a quantized base, an adapter that does not fit it, and like :func:`read_adapter`.
    """
    source, target = model_folder(base), out / "model"
    shutil.rmtree(target, ignore_errors=True)
    if adapter_kind(adapter) == "full":
        dtype = _use_full_model(adapter, source, target)
        write_greedy_settings(target)
        return write_record(out, "model", base, digests(target), kind="full", dtype=dtype, merged_tensors=0)
    checkpoint, low_rank = Checkpoint(source), read_adapter(adapter)
    merged = merged_weights(checkpoint, low_rank, float32=float32)
    config: dict[str, object] = {"dtype": "float32"} if float32 else {}
    added: dict[str, torch.Tensor] = {}
    if low_rank.head:
        added, settings = merged_head(checkpoint, low_rank, float32=float32)
        config |= settings
    without = checkpoint.heads if low_rank.head else ()
    dtype = checkpoint.write_copy(target, {**merged, **added}, config, without)
    write_greedy_settings(target)
    return write_record(
        out,
        "model",
        base,
        digests(target),
        kind="classifier" if low_rank.head else "lora",
        dtype=dtype,
        merged_tensors=len(merged),
        scaling=low_rank.scaling,
        adapter_sha256=digest_file(adapter / ADAPTER_WEIGHTS),
    )


def merged_head(
    base: Checkpoint, adapter: Adapter, *, float32: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Return a classifier's head in the dtype of the base's embeddings or in float32, and the settings of its config.json."""
    from finetune_pipeline.models.chat import load_tokenizer
    from finetune_pipeline.models.classifier import adapter_classes, classifier_settings

    classes, head = adapter_classes(adapter.folder), trained_head(adapter)
    if len(head) != len(classes):
        problem = f"the head has {len(head)} outputs, but {ADAPTER_CLASSES} names {len(classes)} labels"
        raise JobError(problem, "use the whole folder that training wrote")
    dtype = torch.float32 if float32 or base.embedding is None else base.tensor(base.embedding).dtype
    settings = classifier_settings(base.folder, classes, load_tokenizer(base.folder).pad_token_id)
    return {CLASSIFIER_HEAD: head.to(dtype)}, settings


def trained_head(adapter: Adapter) -> torch.Tensor:
    """Return the head of a classifier's adapter, as it was trained."""
    with safe_open(adapter.folder / ADAPTER_WEIGHTS, "pt") as file:
        head: torch.Tensor = file.get_tensor(adapter.head)
    return head


def merged_weights(base: Checkpoint, adapter: Adapter, *, float32: bool = False) -> dict[str, torch.Tensor]:
    """Return PEFT's merge of each weight that the adapter changes, by its name in the base's files, in the base's dtype or in
    float32. Raises JobError naming every tensor that does not fit."""
    from finetune_pipeline.models.loading import load_with_adapter, stored_names
    from finetune_pipeline.models.widening import low_rank_layers

    if base.config.get("quantization_config"):
        reason = f"the base model {base.folder.name!r} is quantized: merging into it would keep its rounding errors"
        raise JobError(reason, "set base_model to the unquantized model")
    file_names = {} if adapter.changes.keys() <= base.place.keys() else stored_names(base.folder)
    adapter = replace(adapter, changes={file_names.get(n, n): change for n, change in adapter.changes.items()})
    problems = [problem for name in adapter.changes if (problem := _misfit(base, adapter, name))]
    if problems:
        raise JobError("\n".join([*problems[:20], f"({len(problems)} tensors do not fit)"]), _FIX_OTHER_BASE)
    model = load_with_adapter(base.folder, adapter.folder, torch.device("cpu"))
    names = ((f"{name}.weight", layer.get_base_layer()) for name, layer in low_rank_layers(model.get_base_model()))
    layers = {file_names.get(name, name): layer for name, layer in names}
    if layers.keys() != adapter.changes.keys():
        others = ", ".join(sorted(layers.keys() ^ adapter.changes.keys())[:5])
        raise JobError(f"the adapter's configuration and its file do not change the same weights: {others}", _FIX_TRAIN)
    for name, layer in layers.items():  # in the dtype of the file: the configuration may name another
        stored = base.tensor(name)
        layer.weight.data = stored.float() if float32 else stored
    model.merge_and_unload()
    return {name: layer.weight.data for name, layer in layers.items()}


def _misfit(base: Checkpoint, adapter: Adapter, name: str) -> str | None:
    """Return why the adapter's change of a tensor does not fit the base; None if it does."""
    if name not in base.place:
        return f"the adapter changes {name!r}, which the base model does not have"
    entry, adapter_tensors, change = base.entries[name], adapter.entries, adapter.changes[name]
    if entry.dtype not in FLOATS:
        stored = f"the base's {name} is stored as {entry.dtype}"
        return f"{stored}, which is quantized: set base_model to the unquantized model"
    shape = (adapter_tensors[change.b].shape[0], adapter_tensors[change.a].shape[1])
    if change.magnitude is not None and adapter_tensors[change.magnitude].shape != shape[:1]:
        return f"the adapter's magnitudes of {name} have the shape {adapter_tensors[change.magnitude].shape}, not {shape[:1]}"
    if shape != entry.shape:
        return f"the adapter's change of {name} has shape {shape}, but the base's weight has {entry.shape}"
    return None


def _use_full_model(trained: Path, source: Path, target: Path) -> str:
    """Build the model from a full fine-tune's folder: link (or copy) its files, and take missing ones from the base. Returns
    the dtypes of its tensors."""
    checkpoint, base = Checkpoint(trained), Checkpoint(source)
    shared = base.entries.keys() & checkpoint.entries.keys()
    reshaped = sorted(name for name in shared if base.entries[name].shape != checkpoint.entries[name].shape)
    if reshaped:
        raise JobError(f"the trained model's {reshaped[0]} has a different shape than the base's", _FIX_OTHER_BASE)
    target.mkdir(parents=True)
    for path in [*weight_files(trained), *text_files(trained)]:
        _link_or_copy(path, target / path.name)
    for path in text_files(source):
        if "safetensors" not in path.name and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
    return dtypes(checkpoint.tensors())


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def merge_and_compare(job: MergeJob) -> MergedModel:
    """Run a job of :class:`finetune_pipeline.jobs.MergeJob`. Returns the facts of merged_model.

    A correct merge that exceeds the limit through rounding to the base's dtype is written again in float32:
    ``stored_float32_because`` says why, and parity.rounding has the figures of the rounded merge. A prompt-tuned adapter
    becomes a plain model with added tokens; a prefix becomes a reference to the base plus the adapter.
    """
    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.class_parity import class_parity
    from finetune_pipeline.models.parity import MEAN_KL_LIMIT, parity
    from finetune_pipeline.models.soft_prompts import plain_model, prefix_reference
    from finetune_pipeline.reporting import say

    base, adapter, out = job.base, job.adapter, job.out
    rows = sorted(read_examples(job.examples), key=lambda e: e.id)
    examples = rows[: job.parity_rows]
    if not examples:
        problem = f"{job.examples.name} contains no examples to compare the merged model on"
        raise JobError(problem, "check the counts of the split")
    kind = adapter_kind(adapter)
    compare = partial(
        class_parity if kind == "classifier" else parity,
        base,
        adapter,
        out,
        examples,
        max_new_tokens=job.max_new_tokens,
        batch_size=job.batch_size,
        precision=job.precision,
        stage=job.stage,
    )
    write_model: Callable[..., StoredModel] = {"prompt": plain_model, "prefix": prefix_reference}.get(kind, merge)
    model, reason = write_model(base, adapter, out), None
    comparison = compare()
    mean_kl, max_kl, share = comparison.mean_kl, comparison.max_kl, comparison.same_greedy_share
    assert mean_kl is not None and max_kl is not None and share is not None
    within_limits = comparison.passed and share >= _LEAST_AGREEMENT
    rounds = kind in ("lora", "classifier", "prompt") and model.dtype != "float32"
    if comparison.right and not within_limits and rounds:
        distance = f"{mean_kl:.2g} nats per token from the trained one (limit {MEAN_KL_LIMIT:g})"
        if comparison.served_kl is not None:
            limits = f"limits {MEAN_KL_LIMIT:g} and {comparison.served_kl_limit:g}"
            distance = f"{mean_kl:.2g} nats per answer from the trained one, and {comparison.served_kl:.2g} as served ({limits})"
        reason = (
            f"rounded to {model.dtype}, the model is {distance} and gives {share:.0%} of its answers; the trained change is too "
            "small for that dtype"
        )
        say(f"{job.stage}: {reason}; storing the changed weights in float32")
        model = write_model(base, adapter, out, float32=True)
        rounding = RoundedMerge(mean_kl=mean_kl, max_kl=max_kl, same_greedy_share=share, served_kl=comparison.served_kl)
        comparison = msgspec.structs.replace(compare(), rounding=rounding)
    return MergedModel(
        **msgspec.structs.asdict(model),
        sentence=f"{kind_of(kind).sentence}; weights in {model.dtype}",
        serving=_serving(job, base, rows),
        parity=comparison,
        stored_float32_because=reason,
    )


def _serving(job: MergeJob, base: Path, examples: Sequence[Any]) -> Serving:
    """Return how to serve the model. examples: all rows, for their system prompt."""
    from finetune_pipeline.models.chat import end_ids, load_tokenizer

    system_prompts = Counter(m["content"] for e in examples for m in e.messages[:1] if m["role"] == "system")
    tokenizer = load_tokenizer(base)
    ends = sorted(end_ids(tokenizer))
    return Serving(
        system_prompt=system_prompts.most_common(1)[0][0] if system_prompts else None,
        labels=list(job.labels),
        max_new_tokens=job.max_new_tokens,
        precision=job.precision,
        stop_token_ids=ends,
        stop_tokens=[tokenizer.convert_ids_to_tokens(i) for i in ends],
    )
