"""Do edited copies share a split with their original? Plants copies of short texts in a second file and splits.

    python -m benchmarks.edited_copies FOLDER [--each 150] [--originals 6000] [NAME …]

FOLDER holds the public sets (see public_sets.py). Sets: clinc150, snips, bitext-intent, and ticket_triage, which is shipped.
Of the clean rows of each at most so many are the originals; of those with 3 to 25 words (ticket_triage: 3 to 60) as many as
asked are copied for each kind of edit of the leakage certificate, none twice. Printed: per kind how many copies ended in
another split than their original, without and with the links that keep alike rows together, of how many pairs both rows were
still there; seconds of CPU of the data stage, splits' shares, links cut, and the largest unit.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.example_sets import example_set
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split import splitting
from finetune_pipeline.data.split.alike import AlikeRows, Links
from finetune_pipeline.data.split.canaries import EDITS
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.spec import Task, TaskSpec

LONGEST = {"clinc150": 25, "snips": 25, "bitext-intent": 25, "ticket_triage": 60}
"""Words of the texts that are copied, by set."""


def plant(name: str, folder: Path, originals: int, each: int, work: Path) -> tuple[Task, list[tuple[str, int, int]]]:
    """A task of two files, originals.jsonl and copies.jsonl, and (kind, line of the original, line of the copy)."""
    dice = random.Random(0)
    rows = sorted((e.user_text, e.answer) for e in example_set(name, folder).rows)
    dice.shuffle(rows)
    rows = rows[:originals]
    words = sorted({word for text, _ in rows for word in text.split()})
    short = [i for i, (text, _) in enumerate(rows) if 3 <= len(text.split()) <= LONGEST[name]]
    each = min(each, len(short) // len(EDITS))
    chosen = dice.sample(short, each * len(EDITS))
    copies, pairs = [], []
    for number, (kind, edit) in enumerate(EDITS.items()):
        for i in chosen[number * each : (number + 1) * each]:
            copies.append((edit(rows[i][0], dice, words), rows[i][1]))
            pairs.append((kind, i + 1, len(copies)))
    (work / "raw").mkdir(parents=True)
    for file, those in (("originals", rows), ("copies", copies)):
        lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in those)
        (work / "raw" / f"{file}.jsonl").write_text(lines, "utf-8")
    labels = sorted({label for _, label in rows})
    fields = {"name": "set", "description": name, "system_prompt": f"Do the task. {' '.join(labels)}"}
    spec = TaskSpec.model_validate({**fields, "output": {"kind": "labels", "labels": labels}})
    return Task(spec=spec, folder=work), pairs


def run(task: Task, pairs: list[tuple[str, int, int]], out: Path, linked: bool) -> None:
    """The data stage; prints a line of the table."""
    began = time.process_time()
    collect_raw(task, out / "raw")
    validate(out / "raw", task.spec, out / "validated")
    clean(out / "validated", task.spec, out / "clean", raw=out / "raw", key=b"edited copies")
    apply_reviews(out / "clean", task.folder / "reviews", task.spec, out / "reviewed")
    before_split = time.process_time()
    search = splitting.alike_rows
    spent = [0.0]

    def links(*given: object) -> AlikeRows:
        start = time.process_time()
        alike = search(*given)  # type: ignore[arg-type]
        spent[0] = time.process_time() - start
        nothing = np.zeros(0, np.int64)
        return alike if linked else replace(alike, links=Links(nothing, nothing, np.zeros(0)))

    with mock.patch.object(splitting, "alike_rows", links):
        facts = splitting.split(out / "reviewed", out / "clean", task.spec, out / "ledger", out / "splits")
    seconds = time.process_time() - began
    split_of = {}
    for name in SPLITS:
        for e in read_examples(examples_of(out / "splits", name)):
            split_of[Path(e.source["file"]).stem, e.source["line"]] = name
    there, apart = Counter[str](), Counter[str]()
    for kind, line, copy in pairs:
        a, b = split_of.get(("originals", line)), split_of.get(("copies", copy))
        if a and b:
            there[kind] += 1
            apart[kind] += a != b
    unit = np.load(out / "splits/placed.npy")["unit"]
    largest = int(np.unique(unit[unit != unit.max()], return_counts=True)[1].max())
    cells = " ".join(f"{f'{apart[kind]}/{there[kind]}':>9}" for kind in EDITS)
    shares = "/".join(f"{facts['shares'][name]:.3f}" for name in SPLITS)
    print(
        f"{'together' if linked else 'before':>9} {cells}  {seconds - (0 if linked else spent[0]):5.1f} s "
        f"(split {time.process_time() - before_split:4.1f})  {shares}  cut {facts['alike']['cut']}, largest {largest}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(LONGEST))
    parser.add_argument("--each", type=int, default=150)
    parser.add_argument("--originals", type=int, default=6000)
    given = parser.parse_args()
    for name in given.names:
        with tempfile.TemporaryDirectory() as work:
            task, pairs = plant(name, given.folder, given.originals, given.each, Path(work) / "task")
            heads = " ".join(f"{kind.split()[-1]:>9}" for kind in EDITS)
            print(f"{name}: {len(pairs)} copies\n{'':9} {heads}")
            with contextlib.redirect_stdout(None):
                run(task, pairs, Path(work) / "warm", linked=True)  # the kernels are compiled and loaded
            for linked in (False, True):
                run(task, pairs, Path(work) / str(linked), linked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
