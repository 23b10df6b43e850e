"""Public data sets in their raw form through the data stage: row counts must be the true ones.

    python benchmarks/public_sets.py FOLDER [NAME …]

FOLDER holds one folder a set, as published: bitext-intent, clinc150, dolly-hhrlhf-small, format-zoo, gsm8k,
llms-from-scratch-instr, self-instruct-human, sgd, snips. Printed for each: the lines of spec it takes, rows, what was
found, duplicates, contradictions, splits and leaks. Ends with code 1 if a row count is not the true one.
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

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.splitting import split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.spec import Task, TaskSpec

Labels = Callable[[Path], list[str]] | None


def _bitext(folder: Path) -> list[str]:
    return sorted({row["intent"] for p in folder.rglob("*.csv") for row in csv.DictReader(p.open(encoding="utf-8"))})


def _clinc(folder: Path) -> list[str]:
    document = json.loads((folder / "data_small.json").read_text("utf-8"))
    return sorted({label for rows in document.values() for _, label in rows})


def _snips(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


# name: (the data section of the spec, true number of rows, labels)
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


def run(name: str, folder: Path, work: Path) -> bool:
    """One set through the stage. Returns whether its row count is the true one."""
    section, expected, labels_of = SETS[name]
    shutil.copytree(folder / name, work / name / "raw")
    output: dict[str, Any] = {"kind": "text"}
    if labels_of:
        output = {"kind": "labels", "labels": labels_of(folder / name)}
    prompt = f"Do the task. {' '.join(output.get('labels', []))}"
    spec = TaskSpec.model_validate(
        {"name": "set", "description": name, "system_prompt": prompt, "output": output, "data": yaml.safe_load(section)}
    )
    at = work / name
    began = time.process_time()
    raw = collect_raw(Task(spec=spec, folder=at), at / "raw_examples")
    v = validate(at / "raw_examples", spec, at / "validated")
    c = clean(at / "validated", spec, at / "clean", raw=at / "raw_examples", key=b"public sets")
    apply_reviews(at / "clean", at / "reviews", spec, at / "reviewed")
    s = split(at / "reviewed", at / "clean", spec, at / "ledger", at / "splits")
    shapes = ", ".join(sorted({*(f["container"] for f in raw["files"]), *v["shapes"]}))
    print(f"{name}: {section.count(chr(10)) + 1} lines of spec, {shapes}, {time.process_time() - began:.1f} s CPU")
    right = "" if v["rows_in"] == expected else f" (NOT {expected})"
    print(f"  {v['rows_in']} rows{right} = {v['kept']} valid + {v['quarantined']} in quarantine; found: {v['by_rule']}")
    print(
        f"  {c['kept']} kept, {c['exact_duplicates']} exact and {c['near_duplicates']} near duplicates, "
        f"{c['contradictions']} rows in contradictions, {c['similar_pairs']} similar pairs, {c['boilerplate']} templates"
    )
    print(f"  {s['counts']}, leaks {s['leaks']}")
    return v["rows_in"] == expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(SETS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        right = [run(name, given.folder, Path(work)) for name in given.names]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
