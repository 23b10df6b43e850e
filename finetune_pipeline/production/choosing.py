"""Sorts production rows: for training, for evaluation, for human review, or held because they may be poisoned.

Rows are held until a person decides: rows above the maximum share of one user or one family of near-duplicates, texts that
give instructions to a model, and phrases that determine the label against the rest of the text. Rows that people confirmed
are exempt.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec.structs import replace

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.dedup.near_duplicates import near_duplicate_clusters
from finetune_pipeline.data.dedup.text_similarity import text_key
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.triggers import find_triggers
from finetune_pipeline.evaluation.production_rows import LoggedRow, logged_example, moment
from finetune_pipeline.production.shadow_rows import is_decidable, newest_pair, waiting_rows
from finetune_pipeline.spec.model import TaskSpec

REFUSAL = "refusal"
"""Who answers (`answered_by` of a logged row) where `finetune serve` gives the declared refusal: nobody."""
FLOOR = 5
"""Number of rows that any source may always contribute."""
ACCEPTED_NEEDED = 50
"""Minimum accepted answers for testing phrases."""
_MAX_ACCEPTED = 2000
"""Maximum accepted answers used in that test, chosen by id."""
_INJECTIONS = [
    re.compile(pattern, re.I | re.M)
    for pattern in (
        r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:\w+\s+){0,3}(?:previous|prior|above|earlier|preceding|all)"
        r"\s+(?:\w+\s+){0,2}(?:instructions?|prompts?|rules|guidelines|directions)\b",
        r"\b(?:ignore|disregard|override)\s+(?:your|the)\s+(?:system\s+prompt|instructions|training|guidelines)\b",
        r"\b(?:reveal|print|repeat|show|output|leak)\s+(?:me\s+)?(?:your|the)\s+(?:\w+\s+)?system\s+prompt\b",
        r"\byou\s+are\s+now\s+(?:a|an|in|called)\s+\w+.{0,60}\b(?:mode|assistant|model|ai|bot|unrestricted)\b",
        r"\b(?:from\s+now\s+on|in\s+future),?\s+(?:you\s+)?(?:must\s+|should\s+|will\s+)?(?:always|only|never)\s+"
        r"(?:answer|respond|reply|classify|label|say|output)\b",
        r"\b(?:whenever|every\s+time)\s++(?:you\s+(?:see|read)|.{1,40}\s{1,9}(?:appears|occurs))\b.{0,60}"
        r"\b(?:answer|respond|reply|classify|label|say|output)\b",
        r"<\|(?:im_start|im_end|system|assistant|endoftext|eot_id|start_header_id)\|>|\[/?INST\]|<<SYS>>",
        r"^[^\S\n]*+#{2,}+[^\S\n]*+(?:system|instructions?|new\s+instructions?)[^\S\n]*+:?[^\S\n]*+$"
        r"|^[^\S\n]*+(?:system|assistant)\s*+:\s*+you\b",
    )
]


Rows = Sequence[LoggedRow]


@dataclass(frozen=True)
class Held:
    """A held row: its id, the rule (poison_user_share, …) and the reason."""

    id: str
    rule: str
    reason: str


def hold_back(spec: TaskSpec, corrected: Rows, accepted: Rows) -> list[Held]:
    """Return the corrected rows to hold back from training, each with the first matching rule. Phrases are tested against the
    accepted rows."""
    held_rows = {row["id"]: reason for row in corrected if (reason := _find_injection(row))}
    for rule in (
        partial(_find_triggers, accepted=accepted, spec=spec),
        partial(_find_large_families, spec=spec),
        partial(_find_busy_users, spec=spec),
    ):
        held_rows |= rule([row for row in corrected if row["id"] not in held_rows])
    return [held_rows[row["id"]] for row in corrected if row["id"] in held_rows]


def _find_injection(row: LoggedRow) -> Held | None:
    """Detect prompt injection: a text that gives instructions to a model."""
    for text in (row["input"], row["correction"] or ""):
        for pattern in _INJECTIONS:
            if match := pattern.search(text):
                return Held(
                    row["id"], "poison_instruction", f"the text gives instructions to a model: {match[0]!r:.80}"
                )
    return None


def cap(counts: Sequence[int], share: float) -> int:
    """Return how many rows each source may keep, so that none has more than `share` of all that are kept; at least FLOOR."""
    for limit in range(max(counts, default=0), FLOOR, -1):
        if limit <= share * sum(min(n, limit) for n in counts):
            return limit
    return FLOOR


def _beyond_share(rows: Rows, sources: Sequence[Any], share: float, rule: str, reason: str) -> dict[str, Held]:
    """Return the rows beyond their source's share (one source per row), chosen by id. reason: a format string with {many},
    {all} and {most}."""
    groups: defaultdict[Any, list[LoggedRow]] = defaultdict(list)
    for row, source in zip(rows, sources, strict=True):
        groups[source].append(row)
    limit = cap([len(group) for group in groups.values()], share)
    return {
        row["id"]: Held(row["id"], rule, reason.format(many=len(group), all=len(rows), most=limit))
        for group in groups.values()
        for row in sorted(group, key=lambda row: _hash(row["id"]))[limit:]
    }


def _hash(name: str) -> bytes:
    """Return a hash, for choices that look random but do not depend on when a row was written."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def _find_busy_users(rows: Rows, spec: TaskSpec) -> dict[str, Held]:
    sources = [row["user"] or ("row", row["id"]) for row in rows]  # each row without a user is a source of its own
    reason = "one user wrote {many} of {all} corrected rows; only {most} are used (logs.max_user_share)"
    return _beyond_share(rows, sources, spec.logs.max_user_share, "poison_user_share", reason)


