"""Decides whether a candidate's rollout goes on: first behind the champion (shadow), then with growing shares of the users.

Behind the champion the candidate must prove that it is not worse by more than `rollout.margin`, in the share of right answers;
in free text, of answers that reviewers prefer. Each question gives a loss: 1 if the champion alone is right or preferred, -1 if
the candidate alone is, else 0; equal answers need no person. While nobody has decided about two different answers, they count
as a loss of 1. The evidence is a bet that wins nothing on average while the mean loss is the margin or more, so the chance that
it ever reaches 1/level is at most the level, whenever one looks, and whichever answers are decided first (Waudby-Smith and
Ramdas 2024, section 4). With a share of the users, a rollout goes on after `rollout.share_rows` answers if the candidate is not
surely worse, and failed on at most `rollout.margin` of its rows. Of one user or conversation only so many rows count as
`logs.max_user_share` allows: with a single user, the others' complaints would come when the candidate serves them all.

A rollout ends as soon as the candidate is surely worse: by :mod:`.shadow` or :mod:`.share`, each of which says that of an equally
good candidate with a chance of at most half the level.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from finetune_pipeline.data.dedup.text_similarity import text_key
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.production.choosing import FLOOR
from finetune_pipeline.production.shadow import ShadowReport, compare_shadow, decided_questions
from finetune_pipeline.production.shadow_rows import ShadowAnswer, agree, is_seen, of_pair
from finetune_pipeline.production.share import ShareReport, compare_share
from finetune_pipeline.production.share_rows import assignment_of, unit_of
from finetune_pipeline.spec.model import TaskSpec

Action = Literal["wait", "advance", "stop"]
SHADOW = 0
"""The percentage of the first stage, in which the candidate answers behind the champion."""


class Rollout(msgspec.Struct, frozen=True):
    """The present stage of a candidate that is to take over from the champion.

    Attributes:
        champion, candidate: Versions.
        percent: The candidate's share of the users or conversations; SHADOW: it answers behind the champion.
        since: When the stage began, RFC 3339.
    """

    champion: int
    candidate: int
    percent: int
    since: str

    @property
    def alias(self) -> str:
        """The alias of the candidate in the registry."""
        return alias_of(self.percent)


def alias_of(share: int) -> str:
    """Return the name of a stage, which is the alias of the candidate in the registry. share: in percent."""
    return f"share-{share}" if share else "shadow"


@dataclass(frozen=True)
class Judged:
    """What the rows say of a stage.

    Attributes:
        action: What happens now: nothing yet, the next stage or after the last one the promotion, or the end of the rollout.
        why: In a sentence.
        evidence: That the candidate is not worse by more than the margin, 1 at the beginning.
        needed: Evidence from which on that is sure.
        undecided: Questions with different answers that nobody has looked at.
    """

    action: Action
    why: str
    shadow: ShadowReport | None = None
    share: ShareReport | None = None
    evidence: float = 1.0
    needed: float = 0.0
    undecided: int = 0


def next_percent(spec: TaskSpec, now: int) -> int | None:
    """Return the share after a stage's, in percent; None after the last one: then the candidate becomes champion."""
    assert spec.rollout is not None
    return min((share for share in spec.rollout.share if share > now), default=None)


def stages_of(spec: TaskSpec, now: int) -> list[str]:
    """Return the names of the stages in their order; the last one is the promotion. now: the present one, which task.yaml may not
    have any more."""
    assert spec.rollout is not None
    return [*map(alias_of, sorted({SHADOW, now, *spec.rollout.share})), "champion"]


def evidence_text(evidence: float) -> str:
    """Format evidence; beyond a million its size says nothing more."""
    return f"{evidence:,.1f}" if evidence < 1e6 else "over 1,000,000"


