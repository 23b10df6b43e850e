"""Error rates of the test whether answers depend on the inputs (`learnable`).

    python -m benchmarks.learnable PUBLIC [--sets 16]

PUBLIC: folder of the public sets (see public_sets.py). Independent answers: real texts with random labels (2, 8 and 20 labels,
equally frequent or each 1.5 times as frequent as the next one, 60 to 2,000 rows), and text and JSON sets with shuffled
answers; --sets is the number of each kind. At most 5% of these may be called learnable. Dependent answers: public sets and the
shipped tasks, whole and as small samples, beside the same rows with shuffled answers.

Measures: finetune_pipeline/baseline.
"""

import argparse
import random
import time
import warnings
from collections import Counter
from pathlib import Path

from msgspec.structs import replace

from benchmarks.example_sets import ExampleSet, example_set, with_answer, with_shuffled_answers
from finetune_pipeline.baseline.input_evidence import Learnable, learnable
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.spec import TaskSpec

LABELS = (2, 8, 20)
ROWS = (60, 200, 600, 2000)
TASKS = ("ticket_triage", "bitext-intent", "clinc150", "snips", "order_intake", "gsm8k", "dolly-hhrlhf-small")
WRITTEN = ("order_intake", "gsm8k", "dolly-hhrlhf-small", "llms-from-scratch-instr")
STATUSES = ("shown", "not_shown", "too_few_rows")


def random_labels(texts: ExampleSet, labels: int, balanced: bool, rows: int, seed: int) -> Learnable:
    """Test rows of a set with random labels."""
    rng = random.Random(f"{labels} {balanced} {rows} {seed}")
    names = [f"label_{i}" for i in range(labels)]
    weights = [1.0 if balanced else 1.5**-i for i in range(labels)]
    chosen = rng.sample(texts.rows, rows)
    drawn = rng.choices(names, weights, k=rows)
    examples = [replace(with_answer(e, label), label=label) for e, label in zip(chosen, drawn, strict=True)]
    spec = texts.spec.model_dump(mode="json") | {"output": {"kind": "labels", "labels": names}}
    return learnable(TaskSpec.model_validate(spec), examples)


def print_counts(title: str, statuses: Counter[str]) -> None:
    total = sum(statuses.values())
    low, high = wilson_interval(statuses["shown"], total)
    counts = "".join(f"{statuses[status]:>14}" for status in STATUSES)
    print(f"{title:<44}{total:>6}{counts}   {statuses['shown'] / total:>6.1%}  ({low:.1%} to {high:.1%})", flush=True)


def print_independent(public: Path, sets: int) -> None:
    print(f"{'independent answers':<44}{'sets':>6}" + "".join(f"{s:>14}" for s in STATUSES) + "    shown, 95%")
    total: Counter[str] = Counter()
    texts = example_set("snips", public)
    for rows in ROWS:
        for labels in LABELS:
            for balanced in (True, False):
                statuses = Counter(random_labels(texts, labels, balanced, rows, seed).status for seed in range(sets))
                frequent = "equally" if balanced else "not equally"
                print_counts(f"{rows} rows, {labels} labels, {frequent} frequent", statuses)
                total += statuses
    print_counts("labels, all together", total)
    total = Counter()
    for name in WRITTEN:
        data = example_set(name, public)
        for rows in ROWS[:3]:
            statuses = Counter()
            for seed in range(2 * sets):
                sample = random.Random(f"{name} {rows} {seed}").sample(data.rows, rows)
                statuses[learnable(data.spec, with_shuffled_answers(sample, 1.0, seed)).status] += 1
            print_counts(f"{rows} rows, {name}, shuffled", statuses)
            total += statuses
    print_counts("text and JSON, all together", total)


def print_real(public: Path) -> None:
    print(f"\n{'set':<22}{'rows':>7}  {'answers':<9}{'seconds':>8}  {'status':<13} sentence")
    for name in TASKS:
        data = example_set(name, public)
        for rows in (100, 300, len(data.rows)):
            sample = random.Random(rows).sample(data.rows, rows)
            for answers, examples in (("as given", sample), ("shuffled", with_shuffled_answers(sample, 1.0, 0))):
                began = time.process_time()
                result = learnable(data.spec, examples)
                seconds = time.process_time() - began
                print(
                    f"{name:<22}{rows:>7}  {answers:<9}{seconds:>8.1f}  {result.status:<13} {result.sentence}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--sets", type=int, default=16)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "The number of unique classes")  # 100 rows of 150 labels
    print_independent(arguments.public, arguments.sets)
    print_real(arguments.public)


if __name__ == "__main__":
    main()
