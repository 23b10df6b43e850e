"""The month as a printed timeline, with what was claimed and whether it happened."""

import json
from collections.abc import Mapping
from pathlib import Path

from month_claims import claims
from month_picture import draw
from month_story import Look, Run, Story, read_story, right, served_by
from month_world import SHIFT

from finetune_pipeline_tests.graph.project import Project

Event = tuple[float, str, str]
"""Time (seconds since 1970), who, what."""


def report(project: Project, planted: Mapping[str, object], picture: Path) -> int:
    """Print the timeline, draw it, and say what was shown and what was not. Returns the exit code."""
    story = read_story(project, planted)
    told = events(story)
    print("\n".join(["", *lines(story, told)]))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw(story, [(story.day_of(t), who, what) for t, who, what in told]), "utf-8")
    return verdict(claims(story))


def verdict(shown: Mapping[str, bool]) -> int:
    """Print the claims. Returns 0 when all happened, else 1."""
    print()
    for what, was in shown.items():
        print(f"{'shown    ' if was else 'NOT SHOWN'}  {what}")
    return 0 if shown and all(shown.values()) else 1


def events(story: Story) -> list[Event]:
    """What happened, in order: changes only, not every look."""
    found: list[Event] = []
    if len(story.days) >= SHIFT:
        found.append((story.began(SHIFT), "world", "from now on other questions are asked"))
    before: Look | None = None
    for look in story.looks:
        if look.windows and (
            before is None
            or (look.drifted, look.known, look.trained_on) != (before.drifted, before.known, before.trained_on)
        ):
            found.append((look.time, "drift report", f"{look.sentence}{_ps(look, [*look.drifted, *look.known])}"))
        before = look if look.windows else before
    found += [(run.time, f"sensor {run.trigger}", f"starts a run: {_news(run, story)}") for run in story.by_sensor]
    for made in story.releases:
        told = f"refused by {', '.join(made.failed)}" if made.failed else f"promoted: {len(made.gates)} gates passed"
        recent = f"; {made.on_recent_rows}" if made.on_recent_rows else ""
        found.append((made.time, "release", f"version {made.number} {told}{recent}"))
    if champion := story.planted.get("bad_champion"):
        told = f"planted: version {champion['version']} made champion by hand in MLflow, past the gates"
        found.append((champion["time"], "world", told))
    if candidate := story.planted.get("bad_candidate"):
        told = "planted: a learning rate of a millionth in task.yaml, `finetune run`"
        found.append((candidate["time"], "world", told))
    found += [(time, "sensor champion", f"rolled back: {why}") for time, why in story.rolled_back]
    now = True
    for time, passed, told in story.checks:
        if passed != now:
            found.append((time, "asset check", f"champion_serves_well {'passes again' if passed else 'fails'}: {told}"))
        now = passed
    return sorted(found)


def _news(run: Run, story: Story) -> str:
    """Why a run began, without the sentence of the drift report, which is told already."""
    for look in story.looks:
        if run.why.startswith(look.sentence):
            return run.why.removeprefix(look.sentence).strip() or run.why
    return run.why


def _ps(look: Look, names: list[str]) -> str:
    told = ", ".join(f"{name} {look.p[name]:.2g}" for name in names if name in look.p)
    return f" p over the watch: {told}." if told else ""


def lines(story: Story, told: list[Event]) -> list[str]:
    """The whole timeline as text."""
    made = ["day  rows  answered by     told  right of those told"]
    for n, day in enumerate(story.days, 1):
        good, judged = right(day)
        serving = f"version {', '.join(served_by(day))}"
        made.append(f"{n:3}  {len(day):4}  {serving:14}  {judged:4}  {good / max(judged, 1):6.1%}")
    rows = sum(map(len, story.days))
    made += [
        "",
        f"asked {story.planted.get('asked')}, told {story.planted.get('told')}; in the logs {rows} rows, {story.feedback} lines "
        f"of feedback, {story.quarantined} lines quarantined; {story.held} corrections held back as possible poison",
        "",
        "day  who              what",
    ]
    made += [f"{story.day_of(time):3}  {who:15}  {what}" for time, who, what in told]
    made += [
        "",
        "looks at production",
        "day  rows  windows  drifted / known / lowest p over the watch; what was decided",
    ]
    for look in story.looks:
        lowest = min(look.p.items(), key=lambda kv: kv[1], default=None)
        p = f"{lowest[0]} {lowest[1]:.2g}" if lowest else "not judged"
        found = f"{', '.join(look.drifted) or '-'} / {', '.join(look.known) or '-'} / {p}"
        made.append(f"{story.day_of(look.time):3}  {look.rows:4}  {look.windows:7}  {found}; {look.decision}")
    made += ["", "runs", "day  job                   started by     ended     why"]
    made += [
        f"{story.day_of(run.time):3}  {run.job:20}  {run.trigger:13}  {run.status:8}  {run.why}".rstrip()
        for run in story.runs
    ]
    for release in story.releases:
        made += ["", f"gates of version {release.number}"]
        made += [f"  {'passed' if passed else 'FAILED'}  {name}: {why}" for name, passed, why in release.gates]
    return [*made, "", f"at the end: {json.dumps(dict(story.aliases))}"]
