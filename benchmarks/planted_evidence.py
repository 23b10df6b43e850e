"""Plant faults into whole runs of a small task: each must be named by its own gate or check, and stopped.

    python -m benchmarks.planted_evidence DIR [--only leaked,judge,…] [--clean 10]

Each run is a real `finetune run` with its child processes, Dagster and MLflow on SQLite, on a model of two layers that was
taught the answer format and some facts (planted_world.py). A fault is stopped when the exit code is not 0 and `champion` did
not move. Check results are read from Dagster's event log, failed answers from the predictions. Then come clean runs, each
with its own seed for rows, split and training: each must be promoted, without a failed blocking check or gate. Exit code 1 if
a fault passed or was not named by its own check, or a clean run was stopped.
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
    ModelEndpoint,
    Outcome,
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
    """A fault and its outcome.

    Attributes:
        how: How it was planted.
        expected: The check, gate or error that must name it; empty for a control without a fault.
        also_verified: Another statement about the run, and whether it held.
    """

    fault: str
    how: str
    expected: str
    outcome: Outcome
    also_verified: tuple[str, bool] = ("", True)

    @property
    def stopped(self) -> bool:
        return self.outcome.code in (1, 2) and not self.outcome.promoted

    @property
    def caught(self) -> bool:
        """Whether the fault was stopped, and named by its own check or error."""
        check = self.outcome.check(self.expected)
        named = (
            not check.passed if check else any(f"[{self.expected}]" in text for _, text in self.outcome.failed_steps)
        )
        return self.stopped and named and self.also_verified[1]


Make = Callable[[Path, Path], Iterator[Planted]]
"""From (folder to work in, base model) to the outcomes of a kind of fault."""


def leaked(folder: Path, base: Path) -> Iterator[Planted]:
    """Test rows in the training split: written there by hand, with the certificate adapted, and put there by a bad splitter."""
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
        "12 test rows, edited (capitals, one more word), written into the training file after the split, and the "
        "certificate's digest of that file updated",
        "artifact.changed",
        run(world),
    )
    yield Planted(
        "leaked rows",
        "a splitter that draws every row on its own, though each customer has ten rows",
        "no_leakage",
        run(independent_split_world(folder / "splitter", base)),
    )


def overtrained(folder: Path, base: Path) -> Iterator[Planted]:
    """Forty epochs over a few rows with random labels."""
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
        "120 training rows with random labels, 40 epochs at a high learning rate without early stopping: the training loss "
        "falls to zero, the validation loss rises",
        "not_overfitted",
        outcome,
        (sentence, facts["verdict"] == "overfitted"),
    )


def forgetting(folder: Path, base: Path) -> Iterator[Planted]:
    """All weights are trained at a high rate: the task is learned, the facts are forgotten."""
    outcome = run(forgetting_world(folder / "forgetting", base))
    yield Planted(
        "forgetting",
        "all weights trained at a high learning rate: the task is learned, the facts the base knew are forgotten",
        "general_ability",
        outcome,
        _task_learned(outcome),
    )


def format_breaker(folder: Path, base: Path) -> Iterator[Planted]:
    """In some of the training rows, a word follows the label."""
    outcome = run(broken_form_world(folder / "form", base))
    yield Planted(
        "format breaker",
        "the training process reads `red apple` for `red` in the rows that hold `apple`",
        "format_compliance",
        outcome,
        _task_learned(outcome),
    )


def judge(folder: Path, base: Path) -> Iterator[Planted]:
    """A judge model that prefers the first place, and one that prefers length; then a fair one, which must be believed."""
    with openai_server(judge_mind) as server:
        world = World(folder / "judge", base, gates={"min_preferred": 0.5})
        # one label in twenty is wrong, so that people sometimes prefer the base: constant ratings could not show agreement
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
        for mind, how in (("first", "always says `first`"), ("long", "prefers the longer answer")):
            world.write_spec(evaluation={"judge": {**judge, "model": mind}})
            outcome = run(world)
            gate = outcome.check("judge")
            also = ("the gate judge fails as well", gate is not None and not gate.passed)
            yield Planted("biased judge", f"a judge that {how}", "judge_believed", outcome, also)
        world.write_spec(evaluation={"judge": {**judge, "model": "fair"}})
        yield Planted("(none: a fair judge)", "the same run with a judge that agrees with people", "", run(world))


def _rate(world: World) -> None:
    """Rate the answers as a reviewer who accepts right ones."""
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
    """The two labels are swapped: in all training rows after the split, and in one of two raw files."""
    yield Planted(
        "label swap, all rows",
        "the training process reads red for blue and blue for red in every row",
        "beats_baseline",
        run(swapped_training_world(folder / "swapped", base)),
    )
    yield Planted(
        "label swap, a share",
        "one of two raw files, 120 of 400 rows, has the two labels swapped; one word decides",
        "labels_believable",
        run(swapped_file_world(folder / "share", base)),
    )


def failed(folder: Path, base: Path) -> Iterator[Planted]:
    """Answers that are empty, raise an error or time out; then the same endpoint without a fault."""
    for fault, status, expected, how in (
        ("empty", "empty", "format_compliance", "one test row in eight: the candidate's answer is empty"),
        ("exception", "error", "all_rows_predicted", "one test row in eight: generating the candidate's answer raises"),
    ):
        world = World(folder / fault, base)
        world.fault = fault
        yield Planted(f"failed generation: {fault}", how, expected, run(world), _failures_count_as_wrong(world, status))
    yield from _timeouts(folder, base)


def _timeouts(folder: Path, base: Path) -> Iterator[Planted]:
    """The models behind an endpoint that is silent for some rows, and then answers all of them."""
    world = World(folder / "timeout", base)
    models = ModelEndpoint(world)
    with openai_server(models.answer) as server:
        server.models = lambda: sorted(models.folders())
        endpoint = {"url": server.url, "base": "base", "candidate": "tuned-{version}", "timeout": 3.0}
        world.write_spec(evaluation={"engine": "endpoint", "endpoint": endpoint})
        models.silent = True
        outcome = run(world)
        how = "one test row in eight: the endpoint that serves the candidate is silent for longer than the timeout"
        also = _failures_count_as_wrong(world, "error")
        yield Planted("failed generation: timeout", how, "all_rows_predicted", outcome, also)
        models.silent = False
        world.write_spec(evaluation={"engine": "endpoint", "endpoint": {**endpoint, "timeout": 60.0}})
        yield Planted("(none: it answers)", "the same models served by an endpoint that answers", "", run(world))


def _failures_count_as_wrong(world: World, status: str) -> tuple[str, bool]:
    """Whether none of the candidate's rows of this status counts as right or repeats the question, in a sentence."""
    rows = of_model(read_predictions(world.artifact("test_predictions") / "predictions.parquet"), "candidate")
    questions = read_test_rows(world.artifact("test_predictions")).texts
    output = LabelsOutput(kind="labels", labels=LABELS)
    failed = [row for row in rows if row["status"] == status]
    right = sum(is_right(row, output) for row in failed)
    echoed = sum(row["text"] == questions[row["example_id"]] for row in failed)
    others, others_right = len(rows) - len(failed), sum(is_right(row, output) for row in rows if row["status"] == "ok")
    sentence = (
        f"{len(failed)} of {len(rows)} answers have the status {status}; of these {right} count as right and {echoed} repeat "
        f"the question; {others_right} of the other {others} are right"
    )
    return sentence, len(failed) > 0 and not right and not echoed and others_right > 0.9 * others