def _find_large_families(rows: Rows, spec: TaskSpec) -> dict[str, Held]:
    if len(rows) <= FLOOR:
        return {}
    families = near_duplicate_clusters([row["input"] for row in rows], spec.data.near_duplicate_threshold).tolist()
    reason = "{many} of {all} corrected rows are near-duplicates; only {most} are used (logs.max_family_share)"
    return _beyond_share(rows, families, spec.logs.max_family_share, "poison_family_share", reason)


def _find_triggers(rows: Rows, accepted: Rows, spec: TaskSpec) -> dict[str, Held]:
    """Find rows with a phrase whose label contradicts what accepted answers predict from the rest of the text."""
    accepted_sample = sorted(accepted, key=lambda row: _hash(row["id"]))[:_MAX_ACCEPTED]
    if len(accepted_sample) < ACCEPTED_NEEDED or not spec.labels:
        return {}
    trusted = [row["input"] for row in accepted_sample], [row["output"].strip() for row in accepted_sample]
    held_rows: dict[str, Held] = {}
    for trigger in find_triggers([row["input"] for row in rows], [row["correction"] or "" for row in rows], trusted):
        for i in trigger.rows:
            held_rows.setdefault(rows[i]["id"], Held(rows[i]["id"], "poison_trigger", f"the {trigger}"))
    return held_rows


PASSED_ON, FLAGGED, LOW, SAMPLED, HELD = "passed on", "flagged", "low score", "sampled", "held back"
DIFFERS = "the model behind the champion differs"


@dataclass
class Chosen:
    """The production rows, sorted by use.

    Attributes:
        examples: Training examples, made from corrected rows.
        judging: Corrected rows for evaluation only.
        held: Corrected rows that may be poisoned.
        queue: (row, reason) of the rows for human review: those where the model behind the champion answered otherwise, in an order
            that does not depend on who is right; those passed on, first those that nobody has answered; failures without a
            correction, a sample of the others, and held rows.
    """

    examples: list[Example] = field(default_factory=list)
    judging: list[LoggedRow] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    queue: list[tuple[LoggedRow, str]] = field(default_factory=list)

    def queued(self) -> dict[str, int]:
        """Return the number of rows for review by reason, without its details."""
        counts = Counter(reason.partition(":")[0] for _, reason in self.queue)
        return {
            reason: counts[reason] for reason in (PASSED_ON, FLAGGED, LOW, DIFFERS, SAMPLED, HELD) if counts[reason]
        }


def settings(spec: TaskSpec) -> dict[str, object]:
    """Return the settings of a spec that :func:`choose` depends on, as plain values."""
    keys = {"low_score", "sample_share", "max_user_share", "max_family_share", "judging_share", "judging_after"}
    return {
        "labels": spec.labels,
        "answers": spec.output.model_dump(include={"kind", "unordered", "extract"}),
        "system_prompt": spec.system_prompt,
        "near_duplicate_threshold": spec.data.near_duplicate_threshold,
        **spec.logs.model_dump(include=keys),
    }


