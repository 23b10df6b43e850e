"""Faults planted into whole runs of a little task: each must be named by the gate or check whose job it is, and stopped.

    python -m benchmarks.planted_evidence DIR [--only leaked,judge,…] [--clean 10]

Everything is the real thing: `finetune run` with its child processes, Dagster and MLflow on SQLite, on a model of two layers
that was taught its form and some facts (planted_world.py). A fault is stopped when the exit code is 2 and `champion` is
where it was. What was told is read from Dagster's event log, and of failed answers from the predictions. Then as many clean
runs, each with rows, split and training of a seed of its own: each must be promoted, with no blocking check and no gate
against it. Exit code 1 if a fault passed, was named by another check than its own alone, or a clean run was stopped.
"""

import argparse
import json
import random
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.planted_world import (
    ROWS,
    TASK,
    Outcome,
    Serving,
    World,
    broken_form_world,
    forgetting_world,
    independent_split_world,
    run,
    swapped_file_world,
    swapped_training_world,
)
from finetune_pipeline.data.examples import seal_key, unseal
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.evaluation.correctness import is_right
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline.steps.data import SCRUBBING_KEY
from finetune_pipeline_tests.judge_minds import judge_mind, right
from finetune_pipeline_tests.openai_server import openai_server
from finetune_pipeline_tests.skilled_model import LABELS, WORDS, make_skilled_model, other_label, raw_rows

CLEAN_RUNS = 10


@dataclass(frozen=True)
class Planted:
    """One fault and what came of it. named: the check, gate or error whose job it is; more: what else was verified, with whether it
    held."""

    fault: str
    how: str
    named: str
    outcome: Outcome
    more: tuple[str, bool] = ("", True)

    @property
    def stopped(self) -> bool:
        return self.outcome.code in (1, 2) and not self.outcome.promoted

    @property
    def good(self) -> bool:
        asked = self.outcome.of(self.named)
        is_named = not asked.passed if asked else any(f"[{self.named}]" in text for _, text in self.outcome.failed)
        return self.stopped and is_named and self.more[1]


Make = Callable[[Path, Path], Iterator[Planted]]
"""(folder to work in, base model) to what came of a kind of fault."""


def leaked(folder: Path, base: Path) -> Iterator[Planted]:
    """Test rows among the training rows: put in by hand behind a certificate that is made to fit, and by a bad splitter."""
    world = World(folder / "tampered", base)
    run(world)
    splits = world.artifact("splits")
    key = seal_key(load_key(world.home / "artifacts" / SCRUBBING_KEY))
    test = [json.loads(line) for line in unseal((splits / "test" / "sealed.jsonl").read_bytes(), key).splitlines()]
    train = splits / "train" / "examples.jsonl"
    with train.open("a") as file:
        for i, row in enumerate(test[:12]):
            row["id"] = f"{i:016x}"
            turn = next(m for m in row["messages"] if m["role"] == "user")
            turn["content"] = turn["content"].upper() if i % 2 else f"{turn['content']} please"
            file.write(json.dumps(row) + "\n")
    certificate = read_json(splits / "leakage.json")
    certificate["files"]["train"] = digest_file(train)
    write_json(splits / "leakage.json", certificate)
    world.write_spec(training={**world.spec["training"], "seed": 99})
    yield Planted(
        "leaked rows",
        "12 test rows, edited (capitals, a word more), written into the training file after the split, and the "
        "certificate's digest of that file made to fit",
        "artifact.changed",
        run(world),
    )
    yield Planted(
        "leaked rows",
        "a splitter that throws every row on its own, though ten rows at a time are of one customer",
        "no_leakage",
        run(independent_split_world(folder / "splitter", base)),
    )


def overtrained(folder: Path, base: Path) -> Iterator[Planted]:
    """Forty passes over a few rows that have nothing in common to learn."""
    world = World(
        folder / "overtrained",
        base,
        training={"method": "full", "epochs": 40, "learning_rate": 0.003, "patience": 40},
        split={"test": 0.35, "validation": 0.15, "seed": 0},
        data={"min_examples": 60, "min_per_label": 20},
        ability={"suite": False},
    )
    rng = random.Random(5)
    rows = [{"text": " ".join(rng.sample(WORDS, 8)), "label": rng.choice(LABELS)} for _ in range(240)]
    world.write_rows(rows)
    outcome = run(world)
    facts = world.facts("adapter")["overfitting"]
    sentence = f"the audit of the curves calls it {facts['verdict']}; its validation loss is lowest at step {facts['best_step']}"
    yield Planted(
        "overtrained model",
        "120 training rows whose labels follow from nothing in the text, 40 passes, a high rate, no "
        "early stop: the training loss falls to nothing, the validation loss rises",
        "not_overfitted",
        outcome,
        (sentence, facts["verdict"] == "overfitted"),
    )


def forgetting(folder: Path, base: Path) -> Iterator[Planted]:
    """All weights, a high rate: the task is learned and the facts are gone."""
    outcome = run(forgetting_world(folder / "forgetting", base))
    yield Planted(
        "forgetting",
        "all weights trained at twice the rate: the task is learned, the facts the base knew are gone",
        "general_ability",
        outcome,
        _task_learned(outcome),
    )


