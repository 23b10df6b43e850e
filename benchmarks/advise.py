"""Is the advice right? Advice given before training, against what training then shows on the sealed test, over 15 data sets.

    python benchmarks/advise.py PUBLIC --work FOLDER [--rows 400] [--set NAME …]

PUBLIC holds the public sets, one folder each (see public_sets.py). Every set runs through the real commands with the bundled
model: `finetune advise` (nothing is trained), `finetune ladder` (with a pilot), then `finetune run`, whose sealed test says
whether the fine-tuned model surely beats everything simpler. An advice is right where it says "fine-tune" and training wins,
or "no" and training does not surely win; "not sure" is counted apart. A set that is done is read from FOLDER, so a run that
was stopped goes on. Ends with code 1 where a sure "fine-tune" lost to something simpler.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.example_sets import INTENTS, example_set, with_answer, with_shuffled_answers
from finetune_pipeline.baseline.ladder import OPTIMISED, rung_answers
from finetune_pipeline.data.examples import Example, sample_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import read_by_model
from finetune_pipeline.evaluation.wording import percent, points, points_range
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.rungs import PREDICTIONS

Rows = list[Example]


@dataclass(frozen=True)
class DataSet:
    """One data set. nature: what makes it easy or hard. source: of example_sets.example_set. change: of its rows."""

    nature: str
    source: str
    change: Callable[[Rows], Rows] = list
    share: float = 1.0
    output: dict[str, Any] | None = None


def _ten_intents(rows: Rows) -> Rows:
    wanted = sorted({str(e.label) for e in rows})[:10]
    return [e for e in rows if e.label in wanted]


def _final_number(rows: Rows) -> Rows:
    return [with_answer(e, e.answer.rsplit("####", 1)[-1].strip()) for e in rows]


def _noisy(rows: Rows) -> Rows:
    return with_shuffled_answers(rows, 0.3, 0)


def _random(rows: Rows) -> Rows:
    return with_shuffled_answers(rows, 1.0, 0)


TEXT = {"kind": "text", "max_new_tokens": 48}
SETS: dict[str, DataSet] = {
    "tickets": DataSet("shipped: eight queues", "ticket_triage"),
    "orders": DataSet("shipped: JSON extraction, format-bound", "order_intake"),
    "intents_10": DataSet("ten intents, easy", "clinc150", _ten_intents),
    "intents_10_tiny": DataSet("ten intents, a quarter of the rows", "clinc150", _ten_intents, share=0.4),
    "support_27": DataSet("27 intents made from templates, trivial", "bitext-intent"),
    "snips_7": DataSet("seven intents, easy", "snips"),
    "snips_noisy": DataSet("seven intents, three labels in ten dealt out anew", "snips", _noisy),
    "snips_random": DataSet("seven intents, all labels dealt out anew: nothing to learn", "snips", _random),
    "tickets_noisy": DataSet("eight queues, three labels in ten dealt out anew", "ticket_triage", _noisy),
    "dialogues": DataSet("turns of 68 dialogues: looking for an event, or buying?", INTENTS),
    "gsm8k": DataSet("word problems, the final number: reasoning-bound", "gsm8k", _final_number, output=TEXT),
    "gsm8k_large": DataSet("word problems: is the result above 40? reasoning-bound", "gsm8k-large"),
    "products": DataSet("shipped: the product of an order, knowledge of names", "orders-product"),
    "domains": DataSet("the domain of a request, fifteen intents in each", "clinc150-domains"),
    "instructions": DataSet("short instructions, free answers", "llms-from-scratch-instr", output=TEXT),
}
TRAINING = {"method": "lora", "epochs": 2, "learning_rate": 0.001, "max_tokens": 1024}


def write_task(name: str, public: Path, data: Path, rows: int) -> None:
    """Write the task of a set: at most `rows` rows, and gates that let training go on whatever the advice is."""
    of = SETS[name]
    made = example_set(of.source, public)
    picked = sample_examples(of.change(made.rows), round(rows * of.share), "advise")
    output = of.output or made.spec.output.model_dump(mode="json", by_alias=True)
    if output["kind"] == "labels":
        output["labels"] = sorted({e.answer for e in picked})
    shipped = of.source in ("ticket_triage", "order_intake")
    prompt = made.spec.system_prompt if shipped else _prompt(output)
    spec = {
        "name": name,
        "description": of.nature,
        "system_prompt": prompt,
        "output": output,
        "data": {"min_examples": 50, "min_per_label": 2},
        "split": {"validation": 0.2, "test": 0.3},
        "baseline": {"rows": 60, "shots": [0, 4]},
        "ladder": {"calls": 240, "pilot": [0.25, 0.5]},
        "training": TRAINING,
        "ability": {"suite": False},
        "robustness": {"rows": 0},
        "gates": {"worth_training": "warn", "learnable": "warn", "enough_test_rows": "warn"},
    }
    folder = data / name
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    write_rows(folder / "raw" / "rows.jsonl", (_raw(e, output["kind"], prompt) for e in picked))
    (folder / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), "utf-8")


def _raw(example: Example, kind: str, prompt: str) -> dict[str, Any]:
    if kind == "labels":
        group = {"group": example.group} if example.group else {}
        return {"text": example.user_text, "label": example.answer, **group}
    turns = [{"role": "user", "content": example.user_text}, {"role": "assistant", "content": example.answer}]
    return {"messages": [{"role": "system", "content": prompt}, *turns]}


def _prompt(output: dict[str, Any]) -> str:
    if output["kind"] == "labels":
        return f"Answer with exactly one label and nothing else. Labels: {', '.join(output['labels'])}"
    return "Answer the user. Write the answer and nothing else."


def command(work: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """One `finetune` command with --json. Returns its answer, and its seconds."""
    began = time.monotonic()
    environment = {**os.environ, "FINETUNE_DATA": str(work / "data"), "FINETUNE_HOME": str(work / "home")}
    done = subprocess.run(
        [sys.executable, "-m", "finetune_pipeline.cli.main", *arguments, "--json"],
        env={**environment, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 2) or not done.stdout.strip():
        raise RuntimeError(f"finetune {' '.join(arguments)}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout), time.monotonic() - began


@dataclass(frozen=True)
class Result:
    """What was advised for a set before training, and what training then showed on the sealed test.

    Attributes:
        points: (share of the rows, score) of the pilot's trainings.
        expected: Interval of what the pilot says all rows should reach; None without one.
        rival: What leads of everything simpler; gain and interval are those of the tuned model over it.
        seconds: By command.
    """

    name: str
    nature: str
    advice: str
    advised_to_train: bool
    ladder: str
    points: list[list[float]]
    expected: list[float] | None
    flips: list[str]
    tuned: float
    rival: str
    gain: float
    interval: list[float]
    seconds: dict[str, float]

    @property
    def wins(self) -> bool:
        """Whether the tuned model is surely ahead."""
        return self.interval[0] > 0

    @property
    def held(self) -> bool:
        """Whether the pilot's interval holds what all rows reached."""
        return self.expected is not None and self.expected[0] <= self.tuned <= self.expected[1]


