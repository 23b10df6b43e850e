"""Finds the fastest way of reading prompts that gives a model's own logits, by a trial on a few tokens.

An architecture may ignore or refuse the positions, masks or attention function that a fast way passes to it. It then gives
other answers, often without an error. A trial is safer than a list of names.
"""

from collections.abc import Callable
from typing import Any

import torch

from finetune_pipeline.faults import JobError, is_out_of_memory
from finetune_pipeline.models.inference import prefix_attention

APART, TREES, PLAIN = "apart", "trees", "plain"
"""Ways of reading. APART: all rows attend to one copy of their common prefix, see :mod:`.prefix_attention`. TREES: each row
has a copy of the prefix; the row's continuations are read in one pass. PLAIN: no prefix is read ahead, and each continuation
is read in a pass of its own."""
_PREFIX = [9, 10, 11, 12, 13]
_PROMPTS = [[*_PREFIX, *range(3, 15)], [*_PREFIX, 6]]
_TEXTS = [[*range(n, 19), 3] for n in (6, 11)]
"""The trial's prompts and the texts after them, as numbers for _mid_vocabulary_tokens; long enough to tell wrong distances from
the rounding of bfloat16."""
_LONGEST = max(map(len, _PROMPTS)) + max(map(len, _TEXTS))
_CACHE_ATTRIBUTE = "_way_of_reading"
_MODEL_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""Errors that models raise for arguments they do not support."""


def way_of_reading(model: Any, reader: Callable[[Any, list[int], str], Any]) -> str:
    """Return the way to read `model`, and set the attention function of that way.

    reader: makes a Reader of a model for a prefix and a way. Raises JobError if even PLAIN gives other logits than reading one
    row at a time.
    """
    if not hasattr(model, _CACHE_ATTRIBUTE):
        setattr(model, _CACHE_ATTRIBUTE, _first_correct_way(model, reader))
    return str(getattr(model, _CACHE_ATTRIBUTE))


def rows_at_once(model: Any, batch_size: int, longest: int) -> int:
    """Return how many rows of up to `longest` tokens the model may read together; see PrefixedModel.rows_at_once."""
    return int(model.rows_at_once(batch_size, longest)) if hasattr(model, "rows_at_once") else batch_size


@torch.no_grad()
def _first_correct_way(model: Any, reader: Callable[[Any, list[int], str], Any]) -> str:
    config, batch_size = model.config.get_text_config(), rows_at_once(model, len(_PROMPTS), _LONGEST)
    configured_attention, problem = config._attn_implementation, ""
    prefix = _mid_vocabulary_tokens(_PREFIX, config.vocab_size)
    prompts, texts = (
        [_mid_vocabulary_tokens(numbers, config.vocab_size) for numbers in rows] for rows in (_PROMPTS, _TEXTS)
    )
    expected = [logits_alone(model, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    for way in (APART, TREES, PLAIN):
        if way == APART and not prefix_attention.switch_on(model):
            continue
        try:
            trial_reader = reader(model, prefix, way)
            rows = []
            for start in range(0, len(prompts), batch_size):
                batch = trial_reader.read(prompts[start : start + batch_size])
                rows += trial_reader.continuations(batch, [texts] * len(batch.logits))
            problem = _difference([row[i] for i, row in enumerate(rows)], expected, way)
            if trial_reader.way != way:
                problem = "its cache does not allow it"
        except _MODEL_ERRORS as error:
            if is_out_of_memory(error):  # says nothing about the way
                raise
            problem = f"{type(error).__name__}: {error}"
        if not problem:
            return way
        config._attn_implementation = configured_attention
    raise JobError(
        f"models of type {config.model_type} give other answers to several prompts at once than to each alone ({problem}), "
        "so no evaluation of them would be right",
        "set base_model to a model of another family",
    )


def _mid_vocabulary_tokens(numbers: list[int], vocabulary: int) -> list[int]:
    """Return the tokens with these numbers, from the middle of the vocabulary. Control tokens are at its ends: after them a
    trained model is so unsure that rounding alone changes its logits by a third."""
    return [vocabulary // 4 + number * max(1, vocabulary // 64) for number in numbers]


def logits_alone(model: Any, prompt: list[int], text: list[int], **options: Any) -> torch.Tensor:
    """Return the logits [tokens, vocabulary] that predict each token of a text after the prompt, read as one row."""
    ids = torch.tensor([[*prompt, *text[:-1]]], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).logits[0, -len(text) :]
    return logits


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference of two tensors, relative to the norm of the expected one."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-6))


def _difference(trial_logits: list[torch.Tensor], expected: list[torch.Tensor], way: str) -> str:
    """Describe how far the logits of a trial are from those of each row alone; empty if they differ by rounding only.
    Does not compare logits that are not finite (of a damaged model): the code that uses them reports these."""
    if not (reference := torch.cat(expected)).isfinite().all():
        return ""
    gap = relative_difference(torch.cat(trial_logits), reference)
    # in bfloat16 some tokens may go to other experts; PLAIN is the last way to try
    bfloat16_limit = 0.3 if way == PLAIN else 0.1
    limit = 1e-3 if trial_logits[0].dtype == torch.float32 else bfloat16_limit
    return "" if gap <= limit else f"relative difference of the logits {gap:.2g}"
