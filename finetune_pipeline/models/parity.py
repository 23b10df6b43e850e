"""Merge parity: three tests that the stored model equals the trained one.

1. *Is the formula correct?* Compares the adapter on the unquantized base with PEFT's merge of the two: next-token
   distributions must agree up to float32 noise (``merge_kl``).
2. *Are the stored weights correct?* Compares every stored tensor with that merge, or with the base's: it must be the merge,
   rounded once to the stored dtype (``weights_off`` names the others). A layer left out, transposed, scaled wrongly, or merged
   into 4-bit weights fails here, even if the answers hardly change.
3. *What does rounding cost?* Compares the adapter on the base with the stored weights (``mean_kl``, ``same_greedy``). Rounding
   is not an error of the merge: an update of a few steps may be smaller than half a bfloat16 step nearly everywhere, and is
   then lost. Above the limit the merge is stored in float32 (see :mod:`.merging`).

All three compute in float32, from weights that stay as stored (:mod:`.widening`). One model is in memory at a time: the logits of
each go to a file. The served model gives its answers in the precision it is served in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind
from finetune_pipeline.models.chat import common_prefix, encode_answer, encode_prompt, load_tokenizer
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.models.identity import model_folder, model_record
from finetune_pipeline.models.inference.generated import COMPARED_TOKENS, Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.memory import fits_memory
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import logits_alone, rows_at_once
from finetune_pipeline.models.loading import load_for_comparison, load_for_prediction, pick_device, stored_names
from finetune_pipeline.models.model_files import EMBEDDINGS, HEADS
from finetune_pipeline.models.weights import Checkpoint
from finetune_pipeline.models.widening import low_rank_layers, merged_in_float32, widened

MEAN_KL_LIMIT = 0.005
"""Limit of the cost of rounding, in nats per token. Measured with a 135M model and its adapter for ticket labels: a full
training in bfloat16 8e-5 to 0.001, an adapter of six steps 0.09 (most of its update rounded away), 4-bit weights 0.16."""

MERGE_KL_LIMIT = 1e-5
"""Limit of the formula test, in nats per token: both sides in float32, where a correct merge gives at most 1e-8."""

_MOST_POSITIONS = 1024
_BLOCK = 64
"""Positions compared at a time."""
_FORMULA_ROWS = 2
"""Rows of the formula test: a wrong formula is wrong on every one of them."""


@dataclass(frozen=True)
class Rows:
    """The compared rows: prompts and reference answers as token ids."""

    prompts: list[list[int]]
    gold: list[list[int]]

    @classmethod
    def encode(cls, tokenizer: Any, examples: Sequence[Example]) -> Rows:
        prompts = [encode_prompt(tokenizer, e.prompt_messages, e.tools) for e in examples]
        gold = [encode_answer(tokenizer, e.prompt_messages, e.messages[-1], e.tools) for e in examples]
        return cls(prompts, gold)


def parity(
    base: Path,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_size: int,
    precision: str = "serving",
    stage: str = "merged_model",
) -> Parity:
    """Compare what was trained, an `adapter` of `base` or a whole model, with its served form `merged` on `examples`.

    precision: of the served model's answers. Compared are: logits of both along the right answers; answers of the served model
    that both would give, token by token; stored weights, and (low-rank adapters only) PEFT's merge. A soft prompt is compared
    with its plain model, or the base with its prefix, without the logits of new tokens, which PEFT lacks.
    Raises JobError if logits of either side are not finite.
    """
    kind = adapter_kind(adapter)
    is_soft_prompt = kind in ("prompt", "prefix")
    new_tokens = set(model_record(merged).soft_ids) if kind == "prompt" else set()
    tokenizer = load_tokenizer(merged if kind == "prompt" else base)
    rows, device = Rows.encode(tokenizer, examples), pick_device()
    served_name = "served model" if is_soft_prompt else "merged model"
    served, prefix = (base, adapter) if kind == "prefix" else (merged, None)
    # each model is freed before the next one is loaded: no variable refers to it
    answers = generate_and_score(
        load_for_prediction(served, device, prefix, precision),
        tokenizer, rows.prompts, None, max_new_tokens, batch_size, stage, served_name,
    )  # fmt: skip
    with _Logits(merged, served_name) as stored, _Logits(merged, "trained model") as trained:
        served_choices = read_along(
            load_for_comparison(served, device, prefix), rows, batch_size, answers, stored, new_tokens
        )
        merge_kl, compared, wrong_weights = None, 0, list[str]()
        if kind == "full":
            trained_choices = read_along(load_for_comparison(adapter, device), rows, batch_size, answers, trained)
            compared, wrong_weights = differing_weights(adapter, merged)
        else:
            peft = load_for_comparison(base, device, adapter=adapter)
            if is_soft_prompt:
                trained_choices = _read_along_soft_prompt(peft, rows, answers, trained, new_tokens)
            else:
                trained_choices = read_along(peft, rows, batch_size, answers, trained)
                merge_kl = _formula_kl(peft, rows, batch_size, trained)
            if kind != "prefix":
                compared, wrong_weights = differing_weights(base, merged, peft)
        kl = trained.divergence(stored)
    if kind == "prompt":  # the matrices with new rows are tested by their outputs
        wrong_weights = [n for n in wrong_weights if not n.endswith((*EMBEDDINGS, *HEADS, "lm_head.bias"))]
    same_answers = [
        answer.status != "error" and chosen == trained_chosen
        for answer, chosen, trained_chosen in zip(answers, served_choices, trained_choices, strict=True)
    ]
    new_tokens_chosen = sum(not new_tokens.isdisjoint(answer.new_ids) for answer in answers)
    right = not wrong_weights and not new_tokens_chosen and (merge_kl is None or merge_kl <= MERGE_KL_LIMIT)
    mean_kl = float(kl.mean())
    return Parity(
        kind=kind,
        rows=len(examples),
        passed=right and mean_kl <= MEAN_KL_LIMIT,
        same_greedy=sum(same_answers),
        same_greedy_share=sum(same_answers) / len(same_answers),
        positions=len(kl),
        mean_kl=mean_kl,
        max_kl=float(kl.max()),
        mean_kl_limit=MEAN_KL_LIMIT,
        different=[e.id for e, equal in zip(examples, same_answers, strict=True) if not equal],
        weights_compared=compared,
        weights_off=wrong_weights,
        right=right,
        merge_kl=merge_kl,
        merge_kl_limit=None if is_soft_prompt else MERGE_KL_LIMIT,
        new_tokens_chosen=new_tokens_chosen if is_soft_prompt else None,
    )


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) of each row's softmax, in nats; p, q: logits [positions, vocabulary]. Summed in float64."""
    log_p, log_q = (torch.log_softmax(logits.double(), -1) for logits in (p, q))
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


