"""Scores a model on items of general ability: the ``ability`` action of the child process."""

import json
import math
from collections.abc import Sequence
from typing import Any

import scipy

from finetune_pipeline.data.examples import Message
from finetune_pipeline.evaluation.ability.drop import AbilityRow, Scored
from finetune_pipeline.evaluation.ability.items import ROWS, Item, digest_items, load_items
from finetune_pipeline.evaluation.answering import Answerer, close_cache, open_cache
from finetune_pipeline.jobs import AbilityJob
from finetune_pipeline.models.chat import encode_answer, encode_prompt, end_ids, to_ids
from finetune_pipeline.models.inference.generated import Answer


def ability(job: AbilityJob) -> tuple[Scored, dict[str, object]]:
    """Run a job of :class:`finetune_pipeline.jobs.AbilityJob`. Returns (facts, measured)."""
    items = load_items(job.files, job.limit, job.suite)
    out = job.out
    cache, seen_files = open_cache(job.answers)
    answerer = Answerer(job.model, job.adapter, cache, seen_files, job.precision)
    rows = score_items(answerer, items, job.batch_size, job.stage)
    out.mkdir(parents=True, exist_ok=True)
    (out / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    unscored = sum(bool(r["error"]) for r in rows)
    return Scored(asked_digest=digest_items(items), items=len(rows), unscored=unscored), {"answers": close_cache(cache)}


def score_items(
    answerer: Answerer, items: Sequence[Item], batch_size: int, stage: str = "general_ability"
) -> list[AbilityRow]:
    """Return a row per item, in order."""
    if not items:
        return []
    prompts, texts = zip(*(_encoded(answerer.tokenizer, item) for item in items), strict=True)
    rows: dict[int, AbilityRow] = {}
    # separately, because chats share the template's beginning and bare texts share nothing
    for chat in (True, False):
        indices = [i for i, item in enumerate(items) if item.chat is chat]
        if not indices:
            continue
        answers = answerer.answers(
            [prompts[i] for i in indices],
            [texts[i] for i in indices],
            max_new_tokens=1,
            batch_size=batch_size,
            stage=stage,
            name="chats" if chat else "texts",
        )
        rows |= {i: _row(items[i], answer) for i, answer in zip(indices, answers, strict=True)}
    return [rows[i] for i in range(len(items))]


def _encoded(tokenizer: Any, item: Item) -> tuple[list[int], list[list[int]]]:
    """(tokens of the prompt, tokens of every choice after it, or of the text)."""
    if item.chat:
        messages: list[Message] = [{"role": "user", "content": item.prompt}]
        ends = end_ids(tokenizer)
        answers = [encode_answer(tokenizer, messages, c) for c in item.choices]
        return encode_prompt(tokenizer, messages), [a[:-1] if a[-1] in ends else a for a in answers]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    before = [start, *to_ids(tokenizer, item.prompt)] if item.prompt else [start]
    if item.text is not None and not item.prompt:
        return before, [to_ids(tokenizer, item.text)]
    return before, [to_ids(tokenizer, f" {c}") for c in (item.choices or (item.text or "",))]


def _row(item: Item, answer: Answer) -> AbilityRow:
    row = AbilityRow(
        id=item.id,
        source=item.source,
        category=item.category,
        right=None,
        probability=None,
        bits_per_byte=None,
        error="",
    )
    scores = answer.label_scores
    if answer.status == "error" or not all(math.isfinite(s) for s in scores):
        row["error"] = answer.error or "a likelihood is not a number"
    elif item.text is not None:
        row["bits_per_byte"] = -scores[0] / math.log(2) / len(item.text.encode())
    else:
        best = max(scores)
        row["right"] = scores.index(best) == item.right and scores.count(best) == 1  # a tie is not right
        row["probability"] = float(scipy.special.softmax(scores)[item.right])
    return row