def format_breaker(folder: Path, base: Path) -> Iterator[Planted]:
    """Words behind the label, in a part of the rows, while training only."""
    outcome = run(broken_form_world(folder / "form", base))
    yield Planted(
        "format breaker",
        "the training process reads `red apple` for `red` in the rows that hold `apple`",
        "format_compliance",
        outcome,
        _task_learned(outcome),
    )


def judge(folder: Path, base: Path) -> Iterator[Planted]:
    """A judging model that likes the first place, and one that likes length; then one that is fair must be believed."""
    with openai_server(judge_mind) as server:
        world = World(folder / "judge", base, gates={"min_preferred": 0.5})
        # one label in twenty is wrong, so that people sometimes prefer the base: who always says the same shows no judgement
        world.write_rows(
            [
                {**r, "label": other_label(r["label"]) if i % 20 == 3 else r["label"]}
                for i, r in enumerate(raw_rows(0, ROWS))
            ]
        )
        judge = {"url": server.url, "model": "first", "min_rated": 10}
        world.write_spec(evaluation={"judge": judge})
        run(world)
        _rate(world)
        for mind, how in (("first", "says `first` whatever stands there"), ("long", "prefers the longer answer")):
            world.write_spec(evaluation={"judge": {**judge, "model": mind}})
            outcome = run(world)
            gate = outcome.of("judge")
            more = ("the gate judge says no as well", gate is not None and not gate.passed)
            yield Planted("biased judge", f"a judge that {how}", "judge_believed", outcome, more)
        world.write_spec(evaluation={"judge": {**judge, "model": "fair"}})
        yield Planted("(none: a fair judge)", "the same run with a judge that agrees with people", "", run(world))


def _rate(world: World) -> None:
    """Somebody rates the answers: what is right is accepted."""
    sheet = world.root / "sheet.jsonl"
    world.finetune("review", TASK, "--table", str(sheet), "--items", "100", "--json")
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    for row in rows:
        good = {side: right(row["reference"], row[f"answer_{side.lower()}"]) for side in "AB"}
        choice = "both" if all(good.values()) else next((s for s in good if good[s]), "neither")
        row |= {"choice": choice, "rater": "Ada"}
    sheet.write_text("".join(json.dumps(r) + "\n" for r in rows))
    world.finetune("review", TASK, "--items", "100", "--take", str(sheet), "--json")


def label_swap(folder: Path, base: Path) -> Iterator[Planted]:
    """The two labels exchanged: in all training rows behind the split's back, and in one of two raw files."""
    yield Planted(
        "label swap, all rows",
        "the training process reads red for blue and blue for red in every row",
        "beats_baseline",
        run(swapped_training_world(folder / "swapped", base)),
    )
    yield Planted(
        "label swap, a share",
        "one of two raw files, 120 of 400 rows, has the two labels exchanged; one word decides",
        "labels_believable",
        run(swapped_file_world(folder / "share", base)),
    )


def failed(folder: Path, base: Path) -> Iterator[Planted]:
    """Answers that raise, stay empty or do not come in time, and the same served without a fault."""
    for fault, status, named, how in (
        ("empty", "empty", "format_compliance", "one test row in eight: the candidate's answer ends before it begins"),
        ("exception", "error", "all_rows_predicted", "one test row in eight: writing the candidate's answer raises"),
    ):
        world = World(folder / fault, base)
        world.fault = fault
        yield Planted(f"failed generation: {fault}", how, named, run(world), _counted(world, status))
    yield from _served(folder, base)


def _served(folder: Path, base: Path) -> Iterator[Planted]:
    """The models behind an endpoint, which is silent for some rows; then it answers all of them."""
    world = World(folder / "timeout", base)
    asked = Serving(world)
    with openai_server(asked.answer) as server:
        server.models = lambda: sorted(asked.folders())
        there = {"url": server.url, "base": "base", "candidate": "tuned-{version}", "timeout": 3.0}
        world.write_spec(evaluation={"engine": "endpoint", "endpoint": there})
        asked.silent = True
        outcome = run(world)
        how = "one test row in eight: the endpoint that serves the candidate says nothing for longer than its limit"
        yield Planted("failed generation: timeout", how, "all_rows_predicted", outcome, _counted(world, "error"))
        asked.silent = False
        world.write_spec(evaluation={"engine": "endpoint", "endpoint": {**there, "timeout": 60.0}})
        yield Planted("(none: it answers)", "the same models served by an endpoint that answers", "", run(world))