class _Logits:
    """Logits of a model in float32, [positions, vocabulary], in a file without a name, which ends with this process."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.positions = self.width = 0

    def __enter__(self) -> _Logits:
        self._file = tempfile.TemporaryFile(dir=self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def complete(self) -> bool:
        return self.positions >= _MOST_POSITIONS

    def clear(self) -> None:
        self.positions = 0
        self._file.seek(0)

    def append(self, logits: torch.Tensor) -> None:
        """Add the logits of some positions, until there are enough. Raises JobError if one of them is not finite."""
        logits = logits[: _MOST_POSITIONS - self.positions].float().cpu()
        if not logits.isfinite().all():
            problem = f"the {self.model} gives logits that are not finite"
            raise JobError(problem, "train again; do not use this model")
        logits.numpy().tofile(self._file)
        self.positions, self.width = self.positions + len(logits), logits.shape[1]

    def divergence(self, other: _Logits) -> np.ndarray:
        """Return KL(these || those of the other model) at the first positions, which both have, without the tokens of the larger
        vocabulary's end: the tokenizer may have tokens without a row in the base."""
        positions, width = min(self.positions, other.positions), min(self.width, other.width)
        parts = []
        for start in range(0, positions, _BLOCK):  # float64 over a large vocabulary needs much memory
            stop = min(start + _BLOCK, positions)
            parts.append(divergence(*(file._rows(start, stop)[:, :width] for file in (self, other))).numpy())
        return np.concatenate(parts)

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        self._file.seek(4 * start * self.width)
        return torch.from_numpy(np.fromfile(self._file, np.float32, (stop - start) * self.width)).view(-1, self.width)


def _formula_kl(peft: Any, rows: Rows, batch_size: int, trained: _Logits) -> float:
    """Return the mean KL(adapter on the base || PEFT's merge of the two) on the first rows."""
    formula_rows = Rows(rows.prompts[:_FORMULA_ROWS], rows.gold[:_FORMULA_ROWS])
    with _Logits(trained.folder, "merge of PEFT") as merged, merged_in_float32(peft):
        read_along(peft, formula_rows, batch_size, [], merged)
        return float(trained.divergence(merged).mean())


def differing_weights(
    expected: Path, merged: Path, peft: Any = None, head: Mapping[str, torch.Tensor] | None = None
) -> tuple[int, list[str]]:
    """Return (number of compared tensors, names of those that are not the expected tensor rounded once to their dtype).

    expected: the folder of the base, or of a whole trained model; peft: the base with an adapter, whose merge by PEFT in float32,
    one layer at a time, is expected in place of the adapted tensors. head: of a classifier, by name, expected in place of the
    base's output head. If its value is within float32 noise of the midpoint
    between two stored values, both are accepted.
    """
    source, stored = Checkpoint(model_folder(expected)), Checkpoint(model_folder(merged))
    layers: dict[str, object] = {}
    if peft is not None:
        layers = {f"{name}.weight": layer for name, layer in low_rank_layers(peft.get_base_model())}
    if not layers.keys() <= source.place.keys():
        file_names = stored_names(source.folder)
        layers = {file_names.get(name, name): layer for name, layer in layers.items()}
    heads = head or {}
    names = (source.place.keys() - (source.heads if heads else set())) | heads.keys()
    differing = {*(names ^ stored.place.keys()), *(layers.keys() - stored.place.keys())}
    for name in names & stored.place.keys():
        tensor = heads[name] if name in heads else source.tensor(name)
        if tuple(tensor.shape) != stored.entries[name].shape:
            differing.add(name)
            continue
        if name in layers:
            tensor = _merged_weight(layers[name], tensor)
        if not _rounded_once(tensor, stored.tensor(name)):
            differing.add(name)
    return len(stored.place), sorted(differing)


