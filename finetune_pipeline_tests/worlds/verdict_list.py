"""The worlds of verdicts.py, each with the only right verdict."""

from functools import partial

from finetune_pipeline_tests.worlds.planted_world import broken_form_world, forgetting_world, swapped_training_world
from finetune_pipeline_tests.worlds.verdict_tasks import (
    FIELD,
    IN_SENTENCES,
    INVENTED_FIELD,
    INVENTED_WORDS,
    LIKE_THE_LAST,
    NAMED,
    NEGATED,
    ONE_WORD,
    ORDER,
    OUT_OF_FORM,
    SHAKEN,
    SUBJECT_LABELS,
    SUBJECT_WORDS,
    WITH_NONE,
)
from finetune_pipeline_tests.worlds.verdict_worlds import (
    ANY_NOISE,
    FORCED,
    KnownWorld,
    colours_shuffled,
    flipped,
    second_candidate,
    shaken,
    shuffled,
    synonyms_world,
    unrelated,
    world_of,
)
from finetune_pipeline_tests.worlds.worlds_to_stop import STOPPED

ZERO_SHOT = {"shots": [0], "retrieved": 0, "max_new_tokens": 6, "batch_size": 8}
"""Only one prompt: examples would show the base model which answer is the most frequent."""
GAINS = ("beats_baseline", "beats_simple", "beats_commonest")
SIMPLE = ("beats_simple",)
REFUSED = [
    KnownWorld(
        "careless",
        "all labels shuffled and every check before training silenced; only the zero-shot prompt is tried, under which the base "
        "model answers in the wrong format",
        "refuse",
        world_of(ORDER, shuffled, system=OUT_OF_FORM, data=ANY_NOISE, gates=FORCED, baseline=ZERO_SHOT),
        GAINS,
    ),
    KnownWorld(
        "swapped-training",
        "word order; the training process reads red for blue and blue for red, the simple models read the rows as they are",
        "ship_simple",
        swapped_training_world,
        ("beats_baseline",),
        besides=("beats_simple", "beats_commonest"),
    ),
    KnownWorld(
        "format-breaker",
        "word order; the training process reads `red apple` for `red` in a tenth of the rows",
        "refuse",
        broken_form_world,
        ("format_compliance",),
        besides=GAINS,
    ),
    KnownWorld(
        "few-test-rows",
        "word order, learned from 1,000 rows; the test has fewer than the 73 rows that format_compliance needs",
        "refuse",
        world_of(ORDER, rows=1000, split={"test": 0.05, "validation": 0.1, "seed": 0}),
        ("format_compliance",),
        besides=GAINS,
    ),
    KnownWorld(
        "forgetting",
        "word order, all weights at a high rate: learned, but the facts the base knew are gone",
        "refuse",
        forgetting_world,
        ("general_ability",),
    ),
    KnownWorld(
        "fragile",
        "word order, learned in lower case only: rows in capitals are lost",
        "refuse",
        world_of(ORDER, robustness={"rows": 60}),
        ("robust",),
    ),
    KnownWorld(
        "second-candidate",
        "word order; a champion is in service, and the same training with another seed ties with it",
        "refuse",
        second_candidate,
        ("beats_champion",),
        champion=1,
    ),
    KnownWorld(
        "tie-commonest",
        "four in five rows are red, whatever their texts, with `learnable` silenced; the base model guesses",
        "refuse",
        world_of(ORDER, partial(unrelated, first_share=0.8), gates=FORCED, baseline=ZERO_SHOT),
        ("beats_commonest",),
        besides=SIMPLE,
    ),
    KnownWorld(
        "one-class-forced",
        "19 of 20 rows are red, whatever their texts, with the checks before training silenced",
        "refuse",
        world_of(ORDER, partial(unrelated, first_share=0.95), rows=600, gates=FORCED, baseline=ZERO_SHOT),
        ("beats_commonest",),
        besides=SIMPLE,
    ),
]
SHIPPED_SIMPLE = [
    KnownWorld(
        "base-good-retrieval",
        "twenty subjects; the base model repeats the answer of the nearest row, where that is shown",
        "ship_simple",
        world_of(SUBJECT_LABELS, system=LIKE_THE_LAST),
        warned=("worth_training",),
    ),
    KnownWorld(
        "one-word",
        "one word decides, which TF-IDF learns",
        "ship_simple",
        world_of(ONE_WORD, split={"test": 0.2, "validation": 0.2, "seed": 0}),
        warned=("worth_training",),
    ),
    KnownWorld(
        "noisy-word",
        "one word decides, and 18 in 100 labels are wrong: TF-IDF cannot be beaten",
        "ship_simple",
        world_of(ONE_WORD, partial(flipped, share=0.18)),
        SIMPLE,
    ),
    KnownWorld(
        "one-word-forced",
        "one word decides, with worth_training silenced",
        "ship_simple",
        world_of(ONE_WORD, gates=FORCED),
        SIMPLE,
    ),
    KnownWorld(
        "tie-nearest",
        "free text: each of twenty subjects has its word, which the nearest row gives; worth_training silenced",
        "ship_simple",
        world_of(SUBJECT_WORDS, rows=600, gates=FORCED, training={"method": "full", "learning_rate": 0.003}),
        SIMPLE,
    ),
    KnownWorld(
        "within-two",
        "half of the rows name no colour, which a word count shows; red and blue are shuffled among the others",
        "ship_simple",
        world_of(WITH_NONE, colours_shuffled),
        SIMPLE,
    ),
    KnownWorld(
        "tie-retrieval",
        "base-good-retrieval, with worth_training silenced: the nearest row is as good as the prompt that shows it",
        "ship_simple",
        world_of(SUBJECT_LABELS, system=LIKE_THE_LAST, gates=FORCED),
        ("beats_baseline",),
        besides=("beats_simple", "beats_commonest"),
    ),
    KnownWorld(
        "tagger-only",
        "JSON: one of 400 invented words stands behind `named`, which only a span tagger learns from so few rows",
        "ship_simple",
        world_of(INVENTED_FIELD, rows=900, gates=FORCED),
        SIMPLE,
        besides=("beats_baseline", "beats_commonest", "format_compliance", "robust"),
    ),
    KnownWorld(
        "embeddings-only",
        "a word that no other row has and the base model never saw stands for a colour; a sentence encoder knows its synonyms",
        "ship_simple",
        synonyms_world,
        SIMPLE,
        besides=("beats_baseline", "beats_commonest"),
        expected_text="Ship sentence embeddings and logistic regression",
    ),
    KnownWorld(
        "tie-of-all",
        "one word decides, and the base model knows it: TF-IDF, the prompt and the fine-tuned model are all right",
        "ship_simple",
        world_of(ONE_WORD, system=ORDER.skill_system, gates=FORCED),
        SIMPLE,
        besides=("beats_baseline",),
    ),
]
SHIPPED_PROMPT = [
    KnownWorld(
        "base-good",
        "word order; the base model is already right",
        "ship_prompt",
        world_of(ORDER, system=ORDER.skill_system),
        warned=("worth_training",),
    ),
    KnownWorld(
        "base-good-restricted",
        "word order; the base model answers `red it is`: right once restricted to the labels",
        "ship_prompt",
        world_of(ORDER, rows=800, system=IN_SENTENCES),
        warned=("worth_training",),
    ),
    KnownWorld(
        "inside-the-noise",
        "word order with a fifth of the labels wrong; the base model is right but for the rows with one word, 4 in 100",
        "ship_prompt",
        world_of(ORDER, shaken, system=SHAKEN),
        ("beats_baseline",),
    ),
    KnownWorld(
        "tie-base",
        "base-good, with worth_training silenced: there is nothing to gain",
        "ship_prompt",
        world_of(ORDER, system=ORDER.skill_system, gates=FORCED),
        ("beats_baseline",),
    ),
    KnownWorld(
        "tie-restricted",
        "base-good-restricted, with worth_training silenced: training improves only the format",
        "ship_prompt",
        world_of(ORDER, system=IN_SENTENCES, gates=FORCED),
        ("beats_baseline",),
    ),
]
CLEAN = (
    (ORDER, (1, 2), "order", "word order: the colour named last counts"),
    (NEGATED, (3, 4), "negation", "negation: the colour without `not` counts"),
    (INVENTED_WORDS, (5, 6), "words", "400 invented words, which the base model knows and TF-IDF hardly sees"),
    (NAMED, (7, 8), "text", "free text: the word behind `named` is copied"),
    (FIELD, (9, 10), "json", "JSON: the word behind `named` is copied into it"),
)
"""Tasks with a real gain, their seeds, name and description."""
PROMOTED = [
    KnownWorld(
        "tie-allowed",
        "noisy-word with gates.simple: not_worse",
        "promote",
        world_of(
            ONE_WORD, partial(flipped, share=0.18), rows=900, gates={"simple": "not_worse", "simple_margin": 0.05}
        ),
        expected_text="ties with TF-IDF and logistic regression",
    ),
    KnownWorld(
        "augmented",
        "`fragile` with training.augment: true, which closes the loss",
        "promote",
        world_of(
            ORDER,
            rows=1200,
            robustness={"rows": 100},
            training={"augment": True, "method": "full", "learning_rate": 0.002},
        ),
    ),
    KnownWorld(
        "half-shuffled",
        "word order; half of the labels are shuffled, so that a quarter is wrong: a warning, and still a significant gain",
        "promote",
        world_of(ORDER, partial(shuffled, share=0.5)),
        warned=("labels_believable",),
    ),
    *(
        KnownWorld(f"clean-{name}-{seed}", f"{contents} (seed {seed})", "promote", world_of(task, seed=seed))
        for task, seeds, name, contents in CLEAN
        for seed in seeds
    ),
]
WORLDS = {world.name: world for world in (*STOPPED, *REFUSED, *SHIPPED_SIMPLE, *SHIPPED_PROMPT, *PROMOTED)}
