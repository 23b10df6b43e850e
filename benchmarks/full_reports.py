"""Full reports of three public sets and the shipped tasks, with the bundled base model.

    python benchmarks/full_reports.py FOLDER --work DIR [NAME …] [--rows N] [--epochs E] [--set KEY=VALUE …] [--shuffle]

FOLDER holds the sets as published, one folder each: clinc150, llms-from-scratch-instr, snips. NAME: intents (ten banking
intents of clinc150, as labels), instructions (llms-from-scratch-instr, as free text), weather (snips, as extraction to
JSON), ticket_triage, order_intake; by default the first three. Each becomes a task in DIR/data and is run by `finetune run`
with one thread; artifacts are kept in DIR/home, so an interrupted run continues. The pages are copied to DIR/reports.
`--set training.epochs=4` changes a task.yaml; `--shuffle` shuffles the labels, so that there is nothing to learn. Prints for
each task: time, exit code, verdict, every model's score, and every gate's result.

Measures: finetune_pipeline/data, finetune_pipeline/baseline, finetune_pipeline/training, finetune_pipeline/evaluation.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.finetune_command import ROOT, Answer, finetune

SHIPPED = ("ticket_triage", "order_intake")
PAGES = ("report.html", "report.md", "report.json")
INTENTS = {
    "account_blocked": "the account itself cannot be used, and they ask why",
    "freeze_account": "wants the account stopped now",
    "card_declined": "a payment by card was refused",
    "balance": "how much money is in an account",
    "bill_balance": "how much is owed on a bill",
    "bill_due": "when a bill must be paid",
    "pay_bill": "wants a bill paid",
    "transfer": "wants money moved between accounts",
    "transactions": "wants to see single payments",
    "spending_history": "how much was spent in a time or on a kind of thing",
}
SLOTS = {
    "city": "city",
    "state": "state",
    "country": "country",
    "timeRange": "time",
    "condition_description": "condition",
    "condition_temperature": "temperature",
}
"""Slots of the weather requests that the task extracts, with their names in the answer."""


def intents(folder: Path, limit: int) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Ten easily confused intents of bank customers, from all splits of the set."""
    document = json.loads((folder / "clinc150" / "data_small.json").read_text("utf-8"))
    rows = [{"text": text, "label": label} for part in document.values() for text, label in part if label in INTENTS]
    labels = "\n".join(f"{name}: {meaning}" for name, meaning in INTENTS.items())
    spec = {
        "description": "Tell what a customer of a bank wants, from one sentence (ten intents of clinc150).",
        "system_prompt": f"A customer writes to a bank. Answer with exactly one label and nothing else.\n{labels}",
        "output": {"kind": "labels", "labels": list(INTENTS)},
        "baseline": {"shots": [0, 10]},
        "training": {"method": "lora", "max_tokens": 512},
    }
    return _drawn(rows, limit), spec


def instructions(folder: Path, limit: int) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Instructions with short answers in free text."""
    file = folder / "llms-from-scratch-instr" / "instruction-data.json"
    rows = [{k: row[k] for k in ("instruction", "input", "output")} for row in json.loads(file.read_text("utf-8"))]
    spec = {
        "description": "Follow short instructions with short answers (llms-from-scratch-instr).",
        "system_prompt": "Follow the instruction. Answer shortly, in one sentence where that is enough.",
        "output": {"kind": "text", "max_new_tokens": 80},
        "data": {"contradictions": "warn"},
        "baseline": {"shots": [0, 4]},
        "training": {"method": "lora", "max_tokens": 512},
    }
    return _drawn(rows, limit), spec


def weather(folder: Path, limit: int) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Weather requests and their slots as JSON. Rows with a slot twice or with another slot are left out. One published file holds
    invalid UTF-8, which becomes replacement characters."""
    rows = []
    for file in sorted((folder / "snips" / "GetWeather").glob("*.json")):
        for row in json.loads(file.read_text("utf-8", "replace"))["GetWeather"]:
            names = [part["entity"] for part in row["data"] if "entity" in part]
            if len(set(names)) == len(names) and set(names) <= set(SLOTS):
                slots = {part["entity"]: part["text"].strip() for part in row["data"] if "entity" in part}
                answer = {title: slots.get(slot) for slot, title in SLOTS.items()}
                text = "".join(part["text"] for part in row["data"]).strip()
                rows.append({"prompt": text, "completion": json.dumps(answer, ensure_ascii=False)})
    fields = ", ".join(SLOTS.values())
    schema = {
        "type": "object",
        "properties": {title: {"type": ["string", "null"]} for title in SLOTS.values()},
        "required": list(SLOTS.values()),
        "additionalProperties": False,
    }
    spec = {
        "description": "Read place, time and condition out of a request for the weather, as JSON (snips).",
        "system_prompt": (
            f"You read requests for the weather. Answer with one line of JSON and nothing else, with these keys in this "
            f"order: {fields}. Each value is copied word for word from the request, or null where it does not say."
        ),
        "output": {"kind": "json", "json_schema": schema, "max_new_tokens": 64},
        "baseline": {"shots": [0, 4]},
        "training": {"method": "lora", "max_tokens": 512},
    }
    return _drawn(rows, limit), spec


SETS: dict[str, tuple[Callable[[Path, int], tuple[list[dict[str, str]], dict[str, Any]]], int]] = {
    "intents": (intents, 900),
    "instructions": (instructions, 800),
    "weather": (weather, 700),
}
"""What makes a task's rows and spec, and its number of rows."""


