"""How many decisions of reviewers a rollout of free text needs, where every two answers differ.

    python benchmarks/rollout_text.py

Reviewers decide the questions in their order, blind: on 20% the answers are equally good, on the others one is better. The
candidate is as good (better on 40% of the questions, as the champion is), better by 10 or 20 points, or worse by `rollout.margin`:
then every step to the first share is false. After each decision it goes on or ends, by the evidence that `judge` uses; the minimum
of `rollout.shadow_rows` questions, which need no decisions, is left out.

Measures: finetune_pipeline/production/rollout.py, finetune_pipeline/evaluation/statistics/betting.py.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.production.promise_watch import evidence

LEVEL, EQUAL, MOST = 0.05, 0.2, 3000


def decisions(rng: np.random.Generator, gain: float, margin: float) -> tuple[str, int]:
    """Return how the first stage ends, and after how many decisions. gain: of the candidate, a share of the questions."""
    losses = rng.choice([1, -1, 0], MOST, p=[(1 - EQUAL - gain) / 2, (1 - EQUAL + gain) / 2, EQUAL])
    proven = not_worse_evidence(losses, margin) >= 1 / LEVEL
    alone = np.flatnonzero(losses)
    worse = evidence([bool(loss == 1) for loss in losses[alone]], 0.5) >= 2 / LEVEL
    goes_on = int(np.argmax(proven)) + 1 if proven.any() else MOST + 1
    ends = int(alone[np.argmax(worse)]) + 1 if worse.any() else MOST + 1
    if min(goes_on, ends) > MOST:
        return "open", MOST
    return ("ended", ends) if ends <= goes_on else ("goes on", goes_on)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1000)
    options = parser.parse_args()
    print(
        f"level {LEVEL:.0%}, {EQUAL:.0%} equally good, at most {MOST:,} decisions, {options.rollouts:,} rollouts a line\n"
    )
    print(f"{'margin':>6} {'points':>6} {'goes on':>8} {'decisions':>13} {'ended':>6} {'decisions':>13} {'open':>5}")
    for margin in (0.05, 0.1, 0.2):
        for gain in (-margin, 0.0, 0.1, 0.2):
            rng = np.random.default_rng(1)
            ends = [decisions(rng, gain, margin) for _ in range(options.rollouts)]
            cells = []
            for how in ("goes on", "ended"):
                counts = sorted(n for end, n in ends if end == how)
                cells.append(
                    f"{len(counts):>6} "
                    + (
                        f"{counts[len(counts) // 2]:>6} ({counts[int(0.9 * len(counts))]:>4})"
                        if counts
                        else f"{'-':>13}"
                    )
                )
            still = sum(end == "open" for end, _ in ends)
            print(f"{margin:>6.0%} {100 * gain:>+6.0f}   {cells[0]} {cells[1]} {still:>5}", flush=True)
    print("\ndecisions: the median, and of the last tenth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