def _task_learned(outcome: Outcome) -> tuple[str, bool]:
    """Whether the gain was shown, so that without its fault this candidate would have been promoted."""
    gate = outcome.check("beats_baseline")
    return "beats_baseline passes: " + (gate.message if gate else "did not run"), gate is not None and gate.passed


FAULTS: dict[str, Make] = {
    "leaked": leaked,
    "overtrained": overtrained,
    "forgetting": forgetting,
    "format": format_breaker,
    "judge": judge,
    "swap": label_swap,
    "failed": failed,
}


def promoted(outcome: Outcome) -> bool:
    """Whether every check and gate let a clean run pass."""
    failed = [*outcome.failed_checks("blocks"), *outcome.failed_checks("gate")]
    return outcome.code == 0 and outcome.promoted and not failed


def print_outcome(planted: Planted) -> None:
    outcome, check = planted.outcome, planted.outcome.check(planted.expected)
    print(f"\n{planted.fault}")
    _line("planted", planted.how)
    if planted.expected:
        by = f"({check.kind} {check.asset}): {check.message}" if check else "(an error of the step below)"
        _line("named by", f"{planted.expected} {by}")
    sentence, held = planted.also_verified
    if sentence:
        _line("besides", sentence + ("" if held else "   NOT AS EXPECTED"))
    others = [c for c in outcome.failed_checks() if c.name != planted.expected and c.kind != "warns"]
    if others:
        _line("also failed", ", ".join(f"{c.name} ({c.kind})" for c in others))
    for step, message in outcome.failed_steps:
        _line("step failed", f"{step}: {message}")
    if planted.expected:
        _line("stopped", f"{'yes' if planted.stopped else 'NO'}: {_end_of(outcome)}")
    else:
        _line("promoted", f"{'yes' if promoted(outcome) else 'NO'}: {_end_of(outcome)}")


