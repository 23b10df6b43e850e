"""Merge parity of a classifier: the tests of :mod:`.parity` on the probabilities of its classes, and one more.

4. *What does serving cost?* Compares the adapter and head on the base, in float32, with the stored classifier in the precision it
   is served in: probabilities (``served_kl``, ``probability_gap``) and the chosen class (``same_greedy``).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune_pipeline.data.examples import Example
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import CLASSIFIER_HEAD, read_adapter
from finetune_pipeline.models.chat import common_prefix, encode_prompt, load_tokenizer
from finetune_pipeline.models.classifier import adapter_classes
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.inference.memory import halve_until_it_fits
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.trial import rows_at_once
from finetune_pipeline.models.loading import load_for_comparison, load_for_prediction, pick_device
from finetune_pipeline.models.merging import trained_head
from finetune_pipeline.models.model_files import classes_of
from finetune_pipeline.models.parity import MEAN_KL_LIMIT, MERGE_KL_LIMIT, differing_weights, divergence
from finetune_pipeline.models.widening import merged_in_float32

SERVED_KL_LIMIT = 0.01
"""Limit of the mean divergence of the served probabilities, in nats an answer: rounding of weights and of the pass in bfloat16."""


def class_parity(
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
    """Compare a classifier's `adapter` on its `base` with the stored model `merged` on `examples`.

    The arguments are those of :func:`.parity.parity`, and so are the facts: divergences are in nats an answer. Raises JobError if
    logits of either side are not finite.
    """
    tokenizer, device = load_tokenizer(base), pick_device()
    prompts = [encode_prompt(tokenizer, e.prompt_messages, e.tools) for e in examples]
    read = partial(class_logits, prompts=prompts, batch_size=batch_size, stage=stage)
    # each model is freed before the next one is loaded: no variable refers to it
    served = read(load_for_prediction(merged, device, None, precision), name="served classifier")
    stored = read(load_for_comparison(merged, device), name="merged classifier")
    peft = load_for_comparison(base, device, adapter=adapter)
    trained = read(peft, name="trained classifier")
    with merged_in_float32(peft):
        merged_by_peft = read(peft, name="merge of PEFT")
    head = {CLASSIFIER_HEAD: trained_head(read_adapter(adapter))}
    compared, wrong_weights = differing_weights(base, merged, peft, head)
    if classes_of(model_folder(merged)) != adapter_classes(adapter):
        wrong_weights.append("config.json: label2id")  # right probabilities under wrong names
    kl, merge_kl, served_kl = (divergence(trained, other) for other in (stored, merged_by_peft, served))
    gap = float((trained.double().softmax(-1) - served.double().softmax(-1)).abs().max())
    same_answers = (trained.argmax(-1) == served.argmax(-1)).tolist()
    right = not wrong_weights and float(merge_kl.mean()) <= MERGE_KL_LIMIT
    mean_kl, mean_served_kl = float(kl.mean()), float(served_kl.mean())
    return Parity(
        kind="classifier",
        rows=len(examples),
        passed=right and mean_kl <= MEAN_KL_LIMIT and mean_served_kl <= SERVED_KL_LIMIT,
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
        merge_kl=float(merge_kl.mean()),
        merge_kl_limit=MERGE_KL_LIMIT,
        served_kl=mean_served_kl,
        served_kl_limit=SERVED_KL_LIMIT,
        probability_gap=gap,
    )


@torch.no_grad()
def class_logits(model: Any, prompts: Sequence[list[int]], batch_size: int, name: str, stage: str) -> torch.Tensor:
    """Return the logits [prompts, classes] of a classifier in float32. Raises JobError if one of them is not finite."""
    reader = Reader(model, prompts[0][: common_prefix(prompts)])
    size = rows_at_once(model, batch_size, max(map(len, prompts)))
    batches = [list(range(start, min(start + size, len(prompts)))) for start in range(0, len(prompts), size)]

    def read(rows: Sequence[int]) -> torch.Tensor:
        return reader.read([prompts[row] for row in rows]).logits.float().cpu()

    logits = torch.cat(list(halve_until_it_fits(batches, read, stage)))
    if not logits.isfinite().all():
        raise JobError(f"the {name} gives logits that are not finite", "train again; do not use this model")
    return logits
