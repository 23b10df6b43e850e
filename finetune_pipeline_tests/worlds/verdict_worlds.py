"""Worlds: projects in which the right verdict is known, how their rows are made, and how a verdict is judged.

A world is a project on the real graph (planted_world.py) whose rows, settings or processes leave only one right verdict. All
worlds share one base model (verdict_tasks.py); its system prompt decides how that behaves. The worlds themselves are in
verdict_list.py and worlds_to_stop.py.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_pipeline.baseline.decision import DECISIONS
from finetune_pipeline_tests.skilled_model import LABELS, WORDS, other_label
from finetune_pipeline_tests.worlds.planted_world import ROWS, Outcome, World, run
from finetune_pipeline_tests.worlds.verdict_tasks import (
    NONE,
    ORDER,
    UNHEARD_WORDS,
    KnownTask,
    shaken_text,
    write_synonyms,
)

FORCED = {"learnable": "warn", "worth_training": "warn"}
"""Gates of a user who trains whatever the checks before training say."""
WANT_OF_ROWS = ("Even without a single", "are needed", "No finite test")
"""Words of gates that refuse because the test is too small."""
ANY_NOISE = {"min_examples": 60, "min_per_label": 20, "max_label_noise": 1.0}
Verdict = Literal["stop", "refuse", "ship_simple", "ship_prompt", "promote"]
RawRow = dict[str, Any]
Make = Callable[[Path, Path], World]
"""From (folder to work in, base model) to a world that is ready for the run that is judged."""


@dataclass(frozen=True)
class KnownWorld:
    """A world and the verdict that is right in it.

    Attributes:
        contents: A description.
        verdict: `stop`: a blocking check ends the graph before the sealed test is opened. `refuse`: gates say no.
            `ship_simple`, `ship_prompt`: gates say no, or nothing is trained, and something simpler is shipped. `promote`:
            `champion` moves to the fine-tuned model.
        reasons: Blocking checks (stop) or gates (refuse, ship_simple, ship_prompt), of which at least one must fail; none where
            a model is promoted, or nothing is trained.
        besides: Further ones that may fail as well.
        warned: Checks that must fail without stopping anything.
        champion: Version in service after a run that promoted nothing.
        expected_text: Words that the verdict must hold.
    """

    name: str
    contents: str
    verdict: Verdict
    make: Make
    reasons: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    champion: int | None = None
    expected_text: str = ""

    def expected(self) -> str:
        """The right verdict and its reasons."""
        return _in_words(self.verdict, self.reasons)


@dataclass(frozen=True)
class GivenVerdict:
    """The pipeline's verdict.

    Attributes:
        verdict: `failed`: a step failed, or the exit code fits no verdict.
        reasons: Blocking checks or gates that failed.
    """

    verdict: Verdict | Literal["failed"]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return _in_words(self.verdict, self.reasons)


def given_verdict(outcome: Outcome) -> GivenVerdict:
    """Read the verdict from a run's exit code, checks and decision, and from where `champion` is."""
    stops, gates = (tuple(check.name for check in outcome.failed_checks(kind)) for kind in ("blocks", "gate"))
    if outcome.code == 0 and outcome.promoted and outcome.decision == "promote":
        return GivenVerdict("promote", gates)
    if outcome.code == 0 and outcome.promoted and outcome.decision in ("ship_simple", "ship_prompt"):
        return GivenVerdict(outcome.decision, gates)
    if outcome.code != 2 or outcome.promoted or outcome.failed_steps:
        return GivenVerdict("failed", stops + gates)
    if stops:
        return GivenVerdict("stop", stops)
    if outcome.decision == "refuse":
        return GivenVerdict("refuse", gates)
    return GivenVerdict("failed", gates)


def problems_of(world: KnownWorld, outcome: Outcome) -> list[str]:
    """What is wrong with a verdict; empty if it is right."""
    given = given_verdict(outcome)
    problems = []
    if given.verdict != world.verdict:
        problems.append(f"the verdict is {given}")
    if world.reasons and not set(given.reasons) & set(world.reasons):
        problems.append("the reason is not named")
    if unexpected := set(given.reasons) - {*world.reasons, *world.besides}:
        problems.append(f"{', '.join(sorted(unexpected))} should not have failed")
    if missing := set(world.warned) - {check.name for check in outcome.failed_checks()}:
        problems.append(f"{', '.join(sorted(missing))} should have warned")
    if world.verdict in ("stop", "refuse") and outcome.champion != world.champion:
        problems.append(f"champion is {outcome.champion}")
    problems += advice_problems(outcome)
    if world.expected_text not in outcome.verdict:
        problems.append(f"the verdict does not hold: {world.expected_text}")
    return problems


