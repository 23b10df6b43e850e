"""What month.py left in the stores, as a table and a picture: log rows, Dagster's runs, MLflow's versions, drift reports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import dagster as dg
from month_world import A_DAY, SENSORS, SHIFT

from finetune_pipeline.data.examples import read_examples, write_examples
from finetune_pipeline.data.split_files import examples_of
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.production_rows import (
    as_examples,
    compare_models,
    judge,
    rows_with_truth,
    sources_of,
)
from finetune_pipeline.production.champion_alarm import version_of
from finetune_pipeline.production.ingest import read_logs
from finetune_pipeline.production.watch import moment
from finetune_pipeline.reports.plots import standalone
from finetune_pipeline.resources import registry
from finetune_pipeline.resources.compute import Compute
from finetune_pipeline.resources.store import Store
from finetune_pipeline.resources.tracking import Tracking
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests.graph.project import Project

TASK = "colours"
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _LINE = 900, 250, 46, 12, 26, 17


def report(project: Project, planted: Mapping[str, Any], picture: Path) -> int:
    """Print the timeline, draw it, and say what was shown and what was not. Returns the exit code."""
    store, tracking, task = Store().artifacts(), Tracking(), load_task(project.folder)
    rows = read_logs(task, store).rows
    days = [rows[i : i + A_DAY] for i in range(0, len(rows), A_DAY)]
    with dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        records = instance.get_run_records(dg.RunsFilter(tags={"finetune/task": TASK}), ascending=True)

    def day_of(time: float) -> int:
        """The newest day of which a row was logged by then; 0 before the month."""
        return max((n for n, day in enumerate(days, 1) if moment(day[0]) <= time), default=0)

    shift = moment(days[SHIFT - 1][0]) if len(days) >= SHIFT else float("inf")
    events: list[tuple[float, str, str]] = []
    if len(days) >= SHIFT:
        events.append((shift, "world", "from now on other questions are asked"))
    for record in records:
        run, tags = record.dagster_run, record.dagster_run.tags
        if record.start_time and tags.get("finetune/trigger") in SENSORS and run.job_name.endswith("__all"):
            events.append((record.start_time, tags["finetune/trigger"], f"starts a run: {tags['finetune/why']}"))
    drifts = store.all_versions(TASK, "drift_report")
    for before, now in zip([None, *drifts], drifts, strict=False):
        if now.facts["judged"] and (before is None or before.facts["drifted"] != now.facts["drifted"]):
            events.append((_made(now), "drift_report", now.facts["sentence"]))
    versions = store.all_versions(TASK, "model_version")
    for made in versions:
        failed = [name for name, passed in made.facts["gates"].items() if not passed]
        told = "promoted: every gate passed" if not failed else f"refused by {', '.join(failed)}"
        events.append((_made(made), "release", f"version {made.facts['model_version']} {told}"))
    if champion := planted.get("bad_champion"):
        told = f"planted: version {champion['version']} made champion by hand in MLflow, past the gates"
        events.append((champion["time"], "world", told))
    if candidate := planted.get("bad_candidate"):
        events.append(
            (candidate["time"], "world", "planted: a learning rate of a millionth in task.yaml, `finetune run`")
        )
    back = {k: v for k, v in tracking.client().get_registered_model(TASK).tags.items() if k.startswith("rollback.")}
    for name, why in sorted(back.items()):
        events.append((moment({"timestamp": name.removeprefix("rollback.")}), "champion alarm", f"rolled back: {why}"))
    events.sort()

    print("\nday  rows  answered by     told  right of those told")
    for n, day in enumerate(days, 1):
        right, told = _right(day)
        serving = ", ".join(sorted({f"version {version_of(r['model_version'])}" for r in day}))
        print(f"{n:3}  {len(day):4}  {serving:14}  {told:4}  {right / max(told, 1):6.1%}")
    print("\nday  who             what")
    for time, who, what in events:
        print(f"{day_of(time):3}  {who:14}  {what}")
    verdict = _on_recent_rows(task, store, rows, records, versions)
    print(f"\nrecent rows: {verdict[1]}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(_draw(days, [(day_of(t), who, what) for t, who, what in events]), "utf-8")

    served = {version_of(r["model_version"]) for r in rows}
    after = [e for e in events if e[0] > shift]
    bad = (planted.get("bad_candidate") or {}).get("version")
    shown = {
        "requests answered and judged": any(_right(day)[1] for day in days),
        "no drift reported before the shift, drift after it": any("has drifted" in w for _, _, w in after)
        and any(w.startswith("No drift found") for t, _, w in events if t <= shift)
        and not any("has drifted" in w for t, _, w in events if t <= shift),
        "a sensor started a run by itself": any(who in SENSORS for _, who, _ in after),
        "its candidate was promoted and served": any(
            what == f"version {v} promoted: every gate passed" and str(v) in served
            for v in [m.facts["model_version"] for m in versions[1:2]]
            for _, _, what in after
        ),
        "its candidate won on recent rows": verdict[0],
        "the planted bad candidate was refused": any(w.startswith(f"version {bad} refused") for _, _, w in events),
        "the planted bad champion was rolled back by itself": any("champion alarm" in why for why in back.values()),
    }
    print()
    for what, was in shown.items():
        print(f"{'shown    ' if was else 'NOT SHOWN'}  {what}")
    now = registry.aliases(tracking, TASK)
    print(f"at the end: {json.dumps(now)}")
    return 0 if all(shown.values()) else 1


def _made(artifact: Any) -> float:
    return float((artifact.folder / "artifact.json").stat().st_mtime)


def _right(day: list[dict[str, Any]]) -> tuple[int, int]:
    """(answers people found right, answers people said anything of)"""
    told = [r for r in day if r["correction"] is not None]
    return sum(r["correction"] == r["output"].strip() for r in told), len(told)


def _on_recent_rows(task: Any, store: Any, rows: list[dict[str, Any]], records: Any, versions: Any) -> tuple[bool, str]:
    """The first candidate a sensor asked for against the champion of then, on rows that came after its run had begun."""
    began = next(
        (
            r.start_time
            for r in records
            if r.dagster_run.tags.get("finetune/trigger") in SENSORS
            and r.start_time
            and r.dagster_run.job_name.endswith("__all")
        ),
        None,
    )
    if began is None or len(versions) < 2 or _made(versions[1]) < began:
        return False, "no candidate was made by itself"
    first, candidate = versions[0], versions[1]
    models = {}
    for name, version in (("champion", first), ("candidate", candidate)):
        told = json.loads(version.path("model_version.json").read_text())
        models[name] = (Path(told["merged"]), told["dataset_version"])
    splits = store.find(TASK, "splits", models["candidate"][1])
    trained = [e.user_text for part in ("train", "validation") for e in read_examples(examples_of(splits.folder, part))]
    asked = [r for r in rows if version_of(r["model_version"]) == str(first.facts["model_version"])]
    chosen = rows_with_truth(task.spec, asked, trained=trained, after=began)
    examples = as_examples(task.spec, chosen)
    if not examples:
        return False, "none came in while the candidate was trained"
    from finetune_pipeline.training.jobs import predict_job, prompt_set

    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "rows.jsonl", examples)
        sets = [prompt_set(name=name, model=model) for name, (model, _) in models.items()]
        job = predict_job(
            sets=sets,
            examples=Path(folder) / "rows.jsonl",
            labels=task.spec.labels,
            max_new_tokens=6,
            batch_size=8,
            out=Path(folder) / "out",
        )
        Compute().launch(None, job)
        predicted = read_predictions(Path(folder) / "out" / "predictions.parquet")
    told = compare_models(task.spec, {n: of_model(predicted, n) for n in models}, chosen, sources_of(chosen, examples))
    won = bool(told["judged"]) and told["comparisons"]["champion"]["interval"][0] > 0
    return won, judge(told)[1]


def _draw(days: list[list[dict[str, Any]]], events: list[tuple[int, str, str]]) -> str:
    """Share of right answers among those people judged, day by day, with what happened numbered below."""
    bottom = _TOP + _HEIGHT - 40
    step = (_WIDTH - _LEFT - _RIGHT) / (len(days) + 1)

    def x(day: float) -> float:
        return _LEFT + day * step

    def y(share: float) -> float:
        return bottom - share * (bottom - _TOP)

    def text(left: float, top: float, told: str, style: str = "tick", anchor: str = "middle") -> str:
        return f'<text x="{left:.1f}" y="{top:.1f}" class="{style}" text-anchor="{anchor}">{escape(told)}</text>'

    parts = [text(_LEFT, 14, "Right answers, of those people judged; a day is 60 requests", "strong", "start")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line x1="{_LEFT}" y1="{y(share):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(share):.1f}" class="grid"/>'
        )
        parts.append(text(_LEFT - 6, y(share) + 4, f"{share:.0%}", anchor="end"))
    shares = []
    for n, day in enumerate(days, 1):
        right, told = _right(day)
        shares.append((n, right / max(told, 1)))
        if n % 2 == 0 or n == 1:
            parts.append(text(x(n), bottom + 18, str(n)))
    parts.append(f'<polyline points="{" ".join(f"{x(n):.1f},{y(s):.1f}" for n, s in shares)}" class="curve valid"/>')
    for (n, share), day in zip(shares, days, strict=True):
        told = ", ".join(sorted({version_of(r["model_version"]) for r in day}))
        parts.append(
            f'<circle cx="{x(n):.1f}" cy="{y(share):.1f}" r="3.5" class="point"><title>version {told}</title></circle>'
        )
    seen: dict[int, int] = {}
    top = bottom + 44
    for number, (day, who, what) in enumerate(events, 1):
        level = seen[day] = seen.get(day, 0) + 1
        parts.append(f'<line x1="{x(day):.1f}" y1="{_TOP}" x2="{x(day):.1f}" y2="{bottom}" class="mark"/>')
        parts.append(text(x(day) + 3, _TOP + 12 * level, str(number), "strong", "start"))
        told = f"{number}  day {day}, {who}: {what}"
        parts.append(
            text(_LEFT, top + _LINE * (number - 1), told if len(told) < 130 else f"{told[:127]}…", anchor="start")
        )
    height = top + _LINE * len(events)
    title = "A month of one task: share of right answers day by day, and what happened"
    return standalone(
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" height="{height:.0f}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg>'
    )