def measure(name: str, work: Path, public: Path, rows: int) -> Result:
    """Advice, ladder and truth of one set."""
    write_task(name, public, work / "data", rows)
    advice, advised = command(work, "advise", name)
    ladder, climbed = command(work, "ladder", name)
    ran, trained = command(work, "run", name)
    if "steps" not in ran:
        raise RuntimeError(f"a check stopped the run before anything was trained: {json.dumps(ran)[:500]}")
    report = read_json(Path(ran["steps"]["evaluation_report"]["folder"]) / "evaluation.json")
    gains = {key: of for key, of in report["comparisons"].items() if of and key != "champion" and of.get("interval")}
    rival = min(gains, key=lambda key: float(gains[key]["gain"]))
    return Result(
        name=name,
        nature=SETS[name].nature,
        advice=advice["decision"],
        advised_to_train=advice["fine_tune"],
        ladder=ladder["decision"],
        points=[[point["share"], point["value"]] for point in ladder["points"]],
        expected=ladder["expected"]["interval"] if ladder["expected"] else None,
        flips=ladder["flips"],
        tuned=report["scores"]["candidate"]["primary"]["value"],
        rival=rival,
        gain=gains[rival]["gain"],
        interval=gains[rival]["interval"],
        seconds={"advise": advised, "ladder": climbed, "run": trained},
    )