def _end_of(outcome: Outcome) -> str:
    stops = [check.name for check in outcome.failed_checks("blocks")]
    where = f"; the graph ends at {stops[0]}" if stops else ""
    champion = f"champion is version {outcome.champion}" if outcome.champion else "there is no champion"
    return f"exit code {outcome.code}{where}; {champion}{' now' if outcome.promoted else ''}"


def _line(head: str, text: str) -> None:
    print(textwrap.fill(f"{head:<12}{text}", 120, initial_indent="    ", subsequent_indent=" " * 16))


def main() -> int:
    """Plant the faults, make the clean runs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty or new folder to work in")
    parser.add_argument("--only", default=",".join(FAULTS), help="kinds of faults; empty: none")
    parser.add_argument("--clean", type=int, default=CLEAN_RUNS, help="number of clean runs")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    began = time.monotonic()
    base = make_skilled_model(folder / "base")
    rows: list[Planted] = []
    for name in filter(None, arguments.only.split(",")):
        for planted in FAULTS[name](folder, base):
            rows.append(planted)
            print_outcome(planted)
            sys.stdout.flush()
    faults, controls = [p for p in rows if p.expected], [p for p in rows if not p.expected]
    print("\nclean runs\n    seed  exit  promoted  warnings  gain")
    stopped = 0
    for seed in range(1, arguments.clean + 1):
        outcome = run(World(folder / f"clean{seed}", base, seed))
        gain, passes = outcome.check("beats_baseline"), promoted(outcome)
        stopped += not passes
        warnings = ", ".join(check.name for check in outcome.failed_checks("warns")) or "none"
        message = gain.message if gain else ""
        print(f"    {seed:>4}  {outcome.code:>4}  {'yes' if passes else 'NO':<8}  {warnings:<8}  {message}")
        for check in [] if passes else [*outcome.failed_checks("blocks"), *outcome.failed_checks("gate")]:
            _line("failed", f"{check.name}: {check.message}")
        sys.stdout.flush()
    missed = [p.fault for p in faults if not p.caught]
    refused = [p.fault for p in controls if not promoted(p.outcome)]
    print(
        f"\n{len(faults) - len(missed)} of {len(faults)} planted faults named and stopped; {stopped} of {arguments.clean} clean "
        f"runs and {len(refused)} of {len(controls)} runs beside a fault stopped; {time.monotonic() - began:.0f} s"
    )
    for fault in [*missed, *refused]:
        print(f"    not as expected: {fault}")
    return 1 if missed or refused or stopped else 0


if __name__ == "__main__":
    sys.exit(main())
