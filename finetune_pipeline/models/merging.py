"""Merges an adapter into the unquantized base, tensor by tensor: W + scaling * B A in float32, stored in the base's dtype.

It never merges into 4-bit weights: these differ from the base by their rounding error, which the merged model would keep.
Memory is needed for a few rows and one layer's adapter matrices only, regardless of the model's size.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import Adapter, adapter_kind, changed_rows, read_adapter
from finetune_pipeline.models.generation_settings import FILE as GENERATION_SETTINGS
from finetune_pipeline.models.generation_settings import write_greedy_settings
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS, FLOATS, text_files, weight_files
from finetune_pipeline.models.weights import Checkpoint, Copy, write_record
from finetune_pipeline.spec.methods import kind_of

_FIX_OTHER_BASE = "merge the adapter into the base model it was trained on"
_LEAST_AGREEMENT = 0.9
"""If a smaller share of greedy answers is equal, float32 is tried."""


def merge(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> dict[str, Any]:
    """Write the merged model to out/model and its record to out/model.json; return the facts of the record.

    base: a model folder or artifact; adapter: a low-rank adapter, or the whole model of a full fine-tune, which
    is used unchanged. float32: store the changed tensors in float32, which rounds no change away.
    Raises JobError for a quantized base, an adapter that does not fit it, and like :func:`read_adapter`.
    """
    source, target = model_folder(base), out / "model"
    shutil.rmtree(target, ignore_errors=True)
    if adapter_kind(adapter) == "full":
        dtype = _use_full_model(adapter, source, target)
        write_greedy_settings(target)
        files = {p.name: digest_file(p) for p in target.iterdir()}
        facts = {"kind": "full", "merged_tensors": 0, "scaling": None, "adapter_sha256": None}
    else:
        low_rank = read_adapter(adapter)
        copy = plan_merge(Checkpoint(source), low_rank, float32=float32)
        files, dtype = copy.write(target), copy.dtypes
        write_greedy_settings(target)
        files[GENERATION_SETTINGS] = digest_file(target / GENERATION_SETTINGS)
        facts = {
            "kind": "lora",
            "merged_tensors": len(low_rank.changes),
            "scaling": low_rank.scaling,
            "adapter_sha256": digest_file(adapter / ADAPTER_WEIGHTS),
        }
    return write_record(out, "model", base, files, dtype=dtype, **facts)


def plan_merge(base: Checkpoint, adapter: Adapter, *, float32: bool = False) -> Copy:
    """Plan the copy of `base` with the adapter merged in. Raises JobError naming every tensor that does not fit."""
    if base.config.get("quantization_config"):
        reason = f"the base model {base.folder.name!r} is quantized: merging into it would keep its rounding errors"
        raise JobError(reason, "set base_model to the unquantized model")
    if not adapter.changes.keys() <= base.place.keys():
        from finetune_pipeline.models.loading import stored_names

        file_names = stored_names(base.folder)
        adapter = replace(adapter, changes={file_names.get(n, n): change for n, change in adapter.changes.items()})
    copy = Copy.of(base)
    problems = [problem for name in adapter.changes if (problem := _misfit(base, adapter, name))]
    if problems:
        raise JobError("\n".join([*problems[:20], f"({len(problems)} tensors do not fit)"]), _FIX_OTHER_BASE)
    for name in adapter.changes:
        dtype = "F32" if float32 else base.entry(name).dtype
        copy.change(name, changed_rows(adapter, name, dtype), dtype=dtype)
    if float32:
        copy.config["dtype"] = "float32"
    return copy


def _misfit(base: Checkpoint, adapter: Adapter, name: str) -> str | None:
    """Return why the adapter's change of a tensor does not fit the base; None if it does."""
    if name not in base.place:
        return f"the adapter changes {name!r}, which the base model does not have"
    entry, adapter_tensors, change = base.entry(name), adapter.file.entries, adapter.changes[name]
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
    reshaped = sorted(
        n for n in base.place if n in checkpoint.place and base.entry(n).shape != checkpoint.entry(n).shape
    )
    if reshaped:
        raise JobError(f"the trained model's {reshaped[0]} has a different shape than the base's", _FIX_OTHER_BASE)
    target.mkdir(parents=True)
    for path in [*weight_files(trained), *text_files(trained)]:
        _link_or_copy(path, target / path.name)
    for path in text_files(source):
        if "safetensors" not in path.name and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
    return Copy.of(checkpoint).dtypes


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def merge_and_compare(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job of :func:`finetune_pipeline.worker.jobs.merge_job`. Returns the facts, with the comparison under ``parity``.

    A correct merge that exceeds the limit through rounding to the base's dtype is written again in float32:
    ``stored_float32_because`` says why, and parity.rounding has the figures of the rounded merge. A prompt-tuned adapter
    becomes a plain model with added tokens; a prefix becomes a reference to the base plus the adapter.
    """
    from finetune_pipeline.data.examples import read_examples
    from finetune_pipeline.models.parity import MEAN_KL_LIMIT, parity
    from finetune_pipeline.models.soft_prompts import plain_model, prefix_reference
    from finetune_pipeline.reporting import say

    base, adapter, out = Path(job["base"]), Path(job["adapter"]), Path(job["out"])
    rows = sorted(read_examples(Path(job["examples"])), key=lambda e: e.id)
    examples = rows[: job["parity_rows"]]
    if not examples:
        problem = f"{Path(job['examples']).name} contains no examples to compare the merged model on"
        raise JobError(problem, "check the counts of the split")
    options = {k: job[k] for k in ("max_new_tokens", "batch_size", "precision", "stage")}
    kind = adapter_kind(adapter)
    write_model: Callable[..., dict[str, Any]] = {"prompt": plain_model, "prefix": prefix_reference}.get(kind, merge)
    facts = write_model(base, adapter, out)
    comparison = parity(base, adapter, out, examples, **options)
    within_limits = comparison["mean_kl"] <= MEAN_KL_LIMIT and comparison["same_greedy_share"] >= _LEAST_AGREEMENT
    if comparison["right"] and not within_limits and kind in ("lora", "prompt") and facts["dtype"] != "float32":
        reason = (
            f"rounded to {facts['dtype']}, the model is {comparison['mean_kl']:.2g} nats per token from the trained one (limit "
            f"{MEAN_KL_LIMIT:g}) and gives {comparison['same_greedy_share']:.0%} of its answers; the trained change is too small "
            "for that dtype"
        )
        say(f"{job['stage']}: {reason}; storing the changed weights in float32")
        facts = {**write_model(base, adapter, out, float32=True), "stored_float32_because": reason}
        rounded = {k: comparison[k] for k in ("mean_kl", "max_kl", "same_greedy_share")}
        comparison = {**parity(base, adapter, out, examples, **options), "rounding": rounded}
    return {
        **facts,
        "sentence": f"{kind_of(kind).sentence}; weights in {facts['dtype']}",
        "serving": _serving(job, base, rows),
        "parity": {"kind": kind, **comparison},
    }


def _serving(job: dict[str, Any], base: Path, examples: Sequence[Any]) -> dict[str, Any]:
    """Return the settings of training and comparison that a server must use too. examples: all rows, for their system prompt."""
    from finetune_pipeline.models.chat import end_ids, load_tokenizer

    system_prompts = Counter(m["content"] for e in examples for m in e.messages[:1] if m["role"] == "system")
    tokenizer = load_tokenizer(base)
    ends = sorted(end_ids(tokenizer))
    return {
        "system_prompt": system_prompts.most_common(1)[0][0] if system_prompts else None,
        "labels": list(job["labels"]),
        "max_new_tokens": job["max_new_tokens"],
        "precision": job["precision"],
        "stop_token_ids": ends,
        "stop_tokens": [tokenizer.convert_ids_to_tokens(i) for i in ends],
    }