def _merged_weight(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    """Return PEFT's merge of a layer's adapters into its stored weight, in float32."""
    base_layer = layer.get_base_layer()
    with widened(layer):
        base_layer.weight.data = weight.to(base_layer.weight.device, torch.float32)
        layer.merge()
        merged: torch.Tensor = base_layer.weight.data.cpu()
    return merged


def _rounded_once(expected: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether `stored` is `expected` rounded once to the stored dtype, up to float32 noise in `expected`."""
    if expected.dtype == stored.dtype and torch.equal(expected, stored):
        return True
    if not stored.dtype.is_floating_point:
        return torch.equal(expected.to(stored.dtype), stored)
    noise = expected.abs() * 2**-20 + (expected.abs().max() * 2**-22 if expected.numel() else 0.0)
    low, high = (expected - noise).to(stored.dtype), (expected + noise).to(stored.dtype)
    return bool(((stored >= low) & (stored <= high)).all())


@torch.no_grad()
def read_along(
    model: Any,
    rows: Rows,
    batch_size: int,
    answers: Sequence[Answer],
    logits: _Logits | None = None,
    left_out: Collection[int] = (),
) -> list[list[int]]:
    """Read the reference answers, whose logits are added to `logits`, and some `answers` of any model.

    Returns for each of these answers the token that this model would choose at every position. A greedy answer need not be
    generated again: two models would both give it if both choose each of its tokens. left_out: tokens without logits.
    """
    longest = max(map(len, rows.prompts)) + max(map(len, [*rows.gold, *(answer.new_ids for answer in answers)]))
    size = rows_at_once(model, batch_size, longest)
    while True:
        choices = fits_memory(partial(_read_batches, model, rows, size, answers, logits, left_out))
        if choices is not None:
            return choices
        if size == 1:
            raise MemoryError("one row alone does not fit into memory in the comparison of trained and merged model")
        size = -(-size // 2)
        if logits is not None:
            logits.clear()


def _read_batches(
    model: Any,
    rows: Rows,
    batch_size: int,
    answers: Sequence[Answer],
    logits: _Logits | None,
    left_out: Collection[int],
) -> list[list[int]]:
    reader = Reader(model, rows.prompts[0][: common_prefix(rows.prompts)])
    choices: list[list[int]] = []
    for start in range(0, len(rows.prompts), batch_size):
        wanted = logits is not None and not logits.complete
        if not wanted and not answers:
            break
        span = slice(start, start + batch_size)
        gold = rows.gold[span] if wanted else [[] for _ in rows.prompts[span]]
        compared = [answer.new_ids for answer in answers[span]] or [[] for _ in gold]
        texts = [list(pair) for pair in zip(gold, compared, strict=True)]
        batch = reader.read(rows.prompts[span])
        together = max(1, COMPARED_TOKENS // max(sum(map(len, pair)) for pair in texts))
        for first in range(0, len(texts), together):  # a few rows at a time: the logits are of the whole vocabulary
            some = range(first, min(first + together, len(texts)))
            for gold_logits, answer_logits in reader.continuations(batch.rows(some), [texts[i] for i in some]):
                if wanted and logits is not None:
                    logits.append(_without_tokens(gold_logits, left_out))
                choices.append(answer_logits.argmax(-1).tolist())
    return choices


def _without_tokens(logits: torch.Tensor, tokens: Collection[int]) -> torch.Tensor:
    """Leave out the logits of some tokens; the vocabulary of these logits may lack them."""
    if not tokens:
        return logits
    keep = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    keep[[token for token in tokens if token < logits.shape[-1]]] = False
    return logits[..., keep]


@torch.no_grad()
def _read_along_soft_prompt(
    model: Any, rows: Rows, answers: Sequence[Answer], logits: _Logits, new_tokens: Collection[int]
) -> list[list[int]]:
    """Do what :func:`read_along` does, but with PEFT's model of a soft prompt, one row at a time.
    new_tokens: the prompt's tokens in the served model."""
    choices: list[list[int]] = []
    for served_prompt, gold, answer in zip(rows.prompts, rows.gold, answers, strict=True):
        prompt = [t for t in served_prompt if t not in new_tokens]  # PEFT puts the vectors there itself
        if not logits.complete:
            gold_logits = logits_alone(model, prompt, gold, logits_to_keep=len(gold))
            logits.append(_without_tokens(gold_logits, new_tokens))
        ids = answer.new_ids
        choices.append(logits_alone(model, prompt, ids, logits_to_keep=len(ids)).argmax(-1).tolist() if ids else [])
    return choices
