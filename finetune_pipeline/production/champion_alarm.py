"""Is the present champion worse in production than the one before it? A sequential test on what people said of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.production.signals import more_often
from finetune_pipeline.production.watch import moment, version_of

FIRST_LOOK = 50
"""Rows of the present champion at its first judgement; further ones at every doubling."""
FEWEST_BEFORE = 50
"""With fewer rows of the champion before nothing can be compared."""


@dataclass(frozen=True)
class Alarm:
    """raised; sentence for people; figures: rows and failures of both, level and p of the look that decided."""

    raised: bool
    sentence: str
    figures: Mapping[str, Any]


def failed(row: Mapping[str, Any]) -> bool:
    """Whether people said that the answer was not right: a flag, or a correction that differs from it."""
    correction = row.get("correction")
    return bool(row.get("flag")) or (correction is not None and correction.strip() != str(row["output"]).strip())


def champion_alarm(
    rows: Iterable[Mapping[str, Any]], champion: int, previous: int | None, false_alarms: float = 0.05
) -> Alarm:
    """Compare the shares of failed rows of two versions (one-sided Fisher's exact test), as the champion's rows grow.

    Looks are taken at 50, 100, 200, … rows of the present champion, each with the rows of the one before; the k-th may
    spend false_alarms / (k (k + 1)), which sums to false_alarms over all looks there can ever be. Which looks there are
    follows from the number of rows alone, so that asking often costs nothing.
    """
    if previous is None or previous == champion:
        return Alarm(False, f"version {champion} is the first champion: there is none before it to compare with", {})
    ordered = sorted(rows, key=lambda r: (moment(r), str(r["id"])))
    now = [failed(r) for r in ordered if version_of(str(r["model_version"])) == str(champion)]
    before = [failed(r) for r in ordered if version_of(str(r["model_version"])) == str(previous)]
    figures: dict[str, Any] = {"champion": champion, "previous": previous, "rows": len(now), "rows_before": len(before)}
    if len(now) < FIRST_LOOK or len(before) < FEWEST_BEFORE:
        return Alarm(
            False,
            f"version {champion} answered {len(now)} rows and version {previous} {len(before)}: too few to compare "
            f"({FIRST_LOOK} of each are needed)",
            figures,
        )
    look, size = 1, FIRST_LOOK
    while size <= len(now):
        found = more_often(sum(before), len(before), sum(now[:size]), size)
        level = false_alarms / (look * (look + 1))
        share, share_before = sum(now[:size]) / size, sum(before) / len(before)
        figures |= {"look": look, "level": level, "p": found.p, "failed": share, "failed_before": share_before}
        told = f"{share:.1%} of {size} answers of version {champion} failed, {share_before:.1%} of {len(before)} of {previous}"
        if found.p is not None and found.p < level:
            return Alarm(
                True, f"{told}: it serves worse than the champion before (p {found.p:.2g} < {level:.2g})", figures
            )
        look, size = look + 1, 2 * size
    return Alarm(False, f"{told}: not shown to be worse", figures)