def choose(spec: TaskSpec, rows: Sequence[LoggedRow]) -> Chosen:
    """Sort production rows by use: training, evaluation, human review, or held.

    Random choices depend only on a row's id or question, so they stay the same as more rows come in. Rows that people left
    out have no use. The first logs.judging_after corrected rows are all for training. Of later ones, the share
    logs.judging_share is for evaluation and never trained on, so that no version has seen these rows.
    """
    corrected = [row for row in rows if row["correction"] and row["input"].strip()]
    failed = {row["id"]: reason for row in rows if not row["correction"] and (reason := failure(row, spec))}
    accepted = [
        row
        for row in rows
        if row["input"].strip()
        and row["id"] not in failed
        and not row["left_out"]
        and (not row["correction"] or same_answer(row["correction"], row["output"], spec.output))
        and (not spec.labels or row["output"].strip() in spec.labels)
    ]
    held = hold_back(spec, [row for row in corrected if not row["reviewed"]], accepted)
    held_by_id = {held_row.id: held_row for held_row in held}
    chosen = Chosen(held=held)
    for index, row in enumerate(corrected):
        if row["id"] in held_by_id:
            continue
        if index >= spec.logs.judging_after and is_reserved(row, spec):
            chosen.judging.append(row)
        else:
            chosen.examples.append(example_of(row, spec))
    pair = newest_pair(rows)
    deciding = waiting_rows(rows, pair, spec.output) if pair else set[str]()
    for row in rows:
        if not row["input"].strip() or row["left_out"]:
            continue
        if row["id"] in deciding and not is_decidable(spec.output):
            chosen.queue.append(
                (row, DIFFERS)
            )  # what users said of one of two answers is not shown before they are compared
        elif row["id"] in held_by_id:
            chosen.queue.append((row, f"{HELD}: {held_by_id[row['id']].reason}"))
        elif row["id"] in failed:
            chosen.queue.append((row, failed[row["id"]]))
        elif row.get("passed_on") and not row["correction"]:
            chosen.queue.append((row, _passed_on(row)))
        elif row["id"] in deciding:
            chosen.queue.append((row, DIFFERS))
        elif _is_open(row) and in_watched_sample(row["id"], spec.logs.sample_share):
            chosen.queue.append((row, SAMPLED))
    chosen.queue.sort(key=lambda entry: _urgency(entry[0], deciding, spec.logs.sample_share))
    return chosen


def _urgency(row: LoggedRow, deciding: Collection[str], share: float) -> tuple[Any, ...]:
    """Return the sort key of the queue: first, by their time, rows that decide between two models, since a rollout counts undecided
    ones against the candidate. Then, by a hash of their ids, drawn ones whose fields are promised, be they passed on or not: else
    the drawn ones that are decided would be the unsure ones. Then whoever waits."""
    if row["id"] in deciding:
        return 0, moment(row["timestamp"])
    if of_fields(row) and in_watched_sample(row["id"], share):
        return 1, _hash(row["id"])
    return 2, not row.get("passed_on"), _is_answered_by_model(row)


def in_watched_sample(row_id: str, share: float) -> bool:
    """Whether an answer is one of the share that people review whatever anybody thinks of it."""
    return _in_sample(_hash(f"sample:{row_id}"), share)


def _is_open(row: LoggedRow) -> bool:
    """Whether a drawn row waits for a decision. Of answers that were given without a person, also one that a user corrected: else
    the drawn ones that reviewers decide would be the better ones."""
    return not row["correction"] or ((row.get("passed_on") is False or of_fields(row)) and not row["reviewed"])


def of_fields(row: LoggedRow) -> bool:
    """Whether the client got the model's own answer, some fields of which needed no person."""
    return row.get("fields_passed_on") is not None and not row.get("answered_by")


def _passed_on(row: LoggedRow) -> str:
    return f"{PASSED_ON}: answered by {row['answered_by']}" if _is_answered_by_model(row) else PASSED_ON


def _is_answered_by_model(row: LoggedRow) -> bool:
    return row.get("answered_by") not in (None, REFUSAL)


def failure(row: LoggedRow, spec: TaskSpec) -> str | None:
    """Return why people object to an answer, or None."""
    if row["flag"]:
        return f"{FLAGGED}: {row['flag']}"
    limit = spec.logs.low_score
    if limit is not None and row["score"] is not None and row["score"] < limit:
        return f"{LOW}: {row['score']:g}"
    return None


def is_reserved(row: LoggedRow, spec: TaskSpec) -> bool:
    """Whether a row's question is in the share reserved for evaluation: by the question, not the id, so that equal questions have
    the same use."""
    return _in_sample(bytes.fromhex(text_key(row["input"])), spec.logs.judging_share)


def _in_sample(digest: bytes, share: float) -> bool:
    """Whether a hash is in a random sample that contains this share of all hashes."""
    return int.from_bytes(digest[:8], "big") < share * 2**64


def example_of(row: LoggedRow, spec: TaskSpec) -> Example:
    """Return the training example of a corrected row."""
    assert row["correction"] is not None, "an example has an answer"
    return replace(logged_example(spec, row, row["correction"]), source=row["source"])
