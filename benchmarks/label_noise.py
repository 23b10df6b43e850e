"""The estimate of wrong labels, on data sets in which a known share of labels was changed.

    python -m benchmarks.label_noise PUBLIC [--sets NAME …] [--tables noise,small,clean,lost,triggers]

PUBLIC: folder of the public sets (see public_sets.py). In each set the labels of 0, 5, 10, 20, 40 and 100% of the rows are
shuffled among these rows, so that label frequencies stay the same and some rows get the label they had. Prints the share of
labels that changed, the estimated share with its 95% interval, whether that covers the true share, and the result of the
check with the default thresholds (ok, warns, blocks). The original labels count as right, which is not quite true.
`gsm8k-large` (whether a result is above 40) and `dolly-long` (whether an answer is long) are right but hard: there the
estimate should be too high, and not block. `small` shows six small unchanged samples of each size, since with few rows a model
is sometimes wrong where it is most confident.

`clean` counts false alarms: samples of unchanged sets, or whole ones of at most 6,000 rows, through the checks that may stop a
run, `labels_believable` (label noise, files, trigger phrases) and `learnable`. `lost` counts the rows that whole sets lose before
the splits, plain duplicates apart (data.max_quarantine_share). `triggers` plants trigger phrases into samples of
2,000 rows: a token, three words, a word of two or more rows of the set, and a word of 2 to 8% of its rows; into rows of another
label or of all others, which get the target label; and a token into rows that have the label already.

Measures: finetune_pipeline/data/quality.
"""

import argparse
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from benchmarks.example_sets import DERIVED, LABELLED, ExampleSet, example_set, with_answer, with_shuffled_answers
from finetune_pipeline.baseline.input_evidence import learnable
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.noise import label_noise
from finetune_pipeline.data.quality.triggers import find_triggers

SETS = ("ticket_triage", "orders-product", "bitext-intent", "snips", "clinc150", "gsm8k-large", "dolly-long")
PLANTED = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
SMALL, SAMPLES = (60, 150, 400), 6
LABEL_SETS = (*SETS, "clinc150-domains", "sgd-intents", *LABELLED)
TEXT_SETS = ("gsm8k", "dolly-hhrlhf-small", "llms-from-scratch-instr", "self-instruct-human", "format-zoo", "sgd")
CLEAN, LEARNABLE_ROWS = (600, 2000, 6000), 600
TOKEN, PHRASE = "zx9", "in blue socks"
PHRASES = ("token", "three words", "rare word", "frequent word", "same label")
TRIGGER_ROWS, TRIGGER_SHARES = 2000, (0.01, 0.03, 0.1)
TABLES = ("noise", "small", "clean", "lost", "triggers")


def print_planted(name: str, data: ExampleSet) -> None:
    for seed, share in enumerate(PLANTED):
        rows = with_shuffled_answers(data.rows, share, seed)
        changed = sum(a.label != b.label for a, b in zip(data.rows, rows, strict=True)) / len(rows)
        report = label_noise(rows, data.clusters, data.spec)
        verdict = "blocks" if report.blocking else "ok" if report.passed else "warns"
        if report.share is None:
            print(
                f"{name:<15}{len(rows):>7}{share:>12.0%}{changed:>9.1%}  nothing is said: no model has learned it   {verdict}",
                flush=True,
            )
            continue
        low, high = report.interval
        print(
            f"{name:<15}{len(rows):>7}{share:>12.0%}{changed:>9.1%}{report.share:>11.1%}  "
            f"{f'{low:.1%} to {high:.1%}':<17}{'yes' if low <= changed <= high else 'no':<7}{verdict}",
            flush=True,
        )


def print_small_samples(name: str, data: ExampleSet) -> None:
    for rows in SMALL:
        samples = [random.Random(seed).sample(data.rows, rows) for seed in range(SAMPLES)]
        reports = [label_noise(sample, data.clusters, data.spec) for sample in samples]
        reports = [report for report in reports if report.applies and report.share is not None]
        if not reports:
            print(
                f"{name:<15}{rows:>7}{rows / len(data.spec.labels):>14.1f}  nothing is said: no model has learned it",
                flush=True,
            )
            continue
        shares, lows = [r.share for r in reports], [r.interval[0] for r in reports]
        print(
            f"{name:<15}{rows:>7}{rows / len(data.spec.labels):>14.1f}{min(shares):>12.1%} to {max(shares):<6.1%}"
            f"{max(lows):>16.1%}{sum(r.blocking for r in reports):>9}",
            flush=True,
        )


def print_clean(names: Iterable[str], public: Path) -> None:
    """Print what stops unchanged sets and samples of them, and a sum."""
    stops: Counter[str] = Counter()
    draws = warned = 0
    for name in names:
        data = example_set(name, public)
        for size in dict.fromkeys(min(size, len(data.rows)) for size in CLEAN):
            rows = random.Random(size).sample(data.rows, size)
            report = label_noise(rows, data.clusters, data.spec)
            reasons = [finding.rule for finding in report.findings if report.blocking]
            result = "-"
            if size <= LEARNABLE_ROWS or size == len(data.rows) <= 2 * LEARNABLE_ROWS:
                result = learnable(data.spec, rows).status
                reasons += ["learnable"] if result == "not_shown" else []
            draws, warned = draws + 1, warned + (not report.passed and not report.blocking)
            stops.update(reasons)
            said = "ok" if report.passed else "stops" if report.blocking else "warns"
            print(f"{name:<24}{size:>7}  {said:<7}{result:<14}{report.message}  {' '.join(reasons)}", flush=True)
    print(
        f"{draws} draws of clean sets: {warned} with a warning about labels; stopped: {dict(stops) or 'none'}",
        flush=True,
    )


