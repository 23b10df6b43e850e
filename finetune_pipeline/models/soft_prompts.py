"""Converts a prompt-tuned model to a plain one with added tokens.

Prompt tuning trains vectors that take the place of token embeddings. Stored as rows of the embedding matrix, with names in
the tokenizer, they become tokens, and any server can run the model. The model must not generate the new tokens: see
:func:`_unlikely_rows`. Prefixes, which cannot become tokens, are in :mod:`.prefixes`.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.checkpoint import Checkpoint, Copy, write_record
from finetune_pipeline.models.identity import model_folder, model_record
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.trial import logits_alone
from finetune_pipeline.models.loading import load_for_prediction, pick_device
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS, EMBEDDINGS, HEADS
from finetune_pipeline.models.parity import Rows, check_finite, compare, differing_weights, teacher_forced_logits
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile

NAME = "<|soft_{}|>"
_SUPPRESSING_BIAS = -1e4
"""Bias of the new tokens if the head has biases: their probability is zero in every float dtype."""

_EXPORT_ADAPTER = "export the adapter alone (`finetune export --adapter`)"
_PROBE = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here."}]


def plain_model(base: Path, adapter: Path, out: Path, *, float32: bool = False) -> dict[str, Any]:
    """Write base and prompt-tuned `adapter` as a plain model to out/model, and its record to out/model.json; return the facts.

    The chat template puts the tokens first in every rendered text; ``prompt_prefix`` of the facts is the same as a string, for
    servers that get plain text. float32: store the embeddings in float32.
    Raises JobError if the base's embeddings cannot be extended, or if the template would not give the same tokens.
    """
    source, target = model_folder(base), out / "model"
    checkpoint = Checkpoint(source)
    vectors = TensorFile(adapter / ADAPTER_WEIGHTS).tensor("prompt_embeddings").float()  # [tokens, width]
    name, scale = _embedding(checkpoint)
    original, extended, ids, tokens = _extended_tokenizer(source, len(vectors))
    dtype = "F32" if float32 else checkpoint.entry(name).dtype
    copy = Copy.of(checkpoint)
    rows = max(checkpoint.entry(name).rows, max(ids) + 1)
    _with_rows(copy, name, ids, vectors / scale, rows, dtype)
    untied = checkpoint.tied
    head = checkpoint.head or checkpoint.usual_head
    if untied and head not in copy.outputs:
        copy.add(head, like=name)
    _with_rows(copy, head, ids, _unlikely_rows(checkpoint, copy.outputs[head].source, ids), rows, dtype)
    bias = head.removesuffix("weight") + "bias"
    if bias in checkpoint.place:
        _with_rows(copy, bias, ids, torch.full((len(ids),), _SUPPRESSING_BIAS), rows, checkpoint.entry(bias).dtype)
    copy.config = {"vocab_size": rows, "tie_word_embeddings": False} | ({"dtype": "float32"} if float32 else {})
    shutil.rmtree(target, ignore_errors=True)
    files = copy.write(target)
    extended.save_pretrained(target)
    _suppress(target, checkpoint.config, ids)
    _check_same_text(original, extended, ids)
    files |= {path.name: digest_file(path) for path in target.iterdir() if path.suffix != ".safetensors"}
    soft = {"soft_tokens": tokens, "soft_ids": ids, "prompt_prefix": "".join(tokens), "untied": untied}
    sha256 = digest_file(adapter / ADAPTER_WEIGHTS)
    return write_record(out, "model", base, files, kind="prompt", **soft, dtype=copy.dtypes, adapter_sha256=sha256)


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


def _extended_tokenizer(folder: Path, number: int) -> tuple[Any, Any, list[int], list[str]]:
    """Return (the base's tokenizer, a copy with `number` new tokens also in its template, their ids, their names)."""
    from transformers import AddedToken, AutoTokenizer

    original, extended = (
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False) for _ in range(2)
    )
    vocabulary = extended.get_vocab()
    first_number = next(i for i in range(len(vocabulary) + 1) if NAME.format(i) not in vocabulary)
    tokens = [NAME.format(i) for i in range(first_number, first_number + number)]
    extended.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)
    ids = [int(extended.convert_tokens_to_ids(t)) for t in tokens]  # type: ignore[arg-type]
    prefix, template = "".join(tokens), extended.chat_template or ""
    templates = {k: prefix + t for k, t in template.items()} if isinstance(template, dict) else None
    extended.chat_template = templates or prefix + template
    return original, extended, ids, tokens


def _check_same_text(original: Any, extended: Any, ids: Sequence[int]) -> None:
    """Check that the new template gives the new tokens, followed by exactly the tokens of the old one."""
    rendered = [
        list(t.apply_chat_template(_PROBE, tokenize=True, return_dict=True)["input_ids"]) for t in (original, extended)
    ]
    if rendered[1] != [*ids, *rendered[0]]:
        raise JobError(
            "with new tokens in front, this tokenizer splits the following text differently, so the model would get input it "
            "was not trained on",
            _EXPORT_ADAPTER,
        )


