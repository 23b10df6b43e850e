"""Whether edited copies land in the split of their original: plants copies of short texts in a second raw file and splits.

    python -m benchmarks.edited_copies FOLDER [--each 150] [--originals 6000] [NAME …]

FOLDER holds the public sets (see public_sets.py). NAME: clinc150, snips, bitext-intent, or ticket_triage, which is shipped.
--originals of a set's clean rows are used; of those with 3 to 25 words (ticket_triage: 3 to 60), --each are copied for each
kind of edit of the leakage certificate, none twice. Prints by kind how many copies ended in another split than their
original, of the pairs of which cleaning kept both rows, without and with the links that keep similar rows together; and the
CPU seconds of the data stage, the splits' shares, the links cut, and the largest unit.

Measures: finetune_pipeline/data/split.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.example_sets import example_set
from benchmarks.public_sets import clean_rows, make_spec
from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split import splitting
from finetune_pipeline.data.split.alike import AlikeRows, Links
from finetune_pipeline.data.split.canaries import EDITS, pieces
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.data.split.placement import OUT
from finetune_pipeline.spec import Task

HAN = "clinc150-han"
"""clinc150 with each word written as one or two Chinese characters and without blanks: a script without words to split."""
MAX_WORDS = {"clinc150": 25, HAN: 40, "snips": 25, "bitext-intent": 25, "ticket_triage": 60}
"""Longest texts that are copied, by set."""


def _in_han(text: str) -> str:
    """Write each word as one or two Chinese characters, the same for the same word."""
    signs = []
    for word in text.lower().split():
        number = zlib.crc32(word.encode())
        signs.append(chr(0x4E00 + number % 2500) + (chr(0x4E00 + number // 2500 % 2500) if len(word) > 3 else ""))
    return "".join(signs)


def originals_of(name: str, folder: Path) -> list[tuple[str, str]]:
    """Return (text, answer) of a set's clean rows, sorted."""
    if name == HAN:
        return sorted({(_in_han(text), answer) for text, answer in originals_of("clinc150", folder)})
    return sorted((e.user_text, e.answer) for e in example_set(name, folder).rows)


def plant(name: str, folder: Path, originals: int, each: int, work: Path) -> tuple[Task, list[tuple[str, int, int]]]:
    """Make a task of two files, originals.jsonl and copies.jsonl.

    Returns:
        The task, and (kind of edit, line of the original, line of the copy) of each pair.
    """
    rng = random.Random(0)
    rows = originals_of(name, folder)
    rng.shuffle(rows)
    rows = rows[:originals]
    words = sorted({piece for text, _ in rows for piece in pieces(text)[0]})
    short = [i for i, (text, _) in enumerate(rows) if 3 <= len(pieces(text)[0]) <= MAX_WORDS[name]]
    each = min(each, len(short) // len(EDITS))
    chosen = rng.sample(short, each * len(EDITS))
    copies, pairs = [], []
    for number, (kind, edit) in enumerate(EDITS.items()):
        for i in chosen[number * each : (number + 1) * each]:
            copies.append((edit(rows[i][0], rng, words), rows[i][1]))
            pairs.append((kind, i + 1, len(copies)))
    (work / "raw").mkdir(parents=True)
    for file, file_rows in (("originals", rows), ("copies", copies)):
        lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in file_rows)
        (work / "raw" / f"{file}.jsonl").write_text(lines, "utf-8")
    labels = sorted({label for _, label in rows})
    return Task(spec=make_spec("set", {"kind": "labels", "labels": labels}, {}), folder=work), pairs


def run(task: Task, pairs: list[tuple[str, int, int]], out: Path, linked: bool) -> None:
    """Run the data stage and print a line of the table."""
    began = time.process_time()
    clean_rows(task, out)
    apply_reviews(out / "clean", task.folder / "reviews", task.spec, out / "reviewed")
    before_split = time.process_time()
    search = splitting.alike_rows
    search_seconds = 0.0

    def alike_rows(*args: object) -> AlikeRows:
        nonlocal search_seconds
        start = time.process_time()
        alike = search(*args)  # type: ignore[arg-type]
        search_seconds = time.process_time() - start
        nothing = np.zeros(0, np.int64)
        return alike if linked else replace(alike, links=Links(nothing, nothing, np.zeros(0)))

    with mock.patch.object(splitting, "alike_rows", alike_rows):
        facts = splitting.split(out / "reviewed", out / "clean", task.spec, out / "ledger", out / "splits")
    seconds = time.process_time() - began
    split_of = {}
    for name in SPLITS:
        for e in read_examples(examples_of(out / "splits", name)):
            split_of[Path(e.source["file"]).stem, e.source["line"]] = name
    complete, separated = Counter[str](), Counter[str]()
    for kind, original_line, copy_line in pairs:
        original, copy = split_of.get(("originals", original_line)), split_of.get(("copies", copy_line))
        if original and copy:
            complete[kind] += 1
            separated[kind] += original != copy
    unit = np.load(out / "splits/placed.npy")["unit"]
    largest = int(np.unique(unit[unit != OUT], return_counts=True)[1].max())
    cells = " ".join(f"{f'{separated[kind]}/{complete[kind]}':>9}" for kind in EDITS)
    shares = "/".join(f"{facts['shares'][name]:.3f}" for name in SPLITS)
    print(
        f"{'linked' if linked else 'unlinked':>9} {cells}  {seconds - (0 if linked else search_seconds):5.1f} s "
        f"(split {time.process_time() - before_split:4.1f})  {shares}  cut {facts['alike']['cut']}, largest {largest}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(MAX_WORDS))
    parser.add_argument("--each", type=int, default=150)
    parser.add_argument("--originals", type=int, default=6000)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MAX_WORDS):
        parser.error(f"unknown sets: {', '.join(sorted(unknown))}; there are {', '.join(MAX_WORDS)}")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as work:
            task, pairs = plant(name, arguments.folder, arguments.originals, arguments.each, Path(work) / "task")
            header = " ".join(f"{kind.split()[-1]:>9}" for kind in EDITS)
            print(f"{name}: {len(pairs)} copies\n{'':9} {header}")
            with contextlib.redirect_stdout(None):
                run(task, pairs, Path(work) / "warm", linked=True)  # compiles and loads the kernels
            for linked in (False, True):
                run(task, pairs, Path(work) / str(linked), linked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