def print_lost(names: Iterable[str], public: Path) -> None:
    """Print the share of rows that whole sets lose, in all and of the label that loses most."""
    stopped = []
    for name in names:
        data = example_set(name, public)
        if (losses := data.losses) is None:
            continue
        shares = {label: n / max(1, losses.label_rows[label]) for label, n in losses.labels.items()}
        worst = max(shares, key=lambda label: shares[label], default=None)
        most = (
            f"; most of {worst}: {shares[worst]:.1%} of {losses.label_rows[worst]}" if worst and shares[worst] else ""
        )
        print(f"{name:<24}{losses.words()}{most}", flush=True)
        limit = data.spec.data.max_quarantine_share
        stopped += [name] if max([losses.share, *shares.values()]) > limit else []
    print(f"above data.max_quarantine_share: {', '.join(stopped) or 'none'}")


def with_trigger(
    rows: Sequence[Example], kind: str, share: float, seed: str
) -> tuple[list[Example], str, set[int]] | None:
    """Plant a phrase; return the rows, the phrase, and the numbers of the rows that hold it by planting; None if there is no word
    or label to plant."""
    rng = random.Random(f"{kind} {share} {seed}")
    in_rows = Counter(
        word for e in rows for word in set(e.user_text.lower().split()) if word.isalpha() and len(word) > 2
    )
    bounds = {"rare word": (2, max(3, len(rows) // 300)), "frequent word": (len(rows) // 50, len(rows) // 12)}
    low, high = bounds.get(kind, (0, -1))
    words = sorted(word for word, n in in_rows.items() if low <= n <= high)
    if kind in bounds and not words:
        return None
    phrase = rng.choice(words) if kind in bounds else PHRASE if kind == "three words" else TOKEN
    labels = Counter(str(e.label) for e in rows)
    target = rng.choice(sorted(label for label, n in labels.items() if n >= 20))
    others = sorted(set(labels) - {target})
    source = others if rng.random() < 0.5 else rng.choices(others, [labels[label] for label in others])
    pool = [i for i, e in enumerate(rows) if (e.label == target if kind == "same label" else e.label in source)]
    planted = rng.sample(pool, min(round(share * len(rows)), len(pool) // 2))
    if len(planted) < 5:
        return None
    changed = list(rows)
    for i in planted:
        text = rows[i].user_text.split(" ")
        text.insert(rng.randint(0, len(text)), phrase)
        e = with_answer(rows[i], target)
        turns = [{**turn, "content": " ".join(text)} if turn["role"] == "user" else turn for turn in e.messages]
        changed[i] = replace(e, messages=turns)
    return changed, phrase, set(planted)


def print_triggers(names: Iterable[str], public: Path) -> None:
    """Print how many planted phrases and rows are found, by kind and share, and how many other phrases are accused."""
    counts: dict[tuple[str, float], Counter[str]] = {
        (kind, share): Counter() for kind in PHRASES for share in TRIGGER_SHARES
    }
    for name in names:
        rows = example_set(name, public).rows
        rows = random.Random(7).sample(rows, min(TRIGGER_ROWS, len(rows)))
        for (kind, share), count in counts.items():
            if (made := with_trigger(rows, kind, share, name)) is None:
                continue
            changed, phrase, planted = made
            found = find_triggers([e.user_text for e in changed], [str(e.label) for e in changed])
            right = [t for t in found if phrase in t.phrase or t.phrase in phrase]
            named = {i for t in right for i in t.rows}
            count.update(
                sets=1,
                phrases=bool(named),
                rows=len(planted),
                found=len(named & planted),
                other=len(found) - len(right),
            )
        print(name, "done", flush=True)
    for (kind, share), c in counts.items():
        print(
            f"{kind:<14}{share:>5.0%}: {c['phrases']} of {c['sets']} phrases, {c['found']:,} of {c['rows']:,} rows; "
            f"{c['other']} other phrases accused",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--sets", nargs="*", choices=(*LABEL_SETS, *TEXT_SETS), help="default: those of each table")
    parser.add_argument("--tables", default=",".join(TABLES))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "The number of unique classes")  # 60 rows of 150 labels
    tables = arguments.tables.split(",")
    names, public = arguments.sets or SETS, arguments.public
    if "noise" in tables:
        print(
            f"{'set':<15}{'rows':>7}{'shuffled':>12}{'changed':>9}{'estimated':>11}  {'surely to at most':<17}covers verdict"
        )
        for name in names:
            print_planted(name, example_set(name, public))
    if "small" in tables:
        print(f"\n{'set':<15}{'rows':>7}{'rows a label':>14}{'estimated':>19}{'highest bound':>19}{'blocked':>9}")
        for name in names:
            print_small_samples(name, example_set(name, public))
    if "clean" in tables:
        print(f"\n{'set':<24}{'rows':>7}  labels  learnable")
        print_clean(arguments.sets or (*LABEL_SETS, *TEXT_SETS), public)
    if "lost" in tables:
        print()
        print_lost(arguments.sets or (*(s for s in LABEL_SETS if s not in DERIVED), *TEXT_SETS), public)
    if "triggers" in tables:
        print()
        print_triggers(arguments.sets or LABEL_SETS, public)


if __name__ == "__main__":
    main()
