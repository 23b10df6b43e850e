"""The task of month.py: what users ask, the right labels, and how the questions change on day 12."""

import random
from pathlib import Path
from typing import Any

from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.skilled_model import LABELS, WORDS
from finetune_pipeline_tests.tiny_model import make_tiny_model

TASK = "colours"
DAYS, SHIFT_DAY, REQUESTS_PER_DAY = 30, 12, 60
"""From SHIFT_DAY on the questions are different."""
USERS, LABELLED_SHARE = 400, 0.8
COMMON = {"red": ["fire"], "blue": ["water"]}
RARE = {
    "red": "ember lava rust ruby brick blaze flame cherry tomato scarlet crimson poppy".split(),
    "blue": "frost ocean sky tide rain lake azure navy lagoon cobalt indigo glacier".split(),
}
RARE_SHARE_BEFORE, RARE_SHARE_AFTER = 0.1, 0.9
"""Share of the questions that use a rare word, before and from SHIFT_DAY on."""
RAW_ROWS = 900
SENSORS = ("drift", "new_logs")
"""Values of the tag `finetune/trigger` of runs that nobody started by hand."""
GOOD_LEARNING_RATE = 0.003
BAD_TRAINING = {"learning_rate": 1e-6}


def draw_question(rng: random.Random, rare_share: float) -> tuple[str, str]:
    """Return a text and its right label. One word in the text decides."""
    label = rng.choice(LABELS)
    words = rng.sample(WORDS, 7)
    words.insert(rng.randrange(8), rng.choice((RARE if rng.random() < rare_share else COMMON)[label]))
    return " ".join(words), label


def raw_rows(rng: random.Random) -> list[dict[str, Any]]:
    """Rows collected before the month began."""
    questions = [draw_question(rng, RARE_SHARE_BEFORE) for _ in range(RAW_ROWS)]
    return [{"text": text, "label": label} for text, label in questions]


def make_project(root: Path) -> Project:
    """Make the data root, the task and its base model (random weights, two layers)."""
    deciding_words = [word for words in (COMMON, RARE) for label in LABELS for word in words[label]]
    tokenizer_texts = [f" {word}" for word in [*WORDS, *deciding_words]] * 3
    project = Project(
        root,
        base=make_tiny_model(root / "base", texts=tokenizer_texts, vocabulary=900),
        cold=True,
        split={"test": 0.4, "validation": 0.1},
        training={
            "method": "full",
            "epochs": 12,
            "batch_size": 16,
            "micro_batch_size": 16,
            "learning_rate": GOOD_LEARNING_RATE,
            "precision": "float32",
            "evals_per_epoch": 1,
            "patience": 12,
        },
        logs={
            "min_new_rows": 2 * DAYS * REQUESTS_PER_DAY,  # more than there will be: only drift starts a run
            "settle_seconds": 0,
            "max_user_share": 0.5,
            "max_family_share": 0.9,
            "judging_after": 400,
            "judging_share": 0.3,
        },
        gates={
            "champion": "not_worse",  # the sealed test holds questions from before the shift
            "simple": "not_worse",  # one word decides, so a simple model is as good: this month is about drift
            "simple_margin": 0.1,
            "worth_training": "warn",
        },
        drift={"window_rows": 2 * REQUESTS_PER_DAY, "action": "start", "feedback_days": 0},
        retraining={"rows_after_drift": 100, "longest_wait_days": 365, "rollback": True},
    )
    project.write_rows(raw_rows(random.Random(0)))
    return project
