"""Worlds in which the right verdict is known, each with what is in it, and what the pipeline has to say.

A world is a project on the real graph (planted_world.py) whose rows, settings or processes are made so that only one verdict
can be right. All worlds share one base model (verdict_base.py); which skill or habit of it a world meets, the system prompt
says. The worlds themselves are in verdict_list.py and worlds_to_stop.py.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.planted_world import ROWS, Outcome, World, run
from benchmarks.verdict_tasks import NONE, ORDER, KnownTask, shaken_text
from finetune_pipeline_tests.skilled_model import LABELS, WORDS, other_label

FORCED = {"learnable": "warn", "worth_training": "warn"}
"""Gates of somebody who will train whatever the checks before it say."""
ANY_NOISE = {"min_examples": 60, "min_per_label": 20, "max_label_noise": 1.0}
Verdict = Literal["stop", "refuse", "use_simple", "promote"]
RawRow = dict[str, Any]
Make = Callable[[Path, Path], World]
"""(folder to work in, base model) to a world that is ready for the run that is judged."""


@dataclass(frozen=True)
class KnownWorld:
    """A world and the verdict that is right in it.

    Attributes:
        name: For --only.
        contents: What is in it, for people.
        verdict: `stop`: a blocking check ends the graph before the sealed test is opened. `refuse`: gates say no.
            `use_simple`: only beats_simple says no. `promote`: `champion` moves to the new version.
        make: Makes it ready.
        reasons: Blocking checks (stop) or gates (refuse, use_simple), of which at least one must say no.
        besides: Further ones that may say no as well.
        warned: Checks that must say no without stopping anything.
        champion: Version in service after a run that promoted nothing; None for none.
        says: Words the verdict must hold.
    """

    name: str
    contents: str
    verdict: Verdict
    make: Make
    reasons: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    champion: int | None = None
    says: str = ""

    def expected(self) -> str:
        """The right verdict and its reasons, in a few words."""
        return _in_words(self.verdict, self.reasons)


@dataclass(frozen=True)
class Given:
    """What the pipeline said of a world.

    Attributes:
        verdict: `failed`: a step broke, or the exit code fits no verdict.
        reasons: Blocking checks or gates that said no.
    """

    verdict: Verdict | Literal["failed"]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return _in_words(self.verdict, self.reasons)


def given(outcome: Outcome) -> Given:
    """Read the verdict from what a run told: its exit code, its checks, its decision, and where `champion` is."""
    stops, gates = (tuple(check.name for check in outcome.no(kind)) for kind in ("blocks", "gate"))
    if outcome.code == 0 and outcome.promoted and outcome.decision == "promote":
        return Given("promote", gates)
    if outcome.code != 2 or outcome.promoted or outcome.failed:
        return Given("failed", stops + gates)
    if stops:
        return Given("stop", stops)
    if outcome.decision in ("refuse", "use_simple"):
        return Given(outcome.decision, gates)
    return Given("failed", gates)


def problems(world: KnownWorld, outcome: Outcome) -> list[str]:
    """What is wrong with a verdict; empty where it is right."""
    said = given(outcome)
    found = []
    if said.verdict != world.verdict:
        found.append(f"the verdict is {said}")
    if world.verdict != "promote" and not set(said.reasons) & set(world.reasons):
        found.append("the reason is not named")
    if unexpected := set(said.reasons) - {*world.reasons, *world.besides}:
        found.append(f"{', '.join(sorted(unexpected))} should not have said no")
    if missing := set(world.warned) - {check.name for check in outcome.no()}:
        found.append(f"{', '.join(sorted(missing))} should have warned")
    if world.verdict != "promote" and outcome.champion != world.champion:
        found.append(f"champion is {outcome.champion}")
    if world.says not in outcome.verdict:
        found.append(f"the verdict does not say: {world.says}")
    return found


def _in_words(verdict: str, reasons: tuple[str, ...]) -> str:
    return f"{verdict}: {', '.join(sorted(reasons))}" if reasons else verdict


def made(
    task: KnownTask,
    change: Callable[[list[RawRow]], list[RawRow]] = list,
    *,
    rows: int = ROWS,
    seed: int = 0,
    system: str | None = None,
    **spec: Any,
) -> Make:
    """How to make a world of a task's rows.

    Args:
        task: Its output and system prompt are the world's.
        change: What becomes of the rows.
        rows: How many there are.
        seed: Of rows, split and training.
        system: A system prompt in place of the task's, for another habit of the base model.
        **spec: Further settings; those of `training` are added to planted_world.CLEAN.
    """
    settings: dict[str, Any] = {"output": task.output, "ability": {"suite": False}, **spec}

    def make(folder: Path, base: Path) -> World:
        world = World(folder, base, seed, system_prompt=system or task.system, **settings)
        world.write_rows(change(task.raw_rows(seed, rows)))
        return world

    return make


def shuffled(rows: list[RawRow], share: float = 1.0) -> list[RawRow]:
    """The answers of a share of the rows dealt out anew among these rows; some get the answer they had."""
    rng, answer = random.Random(1), list(rows[0])[-1]
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    dealt = rng.sample([rows[i][answer] for i in chosen], len(chosen))
    changed = [dict(row) for row in rows]
    for i, value in zip(chosen, dealt, strict=True):
        changed[i][answer] = value
    return changed


def flipped(rows: list[RawRow], share: float) -> list[RawRow]:
    """A share of the rows, drawn at random, with the other colour as label."""
    rng = random.Random(2)
    return [{**row, "label": other_label(row["label"])} if rng.random() < share else row for row in rows]


def unrelated(rows: list[RawRow], first_share: float) -> list[RawRow]:
    """Red and blue have nothing to do with the texts: so large a share of the rows is red."""
    rng = random.Random(4)
    return [{**row, "label": LABELS[rng.random() >= first_share]} for row in rows]


def by_file(folder: Path, base: Path) -> World:
    """All rows of one file are red and all of the other blue, whatever the texts say."""
    world = World(folder, base)
    for seed, (label, name) in enumerate(zip(LABELS, ("a.jsonl", "b.jsonl"), strict=True)):
        world.write_rows([{**row, "label": label} for row in ORDER.raw_rows(seed, ROWS // 2)], name)
    return world


def shaken(rows: list[RawRow]) -> list[RawRow]:
    """A few rows hold the word that shakes the base model, and a fifth of all labels is wrong."""
    rng = random.Random(3)
    changed = [{**row, "text": shaken_text(rng, row["text"])} if rng.random() < 0.04 else row for row in rows]
    return flipped(changed, 0.2)


def colours_shuffled(rows: list[RawRow]) -> list[RawRow]:
    """Of three labels two are shuffled among themselves."""
    colours = iter(shuffled([row for row in rows if row["label"] != NONE]))
    return [row if row["label"] == NONE else next(colours) for row in rows]


def one_answer(rows: list[RawRow]) -> list[RawRow]:
    """All rows have the same answer."""
    return [{**row, "completion": WORDS[0]} for row in rows]


def second_candidate(folder: Path, base: Path) -> World:
    """A champion in service, and then the same training with another seed."""
    world = made(ORDER)(folder, base)
    if not run(world).promoted:
        raise RuntimeError("the first candidate should have been promoted")
    world.write_spec(training={**world.spec["training"], "seed": 1})
    return world
