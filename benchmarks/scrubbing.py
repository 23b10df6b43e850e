"""Recall, precision and speed of the scrubber of personal data and secrets.

    python -m benchmarks.scrubbing [--show] [--lines FILE ...]

Labelled texts: recall is the share of labelled values of which at least half the characters were found as their kind;
precision is the share of the hits of a kind that overlap a labelled value of that kind. Marked sets
(finetune_pipeline_tests/unit/data/scrub_sets): recall is the share of marked values of which no six consecutive characters
are left; harmed lines are those from which more was removed. Time: CPU microseconds per row, best of three passes.

Measures: finetune_pipeline/data/scrub.
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from finetune_pipeline.data.scrub import SHAPE_KINDS, find_spans
from finetune_pipeline_tests.unit.data.scrubbing_rows import Labelled, labelled_rows, marked_lines

PROSE = (
    "The committee met on a quiet morning and talked at length about the garden behind the old library. Nobody could "
    "remember who had planted the apple trees, but everyone agreed that they should be kept. A few members wanted benches, "
    "others asked for a pond with fish, and one suggested that the wall be painted by pupils of the school nearby. After a "
    "long discussion, which touched on money, water and the question of who holds the lock of the gate, they decided to ask "
    "the gardener for a plan. He smiled and said it would take some time, because good things grow slowly. Then came tea."
)
NUMBERS = (
    "The committee met on 12 March 2019 at 10:30 and talked about the 24 apple trees behind the old library. Nobody could "
    "remember who had planted them, but 18 of the 35 members agreed that they should be kept. A few wanted benches, others "
    "asked for a pond with fish for $1,299.99, and one suggested on 2021-05-14 that the wall be painted by pupils of the "
    "school nearby. After a long discussion, which touched on money, water and the question of who holds the lock, they "
    "decided to ask the gardener for a plan. He smiled and said that it would take 2 to 3 years, at 45 euros a week."
)


@dataclass
class Scores:
    """Counts by kind: labelled values, found ones, hits, and right ones among the hits."""

    labelled: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def recall(self, kind: str) -> float:
        return self.found[kind] / max(1, self.labelled[kind])

    def precision(self, kind: str) -> float:
        return self.right[kind] / max(1, self.hits[kind])


def score(rows: list[Labelled]) -> Scores:
    """Count the hits against the labels."""
    scores = Scores()
    for row in rows:
        hits = find_spans(row.text)
        for span in row.spans:
            scores.labelled[span.kind] += 1
            scores.found[span.kind] += any(
                hit.kind == span.kind
                and 2 * (min(hit.end, span.end) - max(hit.start, span.start)) >= span.end - span.start
                for hit in hits
            )
        for hit in hits:
            scores.hits[hit.kind] += 1
            scores.right[hit.kind] += any(
                s.kind == hit.kind and hit.start < s.end and s.start < hit.end for s in row.spans
            )
    return scores


def microseconds(texts: list[str], passes: int = 3) -> float:
    """CPU microseconds per text: the best pass, after a warm-up."""
    times = []
    for _ in range(1 + passes):
        start = time.process_time()
        for text in texts:
            find_spans(text)
        times.append(time.process_time() - start)
    return min(times[1:]) / len(texts) * 1e6


def report_marked(name: str, show: bool, with_region: bool = False) -> None:
    """Print recall and harmed lines by section of a marked set."""
    sections: dict[str, Counter[str]] = {}
    for line in marked_lines(name):
        scrubbed = line.scrubbed(with_region)
        missed, harmed = line.missed(scrubbed), line.harmed(scrubbed)
        sections.setdefault(line.section, Counter()).update(
            lines=1, values=len(line.values), missed=len(missed), harmed=harmed
        )
        if show and (missed or harmed):
            print(f"    {'missed' if missed else 'harmed'}: {line.text!r} -> {scrubbed!r}")
    sections["all"] = sum(sections.values(), Counter())
    for section, counts in sections.items():
        recall = f"{counts['values'] - counts['missed']}/{counts['values']}" if counts["values"] else "-"
        print(f"| {name} | {section} | {counts['lines']} | {recall} | {counts['harmed']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lines", type=Path, nargs="*", default=[], help="text files; print the hits in them for review"
    )
    parser.add_argument("--show", action="store_true", help="print missed values and harmed lines")
    arguments = parser.parse_args()
    print("| set | section | lines | values found | lines harmed |\n|---|---|---|---|---|")
    for name in ("ordinary", "secrets", "telephones", "hidden", "unseen"):
        report_marked(name, arguments.show)
    print("\nwith data.scrub_region set to the section's country")
    report_marked("telephones", arguments.show, with_region=True)
    rows = labelled_rows()
    scores = score(rows)
    print(f"\n{len(rows)} labelled texts\n\n| kind | values | recall | precision |\n|---|---|---|---|")
    for kind in SHAPE_KINDS:
        print(f"| {kind} | {scores.labelled[kind]} | {scores.recall(kind):.2f} | {scores.precision(kind):.2f} |")
    print(f"\na labelled text: {microseconds([row.text for row in rows]):.0f} µs")
    for name, text in (("prose", PROSE), ("prose with numbers and dates", NUMBERS)):
        print(f"{name}, {len(text)} characters, no hit: {microseconds([text] * 2000):.1f} µs")
    for path in arguments.lines:
        _print_hits(path)


def _print_hits(path: Path) -> None:
    lines = path.read_text("utf-8", "replace").splitlines()
    hits = [(number, line, hit) for number, line in enumerate(lines, 1) for hit in find_spans(line)]
    print(f"\n{path}: {len(lines)} lines, {len(hits)} hits, {microseconds(lines, 1):.1f} µs a line")
    for number, line, hit in hits:
        print(f"  {number}: {hit.kind}: {line[hit.start : hit.end]}")


if __name__ == "__main__":
    main()
