"""``finetune check TASK``: spec and raw data, without a model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, say, task_folder
from finetune_pipeline.data.duplicates import clean
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.validation import validate
from finetune_pipeline.findings import FindingsError, as_rows
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import check_task

EXAMPLES = 3


def _by_rule(findings: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        grouped.setdefault(finding["rule"], []).append(finding)
    return dict(sorted(grouped.items(), key=lambda kv: (-len(kv[1]), kv[0])))


@click.command()
@click.argument("task")
@as_json
def check(task: str, as_json: bool) -> int:
    """Check the spec and every raw row of TASK: a table per rule with three places each, the full list in a file.

    Exit code 2 when the pipeline would stop at these data (too many bad rows, too few good ones).
    """
    folder = task_folder(task)
    loaded, problems = check_task(folder)
    if loaded is None:
        if as_json:
            emit({"task": task, "usable": False, "spec_findings": as_rows(problems)})
        else:
            for finding in problems:
                say(str(finding))
        return ERROR
    spec = loaded.spec
    full = read_settings().home / "checks" / f"{loaded.name}.jsonl"
    full.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=full.parent) as scratch:
        raw, validated, cleaned = (Path(scratch) / n for n in ("raw", "validated", "clean"))
        for place in (raw, validated, cleaned):
            place.mkdir()
        try:
            raw_facts = collect_raw(loaded, raw)
        except FindingsError as error:
            if as_json:
                emit({"task": task, "usable": False, "spec_findings": as_rows([*problems, *error.findings])})
            else:
                say(str(error))
            return ERROR
        facts = validate(raw, spec, validated)
        clean_facts = clean(validated, spec, cleaned)
        findings = read_rows(validated / "findings.jsonl")
        findings += [f for row in read_rows(cleaned / "quarantine.jsonl") for f in row["findings"]]
        full.write_bytes((validated / "findings.jsonl").read_bytes() + (cleaned / "quarantine.jsonl").read_bytes())
    share = facts["quarantined"] / facts["rows_in"] if facts["rows_in"] else 1.0
    stops = []
    if share > spec.data.max_quarantine_share:
        stops.append(
            f"{share:.1%} of the rows are bad, data.max_quarantine_share allows {spec.data.max_quarantine_share:.0%}"
        )
    if clean_facts["kept"] < spec.data.min_examples:
        stops.append(f"{clean_facts['kept']} examples are left, data.min_examples asks for {spec.data.min_examples}")
    grouped = _by_rule(findings)
    if as_json:
        emit(
            {
                "task": loaded.name,
                "usable": not stops,
                "stops": stops,
                "spec_findings": as_rows(problems),
                "raw": raw_facts,
                "validated": facts,
                "clean": clean_facts,
                "rules": {rule: {"count": len(found), "examples": found[:EXAMPLES]} for rule, found in grouped.items()},
                "full_list": str(full),
            }
        )
        return REFUSED if stops else DONE
    for finding in problems:
        say(str(finding))
    say(
        f"{facts['rows_in']} rows in {len(raw_facts['files'])} files = {facts['kept']} valid + {facts['quarantined']} in quarantine"
    )
    say(
        f"{clean_facts['rows_in']} valid = {clean_facts['kept']} kept + {clean_facts['exact_duplicates']} exact and "
        f"{clean_facts['near_duplicates']} near duplicates + {clean_facts['quarantined']} in contradictions"
    )
    for kind, number in sorted(clean_facts["scrubbed"].items()):
        say(f"scrubbed: {number} × {kind}")
    for rule, found in grouped.items():
        say(f"\n{rule}: {len(found)}")
        for told in found[:EXAMPLES]:
            say(f"  {told['place']}: {told['message']}\n    fix: {told['fix']}")
    say(f"\nfull list: {full}")
    for stop in stops:
        say(f"the pipeline would stop: {stop}")
    return REFUSED if stops else DONE
