"""Trace a ticket through the package: every file that gets its text, from the raw file to the report.

    python -m tools.ticket_trip

Makes a whole run on the tiny model of the graph tests, in which every process records the functions of the package that are
called with a ticket's marker word. One ticket is in the training split, one in the sealed test.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline_tests.graph.project import Project, rows

ROOT = Path(__file__).resolve().parents[1]

TRACER = """
import os, sys, threading
from collections import Counter
PACKAGE, TRACE, MARKERS = SETTINGS
calls, seen = Counter(), set()
def markers_in(value, depth=0):
    if isinstance(value, str):
        return {m for m in MARKERS if m in value}
    if isinstance(value, (bytes, bytearray)):
        return {m for m in MARKERS if m.encode() in value}
    if depth < 7 and type(value) is dict:
        return set().union(*(markers_in(v, depth + 1) for v in list(value.values())[:300]))
    if depth < 7 and type(value) in (list, tuple, set):
        return set().union(*(markers_in(v, depth + 1) for v in list(value)[:300]))
    if depth < 7 and type(value).__module__.startswith("finetune_pipeline"):
        names = getattr(value, "__dict__", None) or getattr(type(value), "__struct_fields__", ())
        return set().union(*(markers_in(getattr(value, n, None), depth + 1) for n in list(names)))
    return set()
def trace(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(PACKAGE):
        return
    key = code.co_filename[len(PACKAGE):]
    if all((key, m) in seen for m in MARKERS) or calls[code] > 3000:
        return
    calls[code] += 1
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        for marker in markers_in(frame.f_locals.get(name)):
            if (key, marker) not in seen:
                seen.add((key, marker))
                with open(TRACE, "a") as file:
                    file.write(f"{marker} {key}\\n")
sys.setprofile(trace); threading.setprofile(trace)
"""
"""Source of the sitecustomize module of every process, but for its settings."""


def trace_tickets(folder: Path) -> dict[str, list[str]]:
    """Run the project. Returns for each split the files that got the ticket, in order."""
    project = Project(folder / "project", cold=True)
    tickets = rows(120)
    for i, row in enumerate(tickets):
        row["text"] = f"{row['text']} zq{i}xv"
    project.write_rows(tickets)
    assert project.run("--stage", "data")[0] == 0

    def markers(step: str, file: str) -> set[str]:
        return {row["messages"][-2]["content"].split()[-1] for row in read_rows(project.artifact(step) / file)}

    train, validation = (markers("splits", f"{name}/examples.jsonl") for name in ("train", "validation"))
    test = markers("reviewed_examples", "examples.jsonl") - train - validation
    marker_of_split = {"train": min(train), "test": min(test)}
    trace, site = folder / "trace.txt", folder / "site"
    site.mkdir()
    trace.touch()
    settings = (f"{ROOT / 'finetune_pipeline'}/", str(trace), tuple(marker_of_split.values()))
    (site / "sitecustomize.py").write_text(TRACER.replace("SETTINGS", repr(settings)))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    project.home = folder / "second"
    project.finetune("run", "colours", "--json", timeout=3600)
    assert project.artifact("evaluation_report").is_dir(), "the run did not reach its report"
    lines = [line.split() for line in trace.read_text().splitlines()]
    return {
        split: list(dict.fromkeys(file for found, file in lines if found == marker))
        for split, marker in marker_of_split.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for split, files in trace_tickets(Path(folder)).items():
            print(f"a ticket of the {split} split passes {len(files)} files:")
            print("".join(f"  {file}\n" for file in files))


if __name__ == "__main__":
    main()