def advice_problems(outcome: Outcome) -> list[str]:
    """What is wrong with the advice before training: a "no" that the run refutes, or a "yes" although a gate then refuses for want
    of rows."""
    problems = []
    if outcome.promoted and outcome.decision == "promote" and DECISIONS.get(outcome.advice or "", "").startswith("No"):
        problems.append(f"the advice was no ({outcome.advice}), and the model was promoted")
    too_few = [check.name for check in outcome.failed_checks("gate") if any(w in check.message for w in WANT_OF_ROWS)]
    if outcome.advice == "fine_tune" and too_few:
        problems.append(f"the advice was yes, and {', '.join(too_few)} lacked rows")
    return problems


def _in_words(verdict: str, reasons: tuple[str, ...]) -> str:
    return f"{verdict}: {', '.join(sorted(reasons))}" if reasons else verdict


def world_of(
    task: KnownTask,
    change: Callable[[list[RawRow]], list[RawRow]] = list,
    *,
    rows: int = ROWS,
    seed: int = 0,
    system: str | None = None,
    **spec: Any,
) -> Make:
    """Return a function that makes a world of a task's rows.

    Args:
        task: Gives the output and the system prompt.
        change: Applied to the rows.
        rows: Number of rows.
        seed: Of rows, split and training.
        system: A system prompt in place of the task's, for another behaviour of the base model.
        **spec: Further settings; those of `training` are added to planted_world.CLEAN.
    """
    settings: dict[str, Any] = {"output": task.output, "ability": {"suite": False}, **spec}

    def make(folder: Path, base: Path) -> World:
        world = World(folder, base, seed, system_prompt=system or task.system, **settings)
        world.write_rows(change(task.raw_rows(seed, rows)))
        return world

    return make


def shuffled(rows: list[RawRow], share: float = 1.0) -> list[RawRow]:
    """Shuffle the answers of a share of the rows among these rows; some get the answer they had."""
    rng, answer = random.Random(1), list(rows[0])[-1]
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    dealt = rng.sample([rows[i][answer] for i in chosen], len(chosen))
    changed = [dict(row) for row in rows]
    for i, value in zip(chosen, dealt, strict=True):
        changed[i][answer] = value
    return changed


def flipped(rows: list[RawRow], share: float) -> list[RawRow]:
    """Give a random share of the rows the other colour as label."""
    rng = random.Random(2)
    return [{**row, "label": other_label(row["label"])} if rng.random() < share else row for row in rows]


def unrelated(rows: list[RawRow], first_share: float) -> list[RawRow]:
    """Draw labels independent of the texts; a share of `first_share` is red."""
    rng = random.Random(4)
    return [{**row, "label": LABELS[rng.random() >= first_share]} for row in rows]


def by_file(folder: Path, base: Path) -> World:
    """All rows of one file are red and all of the other blue, whatever the texts hold."""
    world = World(folder, base)
    for seed, (label, name) in enumerate(zip(LABELS, ("a.jsonl", "b.jsonl"), strict=True)):
        world.write_rows([{**row, "label": label} for row in ORDER.raw_rows(seed, 500)], name)
    return world


def shaken(rows: list[RawRow]) -> list[RawRow]:
    """A few rows hold SHAKEN_BY, and a fifth of all labels is wrong."""
    rng = random.Random(3)
    changed = [{**row, "text": shaken_text(rng, row["text"])} if rng.random() < 0.04 else row for row in rows]
    return flipped(changed, 0.2)


def colours_shuffled(rows: list[RawRow]) -> list[RawRow]:
    """Shuffle the two colours among themselves; the third label stays."""
    colours = iter(shuffled([row for row in rows if row["label"] != NONE]))
    return [row if row["label"] == NONE else next(colours) for row in rows]


def synonyms_world(folder: Path, base: Path) -> World:
    """The sentence encoder knows words that nothing else ever saw."""
    encoder = folder / "encoder"
    baseline = {"shots": [0, 2], "max_new_tokens": 6, "batch_size": 8, "encoder": str(encoder)}
    world = world_of(UNHEARD_WORDS, gates=FORCED, baseline=baseline)(folder, base)
    write_synonyms(encoder, (row["text"] for row in UNHEARD_WORDS.raw_rows(0, ROWS)))
    return world


def one_answer(rows: list[RawRow]) -> list[RawRow]:
    """Give all rows the same answer."""
    return [{**row, "completion": WORDS[0]} for row in rows]


def second_candidate(folder: Path, base: Path) -> World:
    """Promote a champion, then prepare the same training with another seed."""
    world = world_of(ORDER)(folder, base)
    if not run(world).promoted:
        raise RuntimeError("the first candidate should have been promoted")
    world.write_spec(training={**world.spec["training"], "seed": 1})
    return world