def _with_rows(copy: Copy, name: str, ids: Sequence[int], rows: torch.Tensor, total: int, dtype: str) -> None:
    """Extend tensor `name` of the copy to `total` rows, with `rows` at `ids`."""
    kind = TORCH_TYPES[dtype]
    old = copy.outputs[name]
    source, shape = old.source, old.planned.shape

    def make(file: TensorFile) -> Iterator[torch.Tensor]:
        positions = torch.tensor(list(ids))
        for start, stop in file.blocks(source):
            block = file.rows(source, start, stop).to(kind)
            inside = (positions >= start) & (positions < stop)
            block[positions[inside] - start] = rows[inside].to(kind)
            yield block
        tail = torch.zeros((total - shape[0], *shape[1:]), dtype=kind)
        beyond = positions >= shape[0]
        tail[positions[beyond] - shape[0]] = rows[beyond].to(kind)
        yield tail

    copy.change(name, make, dtype=dtype, shape=(total, *shape[1:]))


def _unlikely_rows(base: Checkpoint, name: str, ids: Sequence[int]) -> torch.Tensor:
    """Return head rows that keep the new tokens from being chosen: the mean of all other rows, in float32.

    For any input, their logit is then the mean of the other tokens' logits. It is below the maximum, so greedy decoding never
    chooses them, and by Jensen's inequality their probability is at most 1 / vocabulary at any temperature (with a 135M
    model: at worst 40 times less than that). Both hold up to the rounding of the stored row. A row of zeros has no such
    bound: its logit is 0, while all others may be negative. A very negative logit for every input needs a bias, which most
    heads lack.
    """
    total, count = torch.zeros(base.entry(name).shape[1], dtype=torch.float64), 0
    file = base.place[name]
    for start, stop in file.blocks(name):
        keep = torch.ones(stop - start, dtype=torch.bool)
        keep[[i - start for i in ids if start <= i < stop]] = False
        total += file.rows(name, start, stop)[keep].double().sum(0)
        count += int(keep.sum())
    return (total / count).float().expand(len(ids), -1)


def _suppress(folder: Path, config: dict[str, Any], ids: Sequence[int]) -> None:
    """Suppress the new tokens in the generation config, which transformers reads; for others see :func:`_unlikely_rows`."""
    path = folder / "generation_config.json"
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    generation = read_json(path) if path.exists() else {k: config[k] for k in ends if config.get(k) is not None}
    generation["suppress_tokens"] = sorted({*(generation.get("suppress_tokens") or []), *ids})
    write_json(path, generation)


def soft_parity(
    base: Path,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int,
    stage: str = "merged_model",
) -> dict[str, Any]:
    """Compare a soft prompt under PEFT with the served form: the plain model `merged`, or the base with its prefix.

    Same facts as :func:`finetune_pipeline.models.parity.parity`; merge_kl is None. Leaves out the logits of the new tokens,
    which PEFT lacks; new_tokens_chosen counts answers that contain one.
    """
    device, prefix = pick_device(), adapter_kind(adapter) == "prefix"
    soft = [] if prefix else list(model_record(merged)["soft_ids"])
    from peft import PeftModel

    peft = PeftModel.from_pretrained(load_for_prediction(base, device), adapter).eval()
    compared, wrong_weights = (0, []) if prefix else differing_weights(peft.get_base_model(), merged)
    # the matrices with new rows are tested by their outputs
    wrong_weights = [n for n in wrong_weights if not n.endswith((*EMBEDDINGS, *HEADS, "lm_head.bias"))]
    tokenizer = load_tokenizer(base if prefix else merged)
    served = load_for_prediction(base, device, adapter) if prefix else load_for_prediction(merged, device)
    rows = Rows.encode(tokenizer, examples)
    generation_args = (rows.prompts, None, max_new_tokens, batch_size)
    answers = generate_and_score(served, tokenizer, *generation_args, stage, "soft prompt, served")
    stored = check_finite(_without(teacher_forced_logits(served, rows, batch_size)[0], soft), "served model")
    trained, same_answers = _under_peft(peft, rows, answers, soft, len(stored))
    chosen = sum(bool(set(a.new_ids) & set(soft)) for a in answers)
    facts = compare(
        trained, stored, same_answers, examples, compared, wrong_weights, correct=not wrong_weights and not chosen
    )
    return {**facts, "merge_kl": None, "merge_kl_limit": None, "new_tokens_chosen": chosen}


def _without(values: torch.Tensor, columns: Sequence[int]) -> torch.Tensor:
    keep = torch.ones(values.shape[-1], dtype=torch.bool)
    keep[[c for c in columns if c < values.shape[-1]]] = False
    return values[..., keep]


@torch.no_grad()
def _under_peft(
    model: Any, rows: Rows, served: Sequence[Answer], soft: Sequence[int], positions: int
) -> tuple[torch.Tensor, list[bool]]:
    """Return the same as parity.teacher_forced_logits for PEFT's model, one row at a time; `positions`: how many logits."""
    parts: list[torch.Tensor] = []
    same_answers: list[bool] = []
    for served_prompt, gold, answer in zip(rows.prompts, rows.gold, served, strict=True):
        prompt = [t for t in served_prompt if t not in soft]  # PEFT puts the vectors there itself
        if sum(map(len, parts)) < positions:
            parts.append(_without(logits_alone(model, prompt, gold, logits_to_keep=len(gold)).float().cpu(), soft))
        ids = answer.new_ids
        peft_answer = logits_alone(model, prompt, ids, logits_to_keep=len(ids)).argmax(-1).tolist() if ids else []
        same_answers.append(answer.status != "error" and peft_answer == ids)
    return check_finite(torch.cat(parts)[:positions], "adapter on the base"), same_answers
