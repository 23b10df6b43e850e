"""The estimate of wrong labels, on data sets in which a known share of labels was changed.

    python -m benchmarks.label_noise PUBLIC [--sets NAME …]

PUBLIC: folder of the public sets (see public_sets.py). In each set the labels of 0, 5, 10, 20, 40 and 100% of the rows are
shuffled among these rows, so that label frequencies stay the same and some rows get the label they had. Prints the share of
labels that changed, the estimated share with its 95% interval, whether that covers the true share, and the result of the
check with the default thresholds (ok, warns, blocks). The original labels count as right, which is not quite true.
`gsm8k-large` (whether a result is above 40) and `dolly-long` (whether an answer is long) are right but hard: there the
estimate should be too high, and not block. A second table shows six small unchanged samples of each size, since with few rows
a model is sometimes wrong where it is most confident.
"""

import argparse
import random
import warnings
from pathlib import Path

from benchmarks.example_sets import ExampleSet, example_set, with_shuffled_answers
from finetune_pipeline.data.quality.noise import label_noise

SETS = ("ticket_triage", "orders-product", "bitext-intent", "snips", "clinc150", "gsm8k-large", "dolly-long")
PLANTED = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
SMALL, SAMPLES = (60, 150, 400), 6


def print_planted(name: str, data: ExampleSet) -> None:
    for seed, share in enumerate(PLANTED):
        rows = with_shuffled_answers(data.rows, share, seed)
        changed = sum(a.label != b.label for a, b in zip(data.rows, rows, strict=True)) / len(rows)
        report = label_noise(rows, data.clusters, data.spec)
        low, high = report["interval"]
        verdict = "blocks" if report["blocking"] else "ok" if report["passed"] else "warns"
        print(
            f"{name:<15}{len(rows):>7}{share:>12.0%}{changed:>9.1%}{report['share']:>11.1%}  "
            f"{f'{low:.1%} to {high:.1%}':<17}{'yes' if low <= changed <= high else 'no':<7}{verdict}",
            flush=True,
        )


def print_small_samples(name: str, data: ExampleSet) -> None:
    for rows in SMALL:
        samples = [random.Random(seed).sample(data.rows, rows) for seed in range(SAMPLES)]
        reports = [label_noise(sample, data.clusters, data.spec) for sample in samples]
        reports = [report for report in reports if report["applies"]]
        shares, lows = [r["share"] for r in reports], [r["interval"][0] for r in reports]
        print(
            f"{name:<15}{rows:>7}{rows / len(data.spec.labels):>14.1f}{min(shares):>12.1%} to {max(shares):<6.1%}"
            f"{max(lows):>16.1%}{sum(r['blocking'] for r in reports):>9}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "The number of unique classes")  # 60 rows of 150 labels
    sets = {name: example_set(name, arguments.public) for name in arguments.sets}
    print(f"{'set':<15}{'rows':>7}{'shuffled':>12}{'changed':>9}{'estimated':>11}  {'95% interval':<17}covers verdict")
    for name, data in sets.items():
        print_planted(name, data)
    print(f"\n{'set':<15}{'rows':>7}{'rows a label':>14}{'estimated':>19}{'highest bound':>19}{'blocked':>9}")
    for name, data in sets.items():
        print_small_samples(name, data)


if __name__ == "__main__":
    main()
