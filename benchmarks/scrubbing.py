"""How well personal data and secrets are found, what harm is done, and how fast it is.

Run from the repository's root: ``python -m benchmarks.scrubbing [--show] [--lines FILE ...]``. On the labelled texts, recall:
share of the labelled values of which at least half the characters were found as their kind; precision: share of the hits
of a kind that overlap a labelled value of that kind. On the sets with marks (finetune_pipeline_tests/unit/data/scrub_sets),
recall: share of the marked values of which no six characters in a row are left; harm: lines from which more was taken.
Time: CPU microseconds a row, best of three passes. ``--show``: what was missed and what was harmed. ``--lines``: files of
any text; the hits in them are printed, for people to judge.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from finetune_pipeline.data.scrub import SHAPE_KINDS, find_spans, scrub_text
from finetune_pipeline_tests.unit.data.scrubbing_rows import Labelled, Marked, labelled_rows, marked_lines

Finder = Callable[[str], Iterable[tuple[int, int, str]]]
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
    """Counts per kind: labelled, found of them, hits, right ones among them."""

    labelled: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)

    def recall(self, kinds: Iterable[str]) -> float:
        kinds = list(kinds)
        return sum(self.found[k] for k in kinds) / max(1, sum(self.labelled[k] for k in kinds))

    def precision(self, kinds: Iterable[str]) -> float | None:
        kinds = list(kinds)
        hits = sum(self.hits[k] for k in kinds)
        return sum(self.right[k] for k in kinds) / hits if hits else None


def score(rows: list[Labelled], finder: Finder) -> Scores:
    """Counts of a finder's hits against the labels."""
    scores = Scores()
    for row in rows:
        hits = list(finder(row.text))
        for span in row.spans:
            scores.labelled[span.kind] += 1
            scores.found[span.kind] += any(
                kind == span.kind and 2 * (min(end, span.end) - max(start, span.start)) >= span.end - span.start
                for start, end, kind in hits
            )
        for start, end, kind in hits:
            scores.hits[kind] += 1
            scores.right[kind] += any(s.kind == kind and start < s.end and s.start < end for s in row.spans)
    return scores


def microseconds(finder: Finder, texts: list[str], passes: int = 3) -> float:
    """CPU microseconds a text, the best of some passes after a first one that loads what is loaded late."""
    for text in texts:
        list(finder(text))
    times = []
    for _ in range(passes):
        start = time.process_time()
        for text in texts:
            list(finder(text))
        times.append(time.process_time() - start)
    return min(times) / len(texts) * 1e6


def ours(text: str) -> list[tuple[int, int, str]]:
    return [(s.start, s.end, s.kind) for s in find_spans(text)]


def scrubbed(line: Marked, told: bool) -> str:
    """The line as scrubbing leaves it; `told`: with the region its section is about."""
    region = line.section.split()[0]
    regions = [region] if told and region != "any" else []
    return scrub_text(line.text, partial(find_spans, regions=regions))


def report_marked(name: str, show: bool, told: bool) -> None:
    """Print recall and harm per section of a set with marks."""
    sections: dict[str, Counter[str]] = {}
    for line in marked_lines(name):
        done = scrubbed(line, told)
        missed, harmed = line.missed(done), line.harmed(done)
        sections.setdefault(line.section, Counter()).update(
            lines=1, values=len(line.values), missed=len(missed), harmed=harmed
        )
        if show and (missed or harmed):
            print(f"    {'missed' if missed else 'harmed'}: {line.text!r} -> {done!r}")
    sections["all"] = sum(sections.values(), Counter())
    for section, n in sections.items():
        recall = f"{n['values'] - n['missed']}/{n['values']}" if n["values"] else "-"
        print(f"| {name} | {section} | {n['lines']} | {recall} | {n['harmed']} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, nargs="*", default=[], help="files of text; the hits in them are printed")
    parser.add_argument("--show", action="store_true", help="print what was missed and what was harmed")
    arguments = parser.parse_args()
    print("| set | section | lines | values found | lines harmed |\n|---|---|---|---|---|")
    for name in ("ordinary", "secrets", "telephones", "hidden"):
        report_marked(name, arguments.show, told=False)
    print("\nwith data.scrub_region set to the section's country")
    report_marked("telephones", arguments.show, told=True)
    rows = labelled_rows()
    scores, labels = score(rows, ours), Counter(span.kind for row in rows for span in row.spans)
    print(f"\n{len(rows)} labelled texts\n\n| kind | values | recall | precision |\n|---|---|---|---|")
    for kind in SHAPE_KINDS:
        print(f"| {kind} | {labels[kind]} | {scores.recall([kind]):.2f} | {scores.precision([kind]) or 0:.2f} |")
    print(f"\na labelled text: {microseconds(ours, [row.text for row in rows]):.0f} µs")
    for name, text in (("prose", PROSE), ("prose with numbers and dates", NUMBERS)):
        print(f"{name}, {len(text)} characters, no hit: {microseconds(ours, [text] * 2000):.1f} µs")
    for path in arguments.lines:
        _print_hits(path)


def _print_hits(path: Path) -> None:
    lines = path.read_text("utf-8", "replace").splitlines()
    hits = [(number, kind, line[start:end]) for number, line in enumerate(lines, 1) for start, end, kind in ours(line)]
    print(f"\n{path}: {len(lines)} lines, {len(hits)} hits, {microseconds(ours, lines, 1):.1f} µs a line")
    for number, kind, value in hits:
        print(f"  {number}: {kind}: {value}")


if __name__ == "__main__":
    main()
