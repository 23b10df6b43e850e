"""How soon drift is seen, and how often it is seen where there is none: simulated streams through the real watch.

Each stream has training rows of its own and 30 windows of 100 production rows; what changes, changes at the start of
window 11. False alarm: any alarm of any signal in a stream without a change (or before it). Delay: windows from the change
to the first alarm of a signal that can see it.
"""

import random
import statistics
import sys
import time
from typing import Any

import yaml

from finetune_pipeline.production.drift import watch
from finetune_pipeline.production.signals import Reference
from finetune_pipeline.spec import parse_spec
from finetune_pipeline_tests.unit.production.streams import LABELS, labels, served, text

WINDOWS, CHANGE, SIZE, TRAINED = 30, 10, 100, 1500
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no drift": ({}, ()),
    "vocabulary: 5% new words": ({"new_words": 0.05}, ("vocabulary", "unseen_words")),
    "vocabulary: 15% new words": ({"new_words": 0.15}, ("vocabulary", "unseen_words")),
    "labels: 50/30/20 to 30/30/40": ({"shares": (0.3, 0.3, 0.4)}, ("label_mix", "vocabulary")),
    "length: 1.3 times": ({"longer": 1.3}, ("input_length",)),
    "quality: 90% to 75% right": ({"right": 0.75}, ("flags", "wrong_answers")),
    "quality: 90% to 60% right": ({"right": 0.6}, ("flags", "wrong_answers")),
}
SPEC = parse_spec(
    yaml.safe_dump(
        {
            "name": "simulated",
            "description": "d",
            "system_prompt": "s",
            "output": {"kind": "labels", "labels": LABELS},
            "drift": {"window_rows": SIZE},
        }
    )
)


def stream(job: tuple[str, int]) -> dict[str, Any]:
    """One stream: {false_alarm: signals that alarmed without a cause, delay: windows or None}."""
    kind, seed = job
    change, able = KINDS[kind]
    rng = random.Random(seed)
    told = labels(rng, TRAINED)
    answers = [r["output"] for r in served(rng, 400)]
    reference = Reference([text(rng, label) for label in told], answers)
    rows = served(rng, CHANGE * SIZE)
    rows += served(rng, (WINDOWS - CHANGE) * SIZE, len(rows), **change)
    false, delay = set(), None
    for window in watch(SPEC, reference, rows):
        alarms = {name for name, s in window["signals"].items() if s["alarm"]}
        if window["window"] <= CHANGE or not change:
            false |= alarms
        elif alarms & set(able):
            delay = window["window"] - CHANGE
            break
    return {"false": sorted(false), "delay": delay}


def main(streams: int = 200) -> None:
    began = time.process_time()
    per_kind = {kind: streams // len(KINDS) for kind in KINDS}
    per_kind["no drift"] += streams - sum(per_kind.values())
    jobs = [(kind, 1000 * i + seed) for i, kind in enumerate(KINDS) for seed in range(per_kind[kind])]
    found = [stream(job) for job in jobs]
    print(
        f"{len(jobs)} streams of {WINDOWS} windows of {SIZE} rows, {TRAINED} training rows; change at window {CHANGE + 1};"
    )
    print(f"allowed: {SPEC.drift.false_alarms:.0%} of the watches with any false alarm, over all signals and windows")
    print(
        f"{'':30} {'streams':>8} {'seen':>6} {'delay in windows: median':>26} {'90%':>4} {'most':>5} {'false alarms':>13}"
    )
    total = 0
    for kind in KINDS:
        mine = [f for (k, _), f in zip(jobs, found, strict=True) if k == kind]
        false = sum(bool(f["false"]) for f in mine)
        total += false
        line = f"{kind:30} {len(mine):>8}"
        if KINDS[kind][0]:
            delays = sorted(f["delay"] for f in mine if f["delay"] is not None)
            if delays:
                ninth = delays[int(0.9 * (len(delays) - 1) + 0.5)]
                line += f" {len(delays) / len(mine):>6.0%} {statistics.median(delays):>26g} {ninth:>4} {delays[-1]:>5}"
            else:
                line += f" {0:>6.0%} {'':>26} {'':>4} {'':>5}"
        else:
            line += f" {'':>6} {'':>26} {'':>4} {'':>5}"
        print(f"{line} {f'{false} ({false / len(mine):.1%})':>13}")
    causes = sorted({name for f in found for name in f["false"]})
    print(
        f"false alarms in all: {total} of {len(jobs)} streams ({total / len(jobs):.1%})",
        f"by {', '.join(causes)}" if causes else "",
    )
    print(f"took {time.process_time() - began:.0f} s of one core")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
