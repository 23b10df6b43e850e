"""What month.py claims, each held against what is in the stores."""

from month_story import Story, right, served_by
from month_world import A_DAY, DAYS, SHIFT


def claims(story: Story) -> dict[str, bool]:
    """{claim: whether it happened}; every one must hold for the play to succeed."""
    shift, planted = story.began(SHIFT), story.planted
    before = [look for look in story.looks if look.windows and look.rows <= (SHIFT - 1) * A_DAY and look.time < shift]
    after = [look for look in story.looks if look.time > shift]
    first, own = story.made_by_itself, story.by_sensor
    again = [look for look in after if first is not None and look.windows and look.trained_on == first.data]
    bad = (planted.get("bad_candidate") or {}).get("version")
    champion = planted.get("bad_champion") or {}
    refused = [r for r in story.releases if r.number == bad]
    served = {number for day in story.days for number in served_by(day)}
    back = [(time, why) for time, why in story.rolled_back if time > champion.get("time", float("inf"))]
    rows = sum(len(day) for day in story.days)
    red = [time for time, passed, _ in story.checks if not passed]
    return {
        f"{DAYS} days were played, and every request is one row of the logs, every feedback one line": len(story.days)
        == DAYS
        and rows == planted.get("asked")
        and story.feedback == planted.get("told")
        and story.quarantined == 0,
        "people judged answers on every day": bool(story.days) and all(right(day)[1] for day in story.days),
        "production was looked at before the shift, and no drift was reported": bool(before)
        and not any(look.drifted for look in before),
        "drift was reported after the shift": any(look.drifted for look in after),
        "a sensor started a run by itself, after the drift report": bool(own)
        and own[0].status == "SUCCESS"
        and any(look.drifted and look.time < own[0].time for look in after),
        "its candidate passed every gate, was promoted and served": first is not None
        and not first.failed
        and str(first.number) in served,
        "its candidate won against the champion on recent production rows": first is not None
        and first.won_on_recent_rows,
        "production was held against its data, and what it has learned started no second run": bool(again)
        and not any(look.drifted for look in again)
        and len(own) == 1,
        "the planted bad candidate was refused": bool(refused) and bool(refused[0].failed),
        "the planted bad champion was rolled back by the alarm": bool(back)
        and "champion alarm" in back[0][1]
        and story.aliases.get("champion") == champion.get("good"),
        "the check of the champion failed meanwhile, and passes again": bool(red)
        and all(time > champion.get("time", float("inf")) for time in red)
        and story.checks[-1][1],
    }