def judged(yes: bool, wins: bool) -> str:
    """Whether an advice is right."""
    return "right" if yes == wins else "wrong"


def table(results: Sequence[Result]) -> list[str]:
    """The results as Markdown, with the hit rates below."""
    lines = [
        "| set | what it is | advice | ladder | tuned | best simpler | gain on the test | expected by the pilot | seconds |",
        "|---|---|---|---|---:|---|---|---|---:|",
    ]
    verdicts: dict[str, list[str]] = {"advice": [], "ladder": []}
    for of in results:
        verdicts["advice"].append("undecided" if of.advice == "pilot" else judged(of.advised_to_train, of.wins))
        sure = of.ladder != "undecided"
        verdicts["ladder"].append(judged(of.ladder == "fine_tune", of.wins) if sure else "undecided")
        expected = " to ".join(map(percent, of.expected)) if of.expected else "–"
        lines.append(
            f"| {of.name} | {of.nature} | {of.advice} ({verdicts['advice'][-1]}) | {of.ladder} ({verdicts['ladder'][-1]}) | "
            f"{percent(of.tuned)} | {of.rival} {percent(of.tuned - of.gain)} | {points(of.gain)} "
            f"({points_range(of.interval)}) | {expected} | {sum(of.seconds.values()):.0f} |"
        )
    for name, given in verdicts.items():
        counts = ", ".join(f"{given.count(word)} {word}" for word in ("right", "wrong", "undecided"))
        lines.append(f"\n{name}: {counts} of {len(given)}")
    asked = [of for of in results if of.expected]
    held = sum(of.held for of in asked)
    lines.append(
        f"\nthe pilot's interval, made on validation, held what all rows reached on the test: {held} of {len(asked)}"
    )
    return lines


def searched(name: str, work: Path) -> list[str]:
    """Lines of a table: the searched prompt against the best of the spec's own, in pairs, both cross-fitted."""
    spec = load_task(work / "data" / name).spec
    store = ArtifactStore(work / "home" / "artifacts")
    baseline, search = (list(store.all_versions(name, step))[-1:] for step in ("few_shot_baseline", "prompt_search"))
    if not baseline or not search or not search[0].facts["best"]:
        return []
    rows, found = (read_by_model(of[0].path(PREDICTIONS)) for of in (baseline, search))
    rungs = {of.name: of for of in rung_answers(spec, rows, {}, found[OPTIMISED])}
    metric, lines = METRICS[spec.metric], []
    for ending, how in (("", "as written"), ("_restricted", "restricted")):
        own, other = rungs.get(f"prompt{ending}"), rungs.get(f"{OPTIMISED}{ending}")
        if own and other:
            values = [percent(metric.value(of.rows, spec.output) or 0.0) for of in (own, other)]
            gain = metric.gain(own.rows, other.rows, spec.output, spec.gates.confidence)
            lines.append(
                f"| {name} | {how} | {values[0]} | {values[1]} | {points(gain.gain)} ({points_range(gain.interval)}) | "
                f"{search[0].facts['calls']} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--set", nargs="*", choices=list(SETS), default=list(SETS), dest="sets")
    given = parser.parse_args()
    results: list[Result] = []
    for name in given.sets:
        kept = given.work / f"{name}.json"
        if not kept.exists():
            try:
                write_json(kept, asdict(measure(name, given.work, given.public, given.rows)))
            except RuntimeError as error:
                print(f"{name}: failed: {error}", file=sys.stderr, flush=True)
                continue
        result = Result(**read_json(kept))
        results.append(result)
        print(f"{name}: {result.advice}, {result.ladder}, gain {result.gain:+.3f}", flush=True)
    print("\n".join(table(results)))
    print(
        "\n| set | answers | prompts of task.yaml | searched prompt | gain | calls of the search |\n|---|---|---:|---:|---|---:|"
    )
    print("\n".join(line for of in results for line in searched(of.name, given.work)))
    lost = [of.name for of in results if of.interval[1] < 0 and "fine_tune" in (of.advice, of.ladder)]
    if lost:
        print(f"\na sure yes that lost: {', '.join(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
