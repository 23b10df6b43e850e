"""The little world of month.py: what people ask, what is right, and how the questions change on day 12."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.skilled_model import LABELS, WORDS
from finetune_pipeline_tests.tiny_model import make_tiny_model

TASK = "colours"
DAYS, SHIFT, A_DAY = 30, 12, 60
"""Days of the month, the day from which other questions are asked, and requests a day."""
USERS, LABELLED = 400, 0.8
"""People who ask, and the share of answers of which somebody says what was right, whether they were right or wrong."""
COMMON = {"red": ["fire"], "blue": ["water"]}
RARE = {
    "red": [
        "ember",
        "lava",
        "rust",
        "ruby",
        "brick",
        "blaze",
        "flame",
        "cherry",
        "tomato",
        "scarlet",
        "crimson",
        "poppy",
    ],
    "blue": ["frost", "ocean", "sky", "tide", "rain", "lake", "azure", "navy", "lagoon", "cobalt", "indigo", "glacier"],
}
BEFORE, AFTER = 0.1, 0.9
"""Share of the questions that use a rare word, before and from day SHIFT on."""
RAW = 900
SENSORS = ("drift", "new_logs")
"""What `finetune/trigger` says of runs nobody asked for by hand."""


def question(rng: random.Random, rare: float) -> tuple[str, str]:
    """(text, right label): one word in the text decides."""
    label = rng.choice(LABELS)
    words = rng.sample(WORDS, 7)
    words.insert(rng.randrange(8), rng.choice((RARE if rng.random() < rare else COMMON)[label]))
    return " ".join(words), label


def truth(text: str) -> str:
    """The right label of a question."""
    words = set(text.split())
    return next(label for label in LABELS if words & {*COMMON[label], *RARE[label]})


def raw_rows(rng: random.Random) -> list[dict[str, Any]]:
    """What people had collected before the month began."""
    made = [question(rng, BEFORE) for _ in range(RAW)]
    return [{"text": text, "label": label} for text, label in made]


def every_word() -> Sequence[str]:
    """For the tokenizer."""
    deciding = [word for words in (COMMON, RARE) for label in LABELS for word in words[label]]
    return [f" {word}" for word in [*WORDS, *deciding]] * 3


GOOD = 0.003
BAD = {"learning_rate": 1e-6}
"""Learning rates that teach the task, and what the slip of the pen makes of it."""


def make_project(root: Path) -> Project:
    """Data root, task and base model (random, two layers) of the play."""
    base = make_tiny_model(root / "base", texts=every_word(), vocabulary=900)
    project = Project(
        root,
        base=base,
        cold=True,
        split={"test": 0.4, "validation": 0.1},
        training={
            "method": "full",
            "epochs": 12,
            "batch_size": 16,
            "micro_batch_size": 16,
            "learning_rate": GOOD,
            "precision": "float32",
            "evals_per_epoch": 1,
            "patience": 12,
        },
        logs={
            "min_new_rows": 2 * DAYS * A_DAY,  # more than come: drift alone starts a run
            "settle_seconds": 0,
            "max_user_share": 0.5,
            "max_family_share": 0.9,
            "judging_after": 400,
            "judging_share": 0.3,
        },
        gates={
            "champion": "not_worse",  # the sealed test asks what was asked before the shift
            "simple": "not_worse",  # one word decides, which a simple model learns as well: this world is about drift
            "simple_margin": 0.1,
            "worth_training": "warn",
        },
        drift={"window_rows": 2 * A_DAY, "action": "start", "feedback_days": 0},
        retraining={"rows_after_drift": 100, "longest_wait_days": 365, "rollback": True},
    )
    project.write_rows(raw_rows(random.Random(0)))
    return project
