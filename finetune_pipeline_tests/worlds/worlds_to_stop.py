"""Worlds of verdicts.py in which a blocking check must end the graph before the sealed test is opened."""

from functools import partial

from finetune_pipeline_tests.worlds.planted_world import independent_split_world, swapped_file_world
from finetune_pipeline_tests.worlds.verdict_tasks import (
    EIGHT_SUBJECTS,
    FIELD,
    FIRST_WORDS,
    NAMED,
    ORDER,
)
from finetune_pipeline_tests.worlds.verdict_worlds import (
    FORCED,
    KnownWorld,
    by_file,
    one_answer,
    shuffled,
    unrelated,
    world_of,
)

STOPPED = [
    KnownWorld(
        "shuffled",
        "word order; all labels are shuffled among the rows, which are enough to show that nothing can be learned",
        "stop",
        world_of(ORDER, shuffled, rows=1000),
        ("learnable",),
    ),
    KnownWorld(
        "half-of-eight",
        "eight subjects, each with its words; half of the labels of 1,600 rows are shuffled, so that 43% are wrong",
        "stop",
        world_of(EIGHT_SUBJECTS, partial(shuffled, share=0.5), rows=1600),
        ("labels_believable",),
    ),
    KnownWorld(
        "one-class",
        "19 of 20 rows are red, whatever their texts: `always red` is significantly above the ceiling",
        "stop",
        world_of(
            ORDER, partial(unrelated, first_share=0.95), rows=1500, split={"test": 0.2, "validation": 0.2, "seed": 0}
        ),
        ("worth_training", "learnable"),
    ),
    KnownWorld(
        "constant-label",
        "every row is red, though the spec has two labels",
        "stop",
        world_of(ORDER, partial(unrelated, first_share=1.0)),
        ("enough_per_label",),
    ),
    KnownWorld(
        "constant-text",
        "free text, and every row has the same answer",
        "stop",
        world_of(NAMED, one_answer),
        ("learnable", "worth_training"),
    ),
    KnownWorld(
        "by-file",
        "every row of one file is red and of the other blue; the texts of both files are alike",
        "stop",
        by_file,
        ("learnable",),
    ),
    KnownWorld(
        "swapped-file",
        "one word decides; one of two files, 120 of 400 rows, has red and blue exchanged",
        "stop",
        swapped_file_world,
        ("labels_believable",),
    ),
    KnownWorld(
        "text-shuffled",
        "free text that begins as the question does; answers are shuffled among the rows",
        "stop",
        world_of(FIRST_WORDS, shuffled, rows=1200),
        ("learnable",),
    ),
    KnownWorld(
        "json-shuffled",
        "JSON with a word copied from the question; answers are shuffled among the rows",
        "stop",
        world_of(FIELD, shuffled, rows=1200),
        ("learnable",),
    ),
    KnownWorld(
        "leak",
        "each customer has ten rows, and a broken splitter puts them into several splits",
        "stop",
        independent_split_world,
        ("no_leakage",),
    ),
    KnownWorld(
        "overtrained",
        "240 rows with random labels, 40 epochs at a high learning rate, with the checks before training silenced: the "
        "validation loss only rises",
        "stop",
        world_of(
            ORDER,
            shuffled,
            rows=240,
            training={"method": "full", "epochs": 40, "learning_rate": 0.003, "patience": 40},
            gates=FORCED,
        ),
        ("learned",),
        warned=("not_overfitted",),
    ),
]
