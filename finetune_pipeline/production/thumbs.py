"""Preferences in production rows: a correction against the answer given, and thumbs on the answer given.

A flag, or a score below `logs.low_score`, is a thumb down; a score from `logs.low_score` on, or a person's confirmation, is a
thumb up. Without `logs.low_score`, scores say nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.preferences.rows import Preference, preference
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.evaluation.production_rows import LoggedRow, logged_example
from finetune_pipeline.production.choosing import Held, hold_back, is_reserved
from finetune_pipeline.spec.model import TaskSpec

NO_THRESHOLD, NO_ANSWER, OUT_OF_FORM = "score_without_low_score", "empty_answer", "liked_answer_out_of_form"
RESERVED = "reserved_for_evaluation"


@dataclass(frozen=True)
class Logged:
    """Preferences in the logs. held: rows held back as possible poison. unused: feedback that says nothing, by reason."""

    preferences: list[Preference]
    held: list[Held]
    unused: dict[str, int]

    def digest(self) -> str:
        """Return a digest that changes only with the preferences; empty without any."""
        ids = sorted((row.id, row.log) for row in self.preferences)
        return digest_json(ids) if ids else ""


def logged_preferences(spec: TaskSpec, rows: Sequence[LoggedRow]) -> Logged:
    """Return the preferences of production rows, as write_logs writes them.

    The limits on one user's and one family's share, and the search for instructions to a model, are those of corrections.
    """
    said: list[tuple[LoggedRow, str | None, str | None]] = []
    unused: Counter[str] = Counter()
    for row in rows:
        if row["left_out"] or not row["input"].strip():
            continue
        sides = _sides(row, spec)
        if sides is not None and not isinstance(sides, str) and is_reserved(row, spec):
            sides = RESERVED  # a later correction of the question may judge a model
        if isinstance(sides, str):
            unused[sides] += 1
        elif sides is not None:
            said.append((row, *sides))
    judged: list[LoggedRow] = [
        {**row, "correction": chosen if chosen is not None else rejected}
        for row, chosen, rejected in said
        if not row["reviewed"]
    ]
    held = hold_back(spec, judged, [])
    held_ids = {row.id for row in held}
    preferences = []
    for row, chosen, rejected in said:
        if row["id"] in held_ids:
            continue
        prompt = logged_example(spec, row, "").prompt_messages
        more = {"origin": "production", "source": row["source"], "log": row["id"]}
        preferences.append(preference(prompt, chosen, rejected, **more))
    return Logged(preferences, held, dict(unused))


def _sides(row: LoggedRow, spec: TaskSpec) -> tuple[str | None, str | None] | str | None:
    """Return (liked answer, disliked answer) of a row; the reason why its feedback is not used; None without feedback."""
    output, correction = row["output"].strip(), row["correction"]
    chosen: str | None = None
    rejected: str | None = None
    if correction:
        if same_answer(correction, output, spec.output):
            chosen = output
        else:
            chosen, rejected = correction, output
    elif row["flag"]:
        rejected = output
    elif row["score"] is not None:
        if spec.logs.low_score is None:
            return NO_THRESHOLD
        if row["score"] < spec.logs.low_score:
            rejected = output
        else:
            chosen = output
    else:
        return None
    if chosen is not None and ((spec.labels and chosen not in spec.labels) or form_problems(chosen, spec.output)):
        return OUT_OF_FORM
    if rejected == "":
        rejected = None
        if chosen is None:
            return NO_ANSWER
    return chosen, rejected
