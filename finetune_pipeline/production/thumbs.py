"""Preferences in production rows: a correction against the answer given, a reviewer's comparison of two versions' answers, and
thumbs on the answer given.

A flag, or a score below `logs.low_score`, is a thumb down; a score from `logs.low_score` on, or a person's confirmation, is a
thumb up. Without `logs.low_score`, scores say nothing. A comparison in which one answer is better takes the place of a thumb, since
its reviewer saw both answers.
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
from finetune_pipeline.production.shadow_rows import preference_of, shadow_of
from finetune_pipeline.spec.model import TaskSpec

NO_THRESHOLD, NO_ANSWER, OUT_OF_FORM = "score_without_low_score", "empty_answer", "liked_answer_out_of_form"
RESERVED = "reserved_for_evaluation"
COMPARED, OF_CORRECTED = "thumb_on_compared_answer", "comparison_of_corrected_answer"
WITHOUT_WINNER = {"equal": "compared_equally_good", "neither": "compared_none_acceptable"}
ONE_FAILED = "compared_with_no_answer"

Sides = tuple[str | None, str | None]
"""The liked and the disliked answer."""


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

    The limits on one user's and one family's share, and the search for instructions to a model, are those of corrections: what
    a reviewer decided is exempt.
    """
    said: list[tuple[LoggedRow, str | None, str | None]] = []
    compared: list[Preference] = []
    unused: Counter[str] = Counter()
    for row in rows:
        if row["left_out"] or not row["input"].strip():
            continue
        sides, comparison = _resolved(row, spec)
        if is_reserved(row, spec):  # a later correction of the question may judge a model
            sides = RESERVED if isinstance(sides, tuple) else sides
            comparison = RESERVED if isinstance(comparison, Preference) else comparison
        unused.update(each for each in (sides, comparison) if isinstance(each, str))
        if isinstance(sides, tuple):
            said.append((row, *sides))
        if isinstance(comparison, Preference):
            compared.append(comparison)
    judged: list[LoggedRow] = [
        {**row, "correction": chosen if chosen is not None else rejected}
        for row, chosen, rejected in said
        if not row["reviewed"]
    ]
    held = hold_back(spec, judged, [])
    held_ids = {row.id for row in held}
    preferences = [_preference(row, spec, liked, other) for row, liked, other in said if row["id"] not in held_ids]
    return Logged([*preferences, *compared], held, dict(unused))


def _resolved(row: LoggedRow, spec: TaskSpec) -> tuple[Sides | str | None, Preference | str | None]:
    """Return what a row's feedback says and its comparison, of which none contradicts the other; a text: why it is not used."""
    sides, comparison = _sides(row, spec), _compared(row, spec)
    if not isinstance(sides, tuple) or not isinstance(comparison, Preference):
        return sides, comparison
    is_compared = row["output"].strip() in (comparison.chosen, comparison.rejected)
    if is_compared and None in sides:
        return COMPARED, comparison
    if is_compared and spec.training.refine.method == "kto":  # which would like and dislike the corrected answer
        return sides, OF_CORRECTED
    return sides, comparison


def _compared(row: LoggedRow, spec: TaskSpec) -> Preference | str | None:
    """Return a reviewer's comparison of two versions' answers; why it says nothing; None without one."""
    preferred, shadow = preference_of(row), shadow_of(row)
    if preferred is None or shadow is None:
        return None
    if preferred.choice in WITHOUT_WINNER:
        return WITHOUT_WINNER[preferred.choice]
    sides = [(shadow.champion_output.strip(), shadow.champion), ((shadow.output or "").strip(), shadow.model_version)]
    (chosen, better), (rejected, worse) = sides if preferred.choice == "champion" else sides[::-1]
    if not chosen or not rejected:
        return ONE_FAILED
    return OUT_OF_FORM if _is_out_of_form(chosen, spec) else _preference(row, spec, chosen, rejected, (better, worse))


def _preference(
    row: LoggedRow, spec: TaskSpec, chosen: str | None, rejected: str | None, versions: tuple[str, str] | None = None
) -> Preference:
    prompt = logged_example(spec, row, "").prompt_messages
    more = {"origin": "production", "source": row["source"], "log": row["id"], "versions": versions}
    return preference(prompt, chosen, rejected, **more)


def _is_out_of_form(answer: str, spec: TaskSpec) -> bool:
    return bool((spec.labels and answer not in spec.labels) or form_problems(answer, spec.output))


def _sides(row: LoggedRow, spec: TaskSpec) -> Sides | str | None:
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
    if chosen is not None and _is_out_of_form(chosen, spec):
        return OUT_OF_FORM
    if rejected == "":
        rejected = None
        if chosen is None:
            return NO_ANSWER
    return chosen, rejected
