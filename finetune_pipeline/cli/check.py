"""``finetune check TASK``: spec and raw data, without training anything."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.baseline.learnable import Learnable, learnable
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, say, task_folder
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.findings import Finding, FindingsError, as_rows, errors
from finetune_pipeline.models.chat_templates import own_template, told_origin
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.orchestration.release import made_base
from finetune_pipeline.planning.power import power_bounds
from finetune_pipeline.report.data_quality import TO_REVIEW, write_quality
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, read_spec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.ability import ability_digest
from finetune_pipeline.trainers import preflight

EXAMPLES = 3


def _by_rule(findings: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        grouped.setdefault(finding["rule"], []).append(finding)
    return dict(sorted(grouped.items(), key=lambda kv: (-len(kv[1]), kv[0])))


def _read(folder: Path, store: ArtifactStore) -> tuple[Task | None, list[Finding]]:
    """(the task, or None where its spec or its training cannot be; every finding about them)."""
    spec, found = read_spec(folder)
    if spec is None:
        return None, found
    task = Task(spec=spec, folder=folder.resolve())
    found += [f for f in preflight(spec, task.folder, made_base(task, store)) if f not in found]
    try:
        ability_digest(task)
    except FindingsError as error:
        found += error.findings
    return (None if errors(found) else task), found


def _tokenizer(task: Task, store: ArtifactStore) -> Path | None:
    """The folder of the task's tokenizer, where the base model is on this machine already."""
    made = made_base(task, store)
    if made is not None:
        return model_folder(made)
    local = Path(task.spec.base_model).expanduser()
    return local if (local / "tokenizer.json").is_file() and own_template(local) else None


@click.command()
@click.argument("task")
@as_json
def check(task: str, as_json: bool) -> int:
    """Check the spec and every raw row of TASK: a table per rule with three places each, the full list in a file.

    Exit code 2 when the pipeline would stop at these data (too many bad rows, too few good ones, rows to be reviewed).
    """
    settings = read_settings()
    store = ArtifactStore(settings.home / "artifacts")
    loaded, problems = _read(task_folder(task), store)
    if loaded is None:
        return _unusable(task, problems, as_json)
    kept = settings.home / "checks" / loaded.name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        folders = {name: Path(scratch) / name for name in ("raw", "validated", "clean", "reviewed", "quality")}
        for place in folders.values():
            place.mkdir()
        stages: dict[str, Any] = {}
        try:
            stages["raw_examples"] = collect_raw(loaded, folders["raw"])
            stages["validated_examples"] = validate(folders["raw"], loaded.spec, folders["validated"])
            stages["clean_examples"] = clean(folders["validated"], loaded.spec, folders["clean"], raw=folders["raw"])
        except FindingsError as error:
            return _unusable(task, [*problems, *error.findings], as_json)
        reviews = loaded.folder / "reviews"
        stages["reviewed_examples"] = apply_reviews(folders["clean"], reviews, loaded.spec, folders["reviewed"])
        quality = write_quality(
            loaded.spec,
            reviewed=folders["reviewed"],
            clean=folders["clean"],
            splits=None,
            raw=folders["raw"],
            tokenizer=_tokenizer(loaded, store),
            stages=stages,
            out=folders["quality"],
        )
        signal = learnable(loaded.spec, rows) if (rows := read_examples(folders["reviewed"])) else None
        findings = []
        with (kept / "findings.jsonl").open("wb") as full:
            for name in ("validated", "clean", "reviewed", "quality"):
                path = folders[name] / "findings.jsonl"
                findings += read_rows(path)
                full.write(path.read_bytes())
        for file in ("report.html", "quality.json", TO_REVIEW):
            shutil.copyfile(folders["quality"] / file, kept / file)
        for name in ("validated", "clean"):
            shutil.copyfile(folders[name] / "quarantine.jsonl", kept / f"quarantine_{name}.jsonl")
    stops = _stops(loaded, stages, quality, signal)
    power = power_bounds(loaded.spec, round(stages["reviewed_examples"]["kept"] * loaded.spec.split.test))
    grouped = _by_rule(findings)
    if as_json:
        emit(
            {
                "task": loaded.name,
                "usable": not stops,
                "stops": stops,
                "spec_findings": as_rows(problems),
                "chat_template": told_origin(loaded.spec.chat_template, loaded.folder),
                "raw": stages["raw_examples"],
                "validated": stages["validated_examples"],
                "clean": stages["clean_examples"],
                "reviewed": stages["reviewed_examples"],
                "quality": quality,
                "learnable": signal.to_dict() if signal else None,
                "power": power,
                "rules": {rule: {"count": len(found), "examples": found[:EXAMPLES]} for rule, found in grouped.items()},
                "folder": str(kept),
                "full_list": str(kept / "findings.jsonl"),
            }
        )
        return REFUSED if stops else DONE
    for finding in problems:
        say(str(finding))
    say(f"chat template: {told_origin(loaded.spec.chat_template, loaded.folder)}")
    _tell(loaded.spec, stages, quality, signal, grouped)
    say(f"\n{power['sentence']}")
    say(f"\nall findings, the quarantine and the report as a page: {kept}")
    for stop in stops:
        say(f"the pipeline would stop: {stop}")
    return REFUSED if stops else DONE


