"""Detection delay and false alarms of the drift report, on simulated streams.

    python benchmarks/drift_simulation.py [STREAMS]

Each stream has its own training rows and 30 windows of 100 production rows. A change comes at the start of window 11. False
alarm: any alarm of any signal in a stream without a change, or before it. Delay: windows from the change to the first alarm of
a signal that can detect it.

Measures: finetune_pipeline/production/drift.py, finetune_pipeline/production/signals.py,
finetune_pipeline/production/token_distance.py.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.production.drift import watch
from finetune_pipeline.production.signals import Reference
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline_tests.unit.production.streams import LABELS, labels, served, text

WINDOWS, CHANGE, WINDOW_ROWS, TRAINING_ROWS = 30, 10, 100, 1500
"""CHANGE: the last window before the change."""
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no drift": ({}, ()),
    "vocabulary: 5% new words": ({"new_words": 0.05}, ("vocabulary", "unseen_words")),
    "vocabulary: 15% new words": ({"new_words": 0.15}, ("vocabulary", "unseen_words")),
    "labels: 50/30/20 to 30/30/40": ({"shares": (0.3, 0.3, 0.4)}, ("label_mix", "vocabulary")),
    "length: 1.3 times": ({"longer": 1.3}, ("input_length",)),
    "quality: 90% to 75% right": ({"right": 0.75}, ("flags", "wrong_answers")),
    "quality: 90% to 60% right": ({"right": 0.6}, ("flags", "wrong_answers")),
}
"""Kinds of streams: the change, and the signals that can detect it."""
SPEC = TaskSpec.model_validate(
    {
        "name": "simulated",
        "description": "d",
        "system_prompt": "s",
        "output": {"kind": "labels", "labels": LABELS},
        "drift": {"window_rows": WINDOW_ROWS},
    }
)


def simulate(kind: str, seed: int) -> tuple[set[str], int | None]:
    """Watch a stream. Returns the signals with a false alarm, and the delay in windows, if the change was detected."""
    change, detecting = KINDS[kind]
    rng = random.Random(seed)
    training_labels = labels(rng, TRAINING_ROWS)
    answers = [r["output"] for r in served(rng, 400)]
    reference = Reference([text(rng, label) for label in training_labels], answers)
    rows = served(rng, CHANGE * WINDOW_ROWS)
    rows += served(rng, (WINDOWS - CHANGE) * WINDOW_ROWS, len(rows), **change)
    false_alarms: set[str] = set()
    for window in watch(SPEC, reference, rows):
        alarms = {name for name, tested in window.signals.items() if tested.alarm}
        if window.window <= CHANGE or not change:
            false_alarms |= alarms
        elif alarms & set(detecting):
            return false_alarms, window.window - CHANGE
    return false_alarms, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", type=int, nargs="?", default=200, help="number of streams")
    streams, began = parser.parse_args().streams, time.process_time()
    per_kind = {kind: streams // len(KINDS) for kind in KINDS}
    per_kind["no drift"] += streams - sum(per_kind.values())
    results = {
        kind: [simulate(kind, 1000 * i + seed) for seed in range(per_kind[kind])] for i, kind in enumerate(KINDS)
    }
    print(
        f"{streams} streams of {WINDOWS} windows of {WINDOW_ROWS} rows, {TRAINING_ROWS} training rows; change at window "
        f"{CHANGE + 1};"
    )
    print(f"allowed: {SPEC.drift.false_alarms:.0%} of the watches with any false alarm, over all signals and windows")
    print(
        f"{'':30} {'streams':>8} {'seen':>6} {'delay in windows: median':>26} {'90%':>4} {'most':>5} {'false alarms':>13}"
    )
    total = 0
    for kind, of_kind in results.items():
        false = sum(bool(signals) for signals, _ in of_kind)
        total += false
        delays = sorted(delay for _, delay in of_kind if delay is not None)
        seen = f"{len(delays) / len(of_kind):.0%}" if KINDS[kind][0] else ""
        median, ninth, most = "", "", ""
        if delays:
            median, most = f"{statistics.median(delays):g}", str(delays[-1])
            ninth = str(delays[int(0.9 * (len(delays) - 1) + 0.5)])
        rate = f"{false} ({false / len(of_kind):.1%})"
        print(f"{kind:30} {len(of_kind):>8} {seen:>6} {median:>26} {ninth:>4} {most:>5} {rate:>13}")
    signals = sorted({name for of_kind in results.values() for false_alarms, _ in of_kind for name in false_alarms})
    by = f"by {', '.join(signals)}" if signals else ""
    print(f"false alarms in all: {total} of {streams} streams ({total / streams:.1%})", by)
    print(f"took {time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main()
