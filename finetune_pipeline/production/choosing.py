"""Which production rows train a model, which wait for people, and which are held back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.dedup.text_similarity import text_key
from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.production.poison import Held, hold_back
from finetune_pipeline.spec.model import TaskSpec

FLAGGED, LOW, SAMPLED, HELD = "flagged", "low score", "sampled", "held back"


@dataclass
class Chosen:
    """What becomes of the logged rows.

    Attributes:
        examples: Corrected rows to learn from.
        judging: Corrected rows that train no model but judge them.
        held: Corrected rows that are held back, with the reason.
        queue: (row, reason) of the rows people should look at: failures without a correction, a sample of the others, and
            what is held back.
    """

    examples: list[Example] = field(default_factory=list)
    judging: list[dict[str, Any]] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    queue: list[tuple[dict[str, Any], str]] = field(default_factory=list)

    def queued(self) -> dict[str, int]:
        """Rows in the queue by why."""
        reasons = [why.partition(":")[0] for _, why in self.queue]
        return {why: reasons.count(why) for why in (FLAGGED, LOW, SAMPLED, HELD) if why in reasons}


def settings(spec: TaskSpec) -> dict[str, Any]:
    """The part of a spec that :func:`choose` depends on, as plain values."""
    shares = {"low_score", "sample_share", "max_user_share", "max_family_share", "judging_share", "judging_after"}
    return {
        "labels": spec.labels,
        "system_prompt": spec.system_prompt,
        "near_duplicate_threshold": spec.data.near_duplicate_threshold,
        **spec.logs.model_dump(include=shares),
    }


def choose(spec: TaskSpec, rows: Sequence[dict[str, Any]]) -> Chosen:
    """Sort logged rows into those that train, judge, are held back, or wait for people.

    What is drawn, is drawn by a row's id alone, so it stays as more rows come in.

    Rows that people left out are in none of them. The first logs.judging_after corrected rows all train; of those that come
    later logs.judging_share judge, and these stay out of training for good, so that no version has seen them.
    """
    corrected = [r for r in rows if r["correction"] and r["input"].strip()]
    failed = {r["id"]: sign for r in rows if not r["correction"] and (sign := _failure(r, spec))}
    accepted = [
        r
        for r in rows
        if r["id"] not in failed
        and not r["left_out"]
        and (not r["correction"] or r["correction"] == r["output"].strip())
        and (not spec.labels or r["output"].strip() in spec.labels)
    ]
    held = hold_back(spec, [r for r in corrected if not r["reviewed"]], [r for r in accepted if r["input"].strip()])
    why = {h.id: h for h in held}
    chosen = Chosen(held=held)
    for place, row in enumerate(corrected):
        if row["id"] in why:
            continue
        if place >= spec.logs.judging_after and _judges(row, spec.logs.judging_share):
            chosen.judging.append(row)
        else:
            chosen.examples.append(example_of(row, spec))
    for row in rows:
        if not row["input"].strip() or row["left_out"]:
            continue
        if row["id"] in why:
            chosen.queue.append((row, f"{HELD}: {why[row['id']].reason}"))
        elif row["id"] in failed:
            chosen.queue.append((row, failed[row["id"]]))
        elif not row["correction"] and _sampled(row["id"], spec.logs.sample_share):
            chosen.queue.append((row, SAMPLED))
    return chosen


def _failure(row: dict[str, Any], spec: TaskSpec) -> str | None:
    if row["flag"]:
        return f"{FLAGGED}: {row['flag']}"
    limit = spec.logs.low_score
    if limit is not None and row["score"] is not None and row["score"] < limit:
        return f"{LOW}: {row['score']:g}"
    return None


def _sampled(name: str, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"sample:{name}".encode()).digest()[:8], "big") < share * 2**64


def _judges(row: dict[str, Any], share: float) -> bool:
    """Decided by the question, so that equal questions fall on one side."""
    return int(text_key(row["input"])[:16], 16) < share * 2**64


def example_of(row: dict[str, Any], spec: TaskSpec) -> Example:
    """A training example: the question, and the answer a person gave in place of the model's."""
    messages = [
        {"role": "system", "content": spec.system_prompt},
        *(row["turns"] or [{"role": "user", "content": row["input"]}]),
        {"role": "assistant", "content": row["correction"]},
    ]
    return Example(
        id=example_id(messages),
        messages=messages,
        origin="production",
        source=row["source"],
        label=row["correction"] if spec.labels else None,
        tags=[f"log:{row['id']}"],
    )