def _unusable(task: str, problems: list[Any], as_json: bool) -> int:
    if as_json:
        emit({"task": task, "usable": False, "spec_findings": as_rows(problems)})
    else:
        for finding in problems:
            say(str(finding))
    return ERROR


def _stops(task: Task, stages: dict[str, Any], quality: dict[str, Any], signal: Learnable | None) -> list[str]:
    """What would stop the pipeline at these data."""
    spec, facts, cleaned = task.spec, stages["validated_examples"], stages["clean_examples"]
    share = facts["quarantined"] / facts["rows_in"] if facts["rows_in"] else 1.0
    stops = []
    if share > spec.data.max_quarantine_share:
        stops.append(
            f"{share:.1%} of the rows are bad, data.max_quarantine_share allows {spec.data.max_quarantine_share:.0%}"
        )
    if cleaned["kept"] < spec.data.min_examples:
        stops.append(f"{cleaned['kept']} examples are left, data.min_examples asks for {spec.data.min_examples}")
    few = [f"{label} {n}" for label, n in cleaned["labels"].items() if n < spec.data.min_per_label]
    if few:
        stops.append(f"labels with fewer than data.min_per_label = {spec.data.min_per_label}: {', '.join(few)}")
    stops += [f"{name}: {quality['parts'][name]['message']}" for name in quality["blocked_by"] if name != "size"]
    if signal and signal.status == "not_shown" and spec.gates.learnable == "block":
        stops.append(
            f"learnable: {signal.sentence} Where a prompted model can tell them, the run goes on: `finetune advise "
            f"{task.name}` asks."
        )
    return stops


def _tell(
    spec: TaskSpec,
    stages: dict[str, Any],
    quality: dict[str, Any],
    signal: Learnable | None,
    grouped: dict[str, list[dict[str, Any]]],
) -> None:
    raw, facts, cleaned = (stages[n] for n in ("raw_examples", "validated_examples", "clean_examples"))
    for file in raw["files"]:
        say(f"{file['file']}: {file['container']}, {file['shape']} ({file['reason']})")
    say(
        f"{facts['rows_in']} rows in {len(raw['files'])} files = {facts['kept']} valid + {facts['quarantined']} in quarantine"
    )
    say(
        f"{cleaned['rows_in']} valid = {cleaned['kept']} kept + {cleaned['exact_duplicates']} exact and "
        f"{cleaned['near_duplicates']} near duplicates + {cleaned['quarantined']} in quarantine"
    )
    for kind, number in sorted(cleaned["scrubbed"].items()):
        if number:
            say(f"scrubbed: {number} × {kind}")
    say()
    for name, part in quality["parts"].items():
        mark = "ok   " if part["passed"] else "stops" if part["blocking"] else "look "
        say(f"{mark} {name:14} {part['message']}")
    if signal:
        no = "stops" if signal.status == "not_shown" and spec.gates.learnable == "block" else "look "
        say(f"{'ok   ' if signal.status == 'shown' else no} {'learnable':14} {signal.sentence}")
    width = max((len(rule) for rule in grouped), default=0)
    if grouped:
        say(f"\n{'rule':{width}} {'rows':>7}  severity")
        for rule, found in grouped.items():
            say(f"{rule:{width}} {len(found):>7}  {found[0]['severity']}")
    for rule, found in grouped.items():
        say(f"\n{rule}: {len(found)}")
        for told in found[:EXAMPLES]:
            say(f"  {told['place']}: {told['message']}\n    fix: {told['fix']}")