def judge(rows: Sequence[LoggedRow], spec: TaskSpec, rollout: Rollout, now: datetime) -> Judged:
    """Judge the present stage of a rollout.

    Args:
        rows: All production rows as merge_lines returns them, sorted by time.
        now: The present time, in UTC. Answers younger than drift.feedback_days do not count for a share's stage: people
            may not have seen them.
    """
    assert spec.rollout is not None
    pair = f"{spec.name}:{rollout.champion}", f"{spec.name}:{rollout.candidate}"
    shadow, share = compare_shadow(rows, spec, pair), compare_share(rows, spec, pair)
    losses, undecided = question_losses(rows, spec, pair)
    evidence = float(not_worse_evidence(losses, spec.rollout.margin).max(initial=1.0))
    needed = 1 / (1 - spec.gates.confidence)
    worse = [measure for measure in share.measures if measure.more == "candidate"] if share else []
    action: Action = "stop"
    if shadow and shadow.better == "champion":
        why = f"reviewers' decisions show that version {rollout.champion} is surely better, since {shadow.since[:10]}"
    elif worse:
        what = " and ".join(measure.name for measure in worse)
        why = f"its answers are surely more often {what}, since {min(measure.since for measure in worse)[:10]}"
    else:
        if rollout.percent == SHADOW:
            ready, why = _shadow_ready(shadow, spec, evidence, needed, undecided)
        else:
            ready, why = _share_ready(rows, spec, rollout, pair, now)
        action = "advance" if ready else "wait"
    return Judged(action, why, shadow, share, evidence, needed, undecided)


def question_losses(rows: Sequence[LoggedRow], spec: TaskSpec, pair: tuple[str, str]) -> tuple[list[int], int]:
    """Return the loss of each different question that both models answered, in the order in which they were asked, and the
    number of those with different answers that nobody has looked at. One that a reviewer left out stays a loss."""
    both = of_pair(rows, pair)
    decided = decided_questions(both, spec)
    first: dict[str, ShadowAnswer] = {}
    for row, shadow in both:
        first.setdefault(text_key(row["input"]), shadow)
    seen = {text_key(row["input"]) for row, _ in both if is_seen(row, spec.output)}
    losses, undecided = [], 0
    for key, shadow in first.items():
        if agree(shadow, spec.output):
            losses.append(0)
        elif decision := decided.get(key):
            losses.append(int(decision.champion_right) - int(decision.shadow_right))
        else:
            losses.append(1)
            undecided += key not in seen
    return losses, undecided


def _shadow_ready(
    report: ShadowReport | None, spec: TaskSpec, evidence: float, needed: float, undecided: int
) -> tuple[bool, str]:
    assert spec.rollout is not None
    questions, wanted = report.questions if report else 0, spec.rollout.shadow_rows
    if questions < wanted:
        return False, f"both have answered {questions:,} of {counted(wanted, 'question')}"
    margin = percent(spec.rollout.margin)
    said = f"evidence {evidence_text(evidence)}, {needed:,.0f} needed"
    if evidence >= needed:
        return True, f"it is surely not worse by more than {margin} ({said})"
    waiting = ""
    if undecided:
        waiting = f": {counted(undecided, 'different answer')} wait for a person and count against it until then"
    return False, f"not yet sure that it is not worse by more than {margin} ({said}){waiting}"


def _share_ready(
    rows: Sequence[LoggedRow], spec: TaskSpec, rollout: Rollout, pair: tuple[str, str], now: datetime
) -> tuple[bool, str]:
    assert spec.rollout is not None
    wanted, margin, at = spec.rollout.share_rows, spec.rollout.margin, f"at {rollout.percent}%"
    most = max(FLOOR, int(wanted * spec.logs.max_user_share))
    since, latest = datetime.fromisoformat(rollout.since), now - timedelta(days=spec.drift.feedback_days)
    given, counting, old_enough, failed = Counter[str](), 0, 0, 0
    for row in rows:
        assignment = assignment_of(row)
        if assignment is None or assignment.pair != pair or assignment.percent != rollout.percent:
            continue
        if not assignment.chosen:
            continue
        unit = unit_of(row)
        given[unit] += 1
        if given[unit] > most:
            continue
        counting += 1
        if row["model_version"] != pair[1]:
            failed += 1
        else:  # no answer of this stage is older than the stage, whatever a server's clock said
            old_enough += max(datetime.fromisoformat(str(row["timestamp"])), since) <= latest
    too_new = counting - failed - old_enough
    if failed > margin * counting:
        champion = f"the champion answered {failed:,} of its {counted(counting, 'row')} {at} in its place"
        return False, f"{champion}, more than {percent(margin)}: the server's log says why, and `--stop` ends it"
    if old_enough >= wanted:
        return True, f"it has given {counted(old_enough, 'answer')} {at} and is not surely worse"
    waited = f", {too_new:,} more are too new for feedback" if too_new else ""
    if ignored := given.total() - counting:
        waited += (
            f"; {ignored:,} more do not count, since one user or conversation counts for at most {most:,} "
            f"(logs.max_user_share); {len(given):,} asked"
        )
    return False, f"it has given {old_enough:,} of {counted(wanted, 'answer')} {at}{waited}"
