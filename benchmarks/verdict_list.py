"""The worlds of verdicts.py: what is in each, and the one verdict that is right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.planted_world import (
    World,
    broken_form_world,
    forgetting_world,
    independent_split_world,
    run,
    swapped_file_world,
    swapped_training_world,
)
from benchmarks.verdict_base import IN_SENTENCES, LIKE_THE_LAST, OUT_OF_FORM, SHAKEN
from benchmarks.verdict_tasks import (
    EIGHT_SUBJECTS,
    FIELD,
    FIRST_WORDS,
    INVENTED_WORDS,
    NAMED,
    NEGATED,
    NONE,
    ONE_WORD,
    ORDER,
    SUBJECT_LABELS,
    SUBJECT_WORDS,
    WITH_NONE,
    KnownTask,
    shaken_text,
)
from benchmarks.verdict_worlds import KnownWorld, RawRow, flipped, made, shuffled, unrelated_labels
from finetune_pipeline_tests.skilled_model import LABELS, WORDS

ROWS = 400
FORCED = {"learnable": "warn", "worth_training": "warn"}
"""Gates of somebody who will train whatever the checks before it say."""
ANY_NOISE = {"min_examples": 60, "min_per_label": 20, "max_label_noise": 1.0}


def rows_of(task: KnownTask, n: int = ROWS, seed: int = 0) -> list[RawRow]:
    return task.raw_rows(seed, n)


def _two_files(folder: Path, base: Path) -> World:
    """All rows of one file are red and all of the other blue, whatever the texts say."""
    world = World(folder, base)
    for label, name in zip(LABELS, ("a.jsonl", "b.jsonl"), strict=True):
        rows = [{**row, "label": label} for row in rows_of(ORDER, ROWS // 2, seed=len(name) + LABELS.index(label))]
        world.write_rows(rows, name)
    return world


def _shaken_rows() -> list[RawRow]:
    """Rows of which a few hold the word that shakes the base model, with a fifth of the labels wrong."""
    rng, rows = random.Random(3), rows_of(ORDER)
    rows = [{**row, "text": shaken_text(rng, row["text"])} if rng.random() < 0.04 else row for row in rows]
    return flipped(rows, 0.2)


def _second_candidate(folder: Path, base: Path) -> World:
    """A champion in service, and then the same training with another seed."""
    world = made(ORDER, lambda: rows_of(ORDER))(folder, base)
    if not run(world).promoted:
        raise RuntimeError("the first candidate should have been promoted")
    world.write_spec(training={**world.spec["training"], "seed": 1})
    return world


def _half_unrelated() -> list[RawRow]:
    """Rows of three labels, of which two are shuffled among themselves."""
    rows = rows_of(WITH_NONE)
    colours = iter(shuffled([row for row in rows if row["label"] != NONE]))
    return [row if row["label"] == NONE else next(colours) for row in rows]


STOPPED = [
    KnownWorld(
        "shuffled",
        "word order; all labels are dealt out anew among the rows",
        "stop",
        made(ORDER, lambda: shuffled(rows_of(ORDER))),
        frozenset({"labels_believable", "learnable"}),
    ),
    KnownWorld(
        "shuffled-noise-allowed",
        "the same with more rows, and data.max_label_noise: 1",
        "stop",
        made(ORDER, lambda: shuffled(rows_of(ORDER, 1000)), data=ANY_NOISE),
        frozenset({"learnable"}),
    ),
    KnownWorld(
        "half-of-eight",
        "eight subjects that words tell; half of the labels of 1,600 rows are dealt out anew, so that 43% are wrong",
        "stop",
        made(EIGHT_SUBJECTS, lambda: shuffled(rows_of(EIGHT_SUBJECTS, 1600), 0.5)),
        frozenset({"labels_believable"}),
    ),
    KnownWorld(
        "one-class",
        "19 of 20 rows are red, and nothing tells which: always red is surely above the ceiling",
        "stop",
        made(
            ORDER,
            lambda: unrelated_labels(rows_of(ORDER, 1500), 0.95, LABELS),
            split={"test": 0.2, "validation": 0.2, "seed": 0},
        ),
        frozenset({"worth_training", "learnable"}),
    ),
    KnownWorld(
        "constant-label",
        "every row is red, though the spec has two labels",
        "stop",
        made(ORDER, lambda: unrelated_labels(rows_of(ORDER), 1.0, LABELS)),
        frozenset({"enough_per_label"}),
    ),
    KnownWorld(
        "constant-text",
        "free text, and every row has the same answer",
        "stop",
        made(NAMED, lambda: [{**row, "completion": WORDS[0]} for row in rows_of(NAMED)]),
        frozenset({"learnable", "worth_training"}),
    ),
    KnownWorld(
        "by-file",
        "every row of one file is red and of the other blue; the texts do not tell the files apart",
        "stop",
        _two_files,
        frozenset({"labels_believable", "learnable"}),
    ),
    KnownWorld(
        "swapped-file",
        "one word decides; one of two files, 120 of 400 rows, has red and blue exchanged",
        "stop",
        swapped_file_world,
        frozenset({"labels_believable"}),
    ),
    KnownWorld(
        "text-shuffled",
        "free text that begins as the question does; answers are shuffled among the rows",
        "stop",
        made(FIRST_WORDS, lambda: shuffled(rows_of(FIRST_WORDS, 1200))),
        frozenset({"learnable"}),
    ),
    KnownWorld(
        "json-shuffled",
        "JSON with a word copied from the question; answers are shuffled among the rows",
        "stop",
        made(FIELD, lambda: shuffled(rows_of(FIELD, 1200))),
        frozenset({"learnable"}),
    ),
    KnownWorld(
        "base-good",
        "word order; the base model is right as it answers",
        "stop",
        made(ORDER, lambda: rows_of(ORDER), system=ORDER.skill_system),
        frozenset({"worth_training"}),
    ),
    KnownWorld(
        "base-good-restricted",
        "word order; the base model answers `red it is`: right once restricted to the labels",
        "stop",
        made(ORDER, lambda: rows_of(ORDER), system=IN_SENTENCES),
        frozenset({"worth_training"}),
    ),
    KnownWorld(
        "base-good-retrieval",
        "twenty subjects; the base model repeats the answer of the nearest row once it is shown",
        "stop",
        made(SUBJECT_LABELS, lambda: rows_of(SUBJECT_LABELS), system=LIKE_THE_LAST),
        frozenset({"worth_training"}),
    ),
    KnownWorld(
        "one-word",
        "one word decides, which TF-IDF learns at once",
        "stop",
        made(ONE_WORD, lambda: rows_of(ONE_WORD), split={"test": 0.2, "validation": 0.2, "seed": 0}),
        frozenset({"worth_training"}),
    ),
    KnownWorld(
        "leak",
        "ten rows at a time are of one customer, and a broken splitter puts them into several splits",
        "stop",
        independent_split_world,
        frozenset({"no_leakage"}),
    ),
    KnownWorld(
        "overtrained",
        "240 rows whose labels follow from nothing, 40 passes at a high rate, with the checks before training silenced: the "
        "validation loss only rises",
        "stop",
        made(
            ORDER,
            lambda: shuffled(rows_of(ORDER, 240)),
            training={"method": "full", "epochs": 40, "learning_rate": 0.003, "patience": 40},
            gates=FORCED,
        ),
        frozenset({"learned"}),
        warned=frozenset({"not_overfitted"}),
    ),
]
GAINS = frozenset({"beats_baseline", "beats_simple"})
REFUSED = [
    KnownWorld(
        "careless",
        "all labels shuffled and every check before training silenced; only the zero-shot prompt is tried, under which the base "
        "model answers out of form",
        "refuse",
        made(
            ORDER,
            lambda: shuffled(rows_of(ORDER)),
            system=OUT_OF_FORM,
            data=ANY_NOISE,
            gates=FORCED,
            baseline={"shots": [0], "retrieved": 0, "max_new_tokens": 6, "batch_size": 8},
        ),
        GAINS,
    ),
    KnownWorld(
        "swapped-training",
        "word order; the training process reads red for blue and blue for red",
        "refuse",
        swapped_training_world,
        frozenset({"beats_baseline"}),
        besides=frozenset({"beats_simple"}),
    ),
    KnownWorld(
        "format-breaker",
        "word order; the training process reads `red apple` for `red` in rows with one of two words",
        "refuse",
        broken_form_world,
        frozenset({"format_compliance"}),
        besides=GAINS,
    ),
    KnownWorld(
        "forgetting",
        "word order, all weights at a high rate: learned, but the facts the base knew are gone",
        "refuse",
        forgetting_world,
        frozenset({"general_ability"}),
    ),
    KnownWorld(
        "inside-the-noise",
        "word order with a fifth of the labels wrong; the base model is right but for the rows with one word, 4 in 100",
        "refuse",
        made(ORDER, _shaken_rows, system=SHAKEN),
        frozenset({"beats_baseline"}),
    ),
    KnownWorld(
        "tie-base",
        "base-good, with worth_training silenced: nothing is left to be gained",
        "refuse",
        made(ORDER, lambda: rows_of(ORDER), system=ORDER.skill_system, gates=FORCED),
        frozenset({"beats_baseline"}),
    ),
    KnownWorld(
        "tie-restricted",
        "base-good-restricted, with worth_training silenced: training mends the form alone",
        "refuse",
        made(ORDER, lambda: rows_of(ORDER), system=IN_SENTENCES, gates=FORCED),
        frozenset({"beats_baseline"}),
    ),
    KnownWorld(
        "tie-retrieval",
        "base-good-retrieval, with worth_training silenced",
        "refuse",
        made(SUBJECT_LABELS, lambda: rows_of(SUBJECT_LABELS), system=LIKE_THE_LAST, gates=FORCED),
        frozenset({"beats_baseline"}),
        besides=frozenset({"beats_simple"}),
    ),
    KnownWorld(
        "fragile",
        "word order, learned in small letters only; a third of the perturbed rows come in capitals",
        "refuse",
        made(ORDER, lambda: rows_of(ORDER), robustness={"rows": 60}),
        frozenset({"robust"}),
    ),
    KnownWorld(
        "second-candidate",
        "word order; a champion is in service, and the same training with another seed ties with it",
        "refuse",
        _second_candidate,
        frozenset({"beats_champion"}),
        champion=1,
    ),
]
SIMPLE = frozenset({"beats_simple"})
AMBER = [
    KnownWorld(
        "noisy-word",
        "one word decides, and 18 in 100 labels are wrong: TF-IDF is as right as can be",
        "use_simple",
        made(ONE_WORD, lambda: flipped(rows_of(ONE_WORD), 0.18)),
        SIMPLE,
    ),
    KnownWorld(
        "one-word-forced",
        "one word decides, with worth_training silenced",
        "use_simple",
        made(ONE_WORD, lambda: rows_of(ONE_WORD), gates=FORCED),
        SIMPLE,
    ),
    KnownWorld(
        "tie-commonest",
        "four in five rows are red, and nothing tells which, with `learnable` silenced",
        "use_simple",
        made(ORDER, lambda: unrelated_labels(rows_of(ORDER), 0.8, LABELS), gates=FORCED),
        SIMPLE,
    ),
    KnownWorld(
        "tie-nearest",
        "free text: each of twenty subjects has its word, which the nearest row gives; worth_training silenced",
        "use_simple",
        made(
            SUBJECT_WORDS,
            lambda: rows_of(SUBJECT_WORDS, 600),
            gates=FORCED,
            training={"method": "full", "learning_rate": 0.003},
        ),
        SIMPLE,
    ),
    KnownWorld(
        "within-two",
        "half of the rows name no colour, which words tell; red and blue are shuffled among the others",
        "use_simple",
        made(WITH_NONE, _half_unrelated),
        SIMPLE,
    ),
    KnownWorld(
        "one-class-forced",
        "19 of 20 rows are red and nothing tells which, with the checks before training silenced",
        "use_simple",
        made(ORDER, lambda: unrelated_labels(rows_of(ORDER, 600), 0.95, LABELS), gates=FORCED),
        SIMPLE,
    ),
]


def _clean(name: str, contents: str, task: KnownTask, seed: int, **spec: Any) -> KnownWorld:
    make = made(task, lambda: rows_of(task, seed=seed), seed=seed, **spec)
    return KnownWorld(name, f"{contents} (seed {seed})", "promote", make)


PROMOTED = [
    KnownWorld(
        "tie-allowed",
        "noisy-word with gates.simple: not_worse",
        "promote",
        made(
            ONE_WORD,
            lambda: flipped(rows_of(ONE_WORD, 900), 0.18),
            gates={"simple": "not_worse", "simple_margin": 0.05},
        ),
        says="tie with TF-IDF and logistic regression",
    ),
    KnownWorld(
        "augmented",
        "`fragile` with training.augment: true, which closes the loss",
        "promote",
        made(ORDER, lambda: rows_of(ORDER), robustness={"rows": 60}, training={"augment": True}),
    ),
    KnownWorld(
        "half-shuffled",
        "word order; half of the labels are dealt out anew, so that a quarter is wrong: a warning, and still a sure gain",
        "promote",
        made(ORDER, lambda: shuffled(rows_of(ORDER), 0.5)),
        warned=frozenset({"labels_believable"}),
    ),
    *(_clean(f"clean-order-{seed}", "word order: the colour named last counts", ORDER, seed) for seed in (1, 2)),
    *(_clean(f"clean-negation-{seed}", "negation: the colour without `not` counts", NEGATED, seed) for seed in (3, 4)),
    *(
        _clean(
            f"clean-words-{seed}",
            "160 invented words the base model knows and TF-IDF hardly sees",
            INVENTED_WORDS,
            seed,
        )
        for seed in (5, 6)
    ),
    *(_clean(f"clean-text-{seed}", "free text: the word behind `named` is copied", NAMED, seed) for seed in (7, 8)),
    *(_clean(f"clean-json-{seed}", "JSON: the word behind `named` is copied into it", FIELD, seed) for seed in (9, 10)),
]
WORLDS = {world.name: world for world in (*STOPPED, *REFUSED, *AMBER, *PROMOTED)}
