"""The trip of one ticket: every file of the package that is handed its text, from the raw file to the report.

    python -m tools.ticket_trip

A whole run on the tiny model of the graph tests, in which every process notes each function of the package that is called
with a value holding one ticket's marker word. Of two tickets, one lands in the training split and one in the sealed test.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline_tests.graph.project import Project, rows

ROOT = Path(__file__).resolve().parents[1]

WATCH = """
import os, sys, threading
from collections import Counter
PACKAGE, NOTES, MARKERS = sys_argv
calls, seen = Counter(), set()
def holds(value, depth=0):
    if isinstance(value, str):
        return {m for m in MARKERS if m in value}
    if isinstance(value, (bytes, bytearray)):
        return {m for m in MARKERS if m.encode() in value}
    if depth < 7 and type(value) is dict:
        return set().union(*(holds(v, depth + 1) for v in list(value.values())[:300]))
    if depth < 7 and type(value) in (list, tuple, set):
        return set().union(*(holds(v, depth + 1) for v in list(value)[:300]))
    if depth < 7 and type(value).__module__.startswith("finetune_pipeline"):
        names = getattr(value, "__dict__", None) or getattr(type(value), "__struct_fields__", ())
        return set().union(*(holds(getattr(value, n, None), depth + 1) for n in list(names)))
    return set()
def watch(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(PACKAGE):
        return
    key = code.co_filename[len(PACKAGE):]
    if all((key, m) in seen for m in MARKERS) or calls[code] > 3000:
        return
    calls[code] += 1
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        for marker in holds(frame.f_locals.get(name)):
            if (key, marker) not in seen:
                seen.add((key, marker))
                with open(NOTES, "a") as notes:
                    notes.write(f"{marker} {key}\\n")
sys.setprofile(watch); threading.setprofile(watch)
"""


def trips(folder: Path) -> dict[str, list[str]]:
    """Files by split, in the order in which they first saw the ticket."""
    project = Project(folder / "project", cold=True)
    tickets = rows(120)
    for i, row in enumerate(tickets):
        row["text"] = f"{row['text']} zq{i}xv"
    project.write_rows(tickets)
    assert project.run("--stage", "data")[0] == 0
    train, seen = (
        {
            row["messages"][-2]["content"].split()[-1]
            for name in names
            for row in read_rows(project.artifact(step) / name)
        }
        for step, names in (
            ("splits", ["train/examples.jsonl"]),
            ("splits", ["train/examples.jsonl", "validation/examples.jsonl"]),
        )
    )
    test = {
        row["messages"][-2]["content"].split()[-1]
        for row in read_rows(project.artifact("reviewed_examples") / "examples.jsonl")
    }
    of_split = {"train": min(train), "test": min(test - seen)}
    notes, site = folder / "notes.txt", folder / "site"
    site.mkdir()
    notes.touch()
    settings = (f"{ROOT / 'finetune_pipeline'}/", str(notes), tuple(of_split.values()))
    (site / "sitecustomize.py").write_text(WATCH.replace("sys_argv", repr(settings)))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    project.home = folder / "second"
    project.finetune("run", "colours", "--json", timeout=3600)
    assert project.artifact("evaluation_report").is_dir(), "the run did not get to its report"
    lines = [line.split() for line in notes.read_text().splitlines()]
    return {split: list(dict.fromkeys(file for m, file in lines if m == marker)) for split, marker in of_split.items()}


def main() -> None:
    """Print both trips."""
    with tempfile.TemporaryDirectory() as folder:
        for split, files in trips(Path(folder)).items():
            print(f"a ticket of the {split} split passes {len(files)} files:")
            print("".join(f"  {file}\n" for file in files))


if __name__ == "__main__":
    main()