def _drawn(rows: Sequence[dict[str, str]], limit: int) -> list[dict[str, str]]:
    """At most `limit` of the rows, drawn with a fixed seed."""
    return random.Random(0).sample(list(rows), min(limit, len(rows)))


def change_task(folder: Path, changes: Sequence[str], shuffle: bool) -> None:
    """Set values in a copied task's task.yaml (`key.field=value`), and shuffle its labels.

    Raises:
        ValueError: a change is not of the form `key.field=value`.
    """
    spec = yaml.safe_load((folder / "task.yaml").read_text("utf-8"))
    for change in changes:
        path, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r} is not of the form key.field=value")
        section = spec
        *parents, last = path.split(".")
        for key in parents:
            section = section.setdefault(key, {})
        section[last] = yaml.safe_load(value)
    (folder / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), "utf-8")
    if not shuffle:
        return
    files = sorted((folder / "raw").glob("*.jsonl"))
    lines = {file: file.read_text("utf-8", "replace").splitlines() for file in files}
    labelled = [row for file in files for row in map(_labelled, lines[file]) if row]
    labels = [holder[key] for _, holder, key in labelled]
    random.Random(0).shuffle(labels)
    for (_, holder, key), label in zip(labelled, labels, strict=True):
        holder[key] = label
    for file in files:
        count = sum(_labelled(line) is not None for line in lines[file])
        rows, labelled = labelled[:count], labelled[count:]
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row, _, _ in rows), "utf-8")


def _labelled(line: str) -> tuple[dict[str, Any], dict[str, Any], str] | None:
    """Return the row, the dict that holds its label, and the key; None for a line without a label or with invalid JSON."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    if "label" in row:
        return row, row, "label"
    messages = row.get("messages") or []
    return (row, messages[-1], "content") if messages and messages[-1].get("role") == "assistant" else None


def make_task(
    name: str, folder: Path, data: Path, limit: int | None, epochs: float | None, changes: Sequence[str], shuffle: bool
) -> None:
    """Write data/NAME, unless it exists with the same content (changed files would repeat the work)."""
    task_folder = data / name
    if name in SHIPPED:
        if not task_folder.exists():
            shutil.copytree(ROOT / "data" / name, task_folder)
            change_task(task_folder, changes, shuffle)
        return
    make, default_rows = SETS[name]
    rows, spec = make(folder, limit or default_rows)
    # fewer rows than the defaults require, and a report even where prompting is enough
    spec["data"] = {"min_examples": len(rows) // 2, "min_per_label": len(rows) // 20, **spec.get("data", {})}
    spec["training"] |= {"epochs": 1.0 if epochs is None else epochs, "evals_per_epoch": 3}
    spec["gates"] = {"worth_training": "warn"}
    spec = {"name": name, "base_model": "bundled/smollm2-135m-instruct", **spec}
    files = {
        task_folder / "task.yaml": yaml.safe_dump(spec, sort_keys=False, allow_unicode=True),
        task_folder / "raw" / "rows.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }
    for path, text in files.items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


def collect(name: str, work: Path) -> tuple[Path, dict[str, Any]] | None:
    """Copy the newest report of a task to DIR/reports. Returns its folder and evaluation; None if a check stopped the run
    earlier."""
    manifests = sorted(
        (work / "home" / "artifacts" / name / "evaluation_report").glob("*/artifact.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not manifests:
        return None
    report = manifests[-1].parent
    out = work / "reports" / name
    out.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        if (report / page).exists():
            shutil.copyfile(report / page, out / page)
    return out, json.loads((report / "report.json").read_text("utf-8"))


def print_outcome(name: str, answer: Answer, report: tuple[Path, dict[str, Any]] | None) -> None:
    print(f"{name}: exit code {answer.code}, {answer.seconds / 60:.1f} minutes")
    print(f"  {answer.content.get('verdict') or answer.content}")
    if report is None:
        print("  stopped before the report")
        return
    out, evaluation = report
    for model in evaluation["models"].values():
        low, high = model["interval"]
        print(
            f"  {model['set']:<10} {model['title']:<60} right {model['accuracy']:.3f} ({low:.3f} to {high:.3f})"
            f"  decides by {model['value']:.3f}  n {model['n']}"
        )
    for gate in evaluation["gates"]:
        print(f"  gate {gate['name']}: {gate['status']}. {gate['message']}")
    print(f"  pages: {out}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the public sets")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*SETS, *SHIPPED]))
    parser.add_argument("--work", type=Path, required=True, help="folder for tasks, artifacts and pages")
    parser.add_argument("--rows", type=int, help="rows of each public set (default: 900, 800 and 700)")
    parser.add_argument("--epochs", type=float, help="of the public sets (default: 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the shipped tasks' task.yaml"
    )
    parser.add_argument("--shuffle", action="store_true", help="shuffle the shipped tasks' labels")
    arguments = parser.parse_intermixed_args()
    names = arguments.names or list(SETS)
    if unknown := [name for name in names if name not in SETS and name not in SHIPPED]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*SETS, *SHIPPED])}")
    work = arguments.work.resolve()
    code = 0
    for name in names:
        make_task(
            name, arguments.folder, work / "data", arguments.rows, arguments.epochs, arguments.set, arguments.shuffle
        )
        try:
            answer = finetune(work, "run", name)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
            continue
        print_outcome(name, answer, collect(name, work))
    return code


if __name__ == "__main__":
    sys.exit(main())
