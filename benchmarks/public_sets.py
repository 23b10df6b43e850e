"""Public data sets in their raw form through the data stage, with a check of their row counts.

    python benchmarks/public_sets.py FOLDER [NAME …]

FOLDER holds one folder per set, as published: bitext-intent, clinc150, dolly-hhrlhf-small, format-zoo, gsm8k,
llms-from-scratch-instr, self-instruct-human, sgd, snips. Prints for each: the lines of spec it takes, rows, findings,
duplicates, contradictions, splits and leaks. Exit code 1 if a row count is wrong.
"""

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.data.dedup.cleaning import Cleaned, clean
from finetune_pipeline.data.raw_files import RawFacts, collect_raw
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.data.validate.validation import Validated, validate
from finetune_pipeline.spec import Task, TaskSpec

Labels = Callable[[Path], list[str]] | None


def _bitext(folder: Path) -> list[str]:
    return sorted({row["intent"] for p in folder.rglob("*.csv") for row in csv.DictReader(p.open(encoding="utf-8"))})


def _clinc(folder: Path) -> list[str]:
    document = json.loads((folder / "data_small.json").read_text("utf-8"))
    return sorted({label for rows in document.values() for _, label in rows})


def _snips(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


SETS: dict[str, tuple[str, int, Labels]] = {
    "bitext-intent": ("raw: [raw/**/*.csv]\nfields: {text: utterance, label: intent}", 8100, _bitext),
    "clinc150": ("raw: [raw/data_small.json]\nfields: {text: '[0]', label: '[1]'}", 16200, _clinc),
    "dolly-hhrlhf-small": ("raw: [raw/*.jsonl]\nmax_chars: 20000", 1000, None),
    "format-zoo": ("raw: ['raw/*.json*']\ninject: true\nmax_chars: 50000", 941, None),
    "gsm8k": ("raw: [raw/*.jsonl]", 8792, None),
    "llms-from-scratch-instr": ("raw: [raw/instruction-data.json]", 1100, None),
    "self-instruct-human": (
        "raw: [raw/*.jsonl]\nfields: {each: instances, instruction: instruction, input: input, output: output}",
        427,
        None,
    ),
    "sgd": (
        "raw: [raw/dialogues_*.json]\n"
        "fields: {messages: 'turns[].{role: speaker, content: utterance}', group: dialogue_id}\n"
        "roles: {USER: user, SYSTEM: assistant}\ninject: true\nmax_chars: 20000",
        68,
        None,
    ),
    "snips": ("raw: [raw/**/*.json]\nfields: {text: \"join('', data[].text)\", label: $key}", 14484, _snips),
}
"""The data section of the spec, the true number of rows, and how the labels are read."""


def make_spec(name: str, output: dict[str, Any], data: dict[str, Any]) -> TaskSpec:
    """A spec with a system prompt that names the labels."""
    prompt = f"Do the task. {' '.join(output.get('labels', []))}"
    fields = {"name": name, "description": name, "system_prompt": prompt, "output": output, "data": data}
    return TaskSpec.model_validate(fields)


def make_task(name: str, public: Path, work: Path) -> Task:
    """Copy a public set to work/NAME/raw, as a task."""
    section, _, labels_of = SETS[name]
    shutil.copytree(public / name, work / name / "raw")
    output = {"kind": "labels", "labels": labels_of(public / name)} if labels_of else {"kind": "text"}
    return Task(spec=make_spec("set", output, yaml.safe_load(section)), folder=work / name)


def clean_rows(task: Task, out: Path) -> tuple[RawFacts, Validated, Cleaned]:
    """Collect, validate and clean the raw rows into folders of `out`. Returns the facts of each step."""
    raw = collect_raw(task, out / "raw_examples")
    validated = validate(out / "raw_examples", task.spec, out / "validated")
    cleaned = clean(out / "validated", task.spec, out / "clean", raw=out / "raw_examples", key=b"benchmark")
    return raw, validated, cleaned


def run(name: str, public: Path, work: Path) -> bool:
    """Run the data stage on a set. Returns whether its row count is right."""
    section, expected, _ = SETS[name]
    task, out = make_task(name, public, work), work / name
    began = time.process_time()
    raw, validated, cleaned = clean_rows(task, out)
    apply_reviews(out / "clean", out / "reviews", task.spec, out / "reviewed")
    splits = split(out / "reviewed", out / "clean", task.spec, out / "ledger", out / "splits")
    shapes = ", ".join(sorted({*(file.container for file in raw.files), *validated.shapes}))
    print(f"{name}: {section.count(chr(10)) + 1} lines of spec, {shapes}, {time.process_time() - began:.1f} s CPU")
    rows = validated.rows_in
    print(
        f"  {rows} rows{'' if rows == expected else f' (NOT {expected})'} = {validated.kept} valid + "
        f"{validated.quarantined} in quarantine; found: {validated.by_rule}"
    )
    print(
        f"  {cleaned.kept} kept, {cleaned.exact_duplicates} exact and {cleaned.near_duplicates} near duplicates, "
        f"{cleaned.contradictions} rows in contradictions, {cleaned.similar_pairs} similar pairs, "
        f"{cleaned.boilerplate} templates"
    )
    print(f"  {splits.counts}, leaks {splits.leaks}")
    return rows == expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(SETS))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(SETS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    with tempfile.TemporaryDirectory() as work:
        right = [run(name, arguments.folder, Path(work)) for name in arguments.names]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