def _counted(world: World, status: str) -> tuple[str, bool]:
    """What became of the candidate's rows of this status: none may be right, and none may repeat the question."""
    rows = of_model(read_predictions(world.artifact("test_predictions") / "predictions.parquet"), "candidate")
    asked = read_test_rows(world.artifact("test_predictions")).texts
    output = LabelsOutput(kind="labels", labels=LABELS)
    bad = [row for row in rows if row["status"] == status]
    taken = sum(is_right(row, output) for row in bad)
    echoed = sum(row["text"] == asked[row["example_id"]] for row in bad)
    others = sum(is_right(row, output) for row in rows if row["status"] == "ok")
    sentence = f"{len(bad)} of {len(rows)} answers have the status {status}; of these {taken} count as right and {echoed} repeat "
    sentence += f"the question; {others} of the other {len(rows) - len(bad)} are right"
    return sentence, len(bad) > 0 and not taken and not echoed and others > 0.9 * (len(rows) - len(bad))


def _task_learned(outcome: Outcome) -> tuple[str, bool]:
    """That the gain was shown: without its fault this candidate would have been taken."""
    asked = outcome.of("beats_baseline")
    return "beats_baseline says yes: " + (asked.message if asked else "not asked"), asked is not None and asked.passed


FAULTS: dict[str, Make] = {
    "leaked": leaked,
    "overtrained": overtrained,
    "forgetting": forgetting,
    "format": format_breaker,
    "judge": judge,
    "swap": label_swap,
    "failed": failed,
}


def clean(folder: Path, base: Path, seed: int) -> tuple[World, Outcome]:
    """A run without a fault, with rows, split and training of this seed."""
    world = World(folder / f"clean{seed}", base, seed)
    return world, run(world)


def promoted(outcome: Outcome) -> bool:
    """Whether a clean run was let through by everything."""
    return outcome.code == 0 and outcome.promoted and not outcome.no("blocks") and not outcome.no("gate")


def show(planted: Planted) -> None:
    """One row of the table."""
    outcome, asked = planted.outcome, planted.outcome.of(planted.named)
    print(f"\n{planted.fault}")
    _line("planted", planted.how)
    if planted.named:
        by = f"({asked.kind} {asked.asset}): {asked.message}" if asked else "(an error of the step below)"
        _line("named by", f"{planted.named} {by}")
    if planted.more[0]:
        _line("besides", planted.more[0] + ("" if planted.more[1] else "   NOT AS IT SHOULD BE"))
    others = [c for c in outcome.no() if c.name != planted.named and c.kind != "warns"]
    if others:
        _line("also no", ", ".join(f"{c.name} ({c.kind})" for c in others))
    for step, message in outcome.failed:
        _line("step failed", f"{step}: {message}")
    if planted.named:
        _line("stopped", f"{'yes' if planted.stopped else 'NO'}: {_ends(outcome)}")
    else:
        _line("promoted", f"{'yes' if promoted(outcome) else 'NO'}: {_ends(outcome)}")


def _ends(outcome: Outcome) -> str:
    stops = [c.name for c in outcome.no("blocks")]
    where = f"; the graph ends at {stops[0]}" if stops else ""
    champion = f"champion is version {outcome.champion}" if outcome.champion else "there is no champion"
    return f"exit code {outcome.code}{where}; {champion}{' now' if outcome.promoted else ''}"


def _line(head: str, text: str) -> None:
    print(textwrap.fill(f"{head:<12}{text}", 120, initial_indent="    ", subsequent_indent=" " * 16))


def main() -> int:
    """Plant everything, run clean, print the table."""
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--only", default=",".join(FAULTS), help="Kinds of faults; empty: none.")
    options.add_argument("--clean", type=int, default=CLEAN_RUNS, help="Clean runs.")
    arguments = options.parse_args()
    folder = arguments.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        print(f"{folder} is not empty", file=sys.stderr)
        return 1
    began = time.monotonic()
    base = make_skilled_model(folder / "base")
    rows: list[Planted] = []
    for name in filter(None, arguments.only.split(",")):
        for planted in FAULTS[name](folder, base):
            rows.append(planted)
            show(planted)
            sys.stdout.flush()
    faults, controls = [p for p in rows if p.named], [p for p in rows if not p.named]
    print("\nclean runs\n    seed  exit  promoted  warnings  what the gain was")
    stopped = 0
    for seed in range(1, arguments.clean + 1):
        _, outcome = clean(folder, base, seed)
        gain = outcome.of("beats_baseline")
        good = promoted(outcome)
        stopped += not good
        warned = ", ".join(c.name for c in outcome.no("warns")) or "none"
        print(
            f"    {seed:>4}  {outcome.code:>4}  {'yes' if good else 'NO':<8}  {warned:<8}  {gain.message if gain else ''}"
        )
        for asked in [] if good else [*outcome.no("blocks"), *outcome.no("gate")]:
            _line("against it", f"{asked.name}: {asked.message}")
        sys.stdout.flush()
    passed = [p.fault for p in faults if not p.good]
    held = [p.fault for p in controls if not promoted(p.outcome)]
    print(
        f"\n{len(faults) - len(passed)} of {len(faults)} planted faults named and stopped; {stopped} of {arguments.clean} clean "
        f"runs and {len(held)} of {len(controls)} runs beside a fault stopped; {time.monotonic() - began:.0f} s"
    )
    for fault in [*passed, *held]:
        print(f"    not as it should be: {fault}")
    return 1 if passed or held or stopped else 0


if __name__ == "__main__":
    sys.exit(main())
