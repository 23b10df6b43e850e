"""Computes greedy answers and label log-likelihoods for many prompts, reading common prefixes once.

Prompts of one task share a prefix (system prompt, shots). Its keys and values are computed once and reused for every batch;
prompts with another prefix form separate families. Constrained answers and label scores use the same prefill: all labels of
a row are packed after its prompt in one pass, each attending to the prompt and itself. In float32 the texts, and up to
rounding the scores, equal those of the naive method (one row at a time, every label encoded separately); a test compares
them.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from finetune_pipeline import progress
from finetune_pipeline.faults import is_out_of_memory
from finetune_pipeline.models.chat import common_prefix, end_ids
from finetune_pipeline.models.inference.constrained import Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.memory import fits_memory, halve_until_it_fits
from finetune_pipeline.models.inference.reader import Reader, Written
from finetune_pipeline.models.inference.shared_reading import Ids, families
from finetune_pipeline.models.inference.trial import rows_at_once
from finetune_pipeline.reporting import say


@torch.no_grad()
def generate_and_score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ids],
    labels: Sequence[Sequence[Ids]] | None,
    max_new_tokens: int,
    batch_size: int,
    stage: str = "predictions",
    name: str = "",
    known: Mapping[int, Answer] | None = None,
    keep: Callable[[Mapping[int, Answer]], None] | None = None,
    restriction: Restriction | None = None,
    alternatives: int = 0,
) -> list[Answer]:
    """Return one :class:`Answer` per prompt (token ids with the generation prompt), in the given order.

    labels: per prompt, the token ids of every label after it, end-of-turn token included; None for free text. A classifier's
    answer is its likeliest class; its labels are one number each, of their class, or empty without a class. A batch
    that raises is tried again row by row: one bad row affects no other. Rows that still fail get status error. A batch that
    does not fit into memory is halved; raises MemoryError if a single row does not fit.
    known: answers by position that need not be computed. If they are whole batches, as after a kill, the others are
    computed in their original batches, with bitwise equal results. keep: called with the answers of each batch.
    restriction: every answer that does not comply gets a second one, `Answer.restricted`; None for free answers only.
    alternatives: how many of the most likely tokens each answer keeps at each place.
    """
    model.eval()
    ends = end_ids(tokenizer)
    answered = known or {}
    answers = [answered.get(i) or Answer(prompt_tokens=len(p)) for i, p in enumerate(prompts)]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    classes: Sequence[str] = getattr(model, "classes", ())
    if classes:
        max_new_tokens = 0
    answerable = []
    for i, prompt in enumerate(prompts):
        problem = ""
        if not prompt:
            problem = "the prompt is empty"
        elif limit and len(prompt) + max_new_tokens > limit:
            problem = f"the prompt has {len(prompt)} tokens; with {max_new_tokens} new tokens that is more than the model's {limit}"
        if problem:
            answers[i].status, answers[i].error = "error", problem
        else:
            answerable.append(i)

    def answer_rows(reader: Reader, rows: list[int]) -> None:
        batch = reader.read([prompts[i] for i in rows])
        if classes:
            log_shares = torch.log_softmax(batch.logits.double(), -1)
            if not log_shares.isfinite().all():
                raise ValueError("the classifier gives logits that are not finite")
            for i, shares in zip(rows, log_shares.tolist(), strict=True):
                answers[i].text = classes[shares.index(max(shares))]
                row_labels = labels[i] if labels is not None else []
                answers[i].label_scores = [shares[label[0]] if label else -math.inf for label in row_labels]
            return
        written = reader.greedy(batch, max_new_tokens, ends, alternatives=alternatives)
        texts = [labels[i] if labels is not None else [] for i in rows]
        scores = _scores(reader.continuations(batch, texts), texts)
        for i, answer, score in zip(rows, written, scores, strict=True):
            _fill(answers[i], tokenizer, answer, score, ends)
        if restriction is None:
            return
        violating = [k for k, i in enumerate(rows) if not restriction.complies(answers[i])]
        if not violating:
            return
        written = reader.greedy(batch.rows(violating), max_new_tokens, ends, restriction.grammar, alternatives)
        for i, answer in zip((rows[k] for k in violating), written, strict=True):
            restricted = answers[i].restricted = Answer(prompt_tokens=len(prompts[i]))
            _fill(restricted, tokenizer, answer, [], ends)

    def problem_of(reader: Reader, rows: list[int]) -> str:
        """Answer the rows. Returns why it failed, or an empty text."""
        try:
            answer_rows(reader, rows)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return f"{type(error).__name__}: {error}"
        return ""

    def answer_batch(reader: Reader, rows: list[int]) -> list[int]:
        problem = problem_of(reader, rows)
        if problem:
            say(f"{stage}: a batch of {len(rows)} failed ({problem}); trying its rows one by one")
            for i in rows:
                if reason := problem_of(reader, [i]):
                    answers[i] = Answer(status="error", error=reason, prompt_tokens=len(prompts[i]))
        return rows

    batch_size = rows_at_once(model, batch_size, max(map(len, prompts), default=0) + max_new_tokens)
    completed = len(answered)
    for family in families([prompts[i] for i in answerable]):
        by_length = sorted((answerable[i] for i in family), key=lambda i: (-len(prompts[i]), i))
        batches = _batches(by_length, batch_size, answered)
        if not batches:
            continue
        prefix = prompts[by_length[0]][: common_prefix([prompts[i] for i in by_length])]
        reader = fits_memory(partial(Reader, model, prefix))
        if reader is None:
            raise MemoryError(
                f"one row alone does not fit into memory: its prompt begins with {len(prefix)} shared tokens"
            )
        for rows in halve_until_it_fits(batches, partial(answer_batch, reader), stage):
            completed += len(rows)
            if len(answerable) > 1:
                progress.tell(stage, name, step=completed, of=len(answerable))
            if keep is not None:
                keep({i: answers[i] for i in rows})
    return answers


def _batches(order: Sequence[int], size: int, computed: Container[int]) -> list[list[int]]:
    """Return the batches of rows to compute: the original ones if none is partly computed, else batches of the missing rows."""
    full = [list(order[start : start + size]) for start in range(0, len(order), size)]
    missing = [[i for i in rows if i not in computed] for rows in full]
    if all(len(absent) in (0, len(rows)) for absent, rows in zip(missing, full, strict=True)):
        return [rows for rows in missing if rows]
    remaining = [i for rows in missing for i in rows]
    return [remaining[start : start + size] for start in range(0, len(remaining), size)]


def _scores(logits: list[list[torch.Tensor]], texts: Sequence[Sequence[Ids]]) -> list[list[float]]:
    """Return the log-likelihood of each of a row's texts, from the logits that predict its tokens."""

    def score(part: torch.Tensor, text: Ids) -> float:
        target = torch.tensor(text, device=part.device)[:, None]
        return torch.log_softmax(part.float(), -1).gather(1, target).double().sum().item()

    return [list(map(score, row, ids)) for row, ids in zip(logits, texts, strict=True)]


def _fill(answer: Answer, tokenizer: Any, written: Written, scores: list[float], ends: set[int]) -> None:
    """Store the generated tokens, their text, the status and the label scores in `answer`."""
    ids = written.ids
    ended = bool(ids) and ids[-1] in ends
    answer.new_ids, answer.new_tokens, answer.label_scores = ids, len(ids), scores
    answer.log_probabilities, answer.alternatives = written.log_probabilities, written.alternatives
    answer.text = tokenizer.decode(ids[:-1] if ended else ids)
    if not ended:
        answer.status = "truncated"
    else:
        answer.status = "ok" if answer.text.strip() else "empty"
