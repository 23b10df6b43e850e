"""Accuracy of the advice before training, compared with the results on the sealed test after training, on 15 data sets.

    python benchmarks/advise.py PUBLIC --work FOLDER [--rows 400] [--set NAME …]

PUBLIC holds the public sets, one folder each (see public_sets.py). Every set runs through the real commands with the bundled
model: `finetune advise` (without training), with `--measure` (a pilot), then `finetune run`, whose sealed test shows
whether the fine-tuned model significantly beats everything simpler (a win). Advice is right if it says "fine-tune" and
training wins, or "no" and training does not win; undecided advice is counted separately. Finished sets are read from FOLDER,
so an interrupted run continues. Exit code 1 if a certain "fine-tune" lost to something simpler.

Measures: finetune_pipeline/baseline.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.example_sets import INTENTS, example_set, with_answer, with_shuffled_answers
from benchmarks.finetune_command import finetune
from finetune_pipeline.data.examples import Example, sample_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.evaluation.wording import percent, points, points_range

Rows = list[Example]


@dataclass(frozen=True)
class DataSet:
    """A data set: what makes it easy or hard, its name for example_set, a change of its rows, and the share of rows used."""

    nature: str
    source: str
    change: Callable[[Rows], Rows] = list
    share: float = 1.0
    output: dict[str, Any] | None = None


def ten_intents(rows: Rows) -> Rows:
    labels = sorted({str(e.label) for e in rows})[:10]
    return [e for e in rows if e.label in labels]


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
    "intents_10": DataSet("ten intents, easy", "clinc150", ten_intents),
    "intents_10_tiny": DataSet("ten intents, a quarter of the rows", "clinc150", ten_intents, share=0.4),
    "support_27": DataSet("27 intents made from templates, trivial", "bitext-intent"),
    "snips_7": DataSet("seven intents, easy", "snips"),
    "snips_noisy": DataSet("seven intents, three labels in ten shuffled", "snips", _noisy),
    "snips_random": DataSet("seven intents, all labels shuffled: nothing to learn", "snips", _random),
    "tickets_noisy": DataSet("eight queues, three labels in ten shuffled", "ticket_triage", _noisy),
    "dialogues": DataSet("turns of 68 dialogues: looking for an event, or buying?", INTENTS),
    "gsm8k": DataSet("word problems, the final number: reasoning-bound", "gsm8k", _final_number, output=TEXT),
    "gsm8k_large": DataSet("word problems: is the result above 40? reasoning-bound", "gsm8k-large"),
    "products": DataSet("shipped: the product of an order, knowledge of names", "orders-product"),
    "domains": DataSet("the domain of a request, fifteen intents in each", "clinc150-domains"),
    "instructions": DataSet("short instructions, free answers", "llms-from-scratch-instr", output=TEXT),
}
TRAINING = {"method": "lora", "epochs": 2, "learning_rate": 0.001, "max_tokens": 1024}


def write_task(name: str, public: Path, data: Path, rows: int) -> None:
    """Write the task of a set, with at most `rows` rows and gates that never prevent training."""
    data_set = SETS[name]
    source = example_set(data_set.source, public)
    sample = sample_examples(data_set.change(source.rows), round(rows * data_set.share), "advise")
    output = data_set.output or source.spec.output.model_dump(mode="json", by_alias=True)
    if output["kind"] == "labels":
        output["labels"] = sorted({e.answer for e in sample})
    shipped = data_set.source in ("ticket_triage", "order_intake")
    prompt = source.spec.system_prompt if shipped else _prompt(output)
    spec = {
        "name": name,
        "description": data_set.nature,
        "system_prompt": prompt,
        "output": output,
        "data": {"min_examples": 50, "min_per_label": 2},
        "split": {"validation": 0.2, "test": 0.3},
        "baseline": {"rows": 60, "shots": [0, 4]},
        "ladder": {"pilot": [0.25, 0.5]},
        "training": TRAINING,
        "ability": {"suite": False},
        "robustness": {"rows": 0},
        "gates": {"worth_training": "warn", "learnable": "warn", "enough_test_rows": "warn"},
    }
    folder = data / name
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    write_rows(folder / "raw" / "rows.jsonl", (_raw(e, output["kind"], prompt) for e in sample))
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


@dataclass(frozen=True)
class Result:
    """The advice for a set before training, and the results on the sealed test after it.

    Attributes:
        points: (share of the rows, score) of the pilot's trainings.
        expected: The pilot's interval for the score with all rows; None without one.
        tuned: Score of the fine-tuned model.
        rival: The best of everything simpler; gain and interval are those of the tuned model over it.
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
        """Whether the tuned model is significantly better."""
        return self.interval[0] > 0

    @property
    def held(self) -> bool:
        """Whether the pilot's interval covers the score with all rows."""
        return self.expected is not None and self.expected[0] <= self.tuned <= self.expected[1]


def measure(name: str, work: Path, public: Path, rows: int) -> Result:
    """Run advice, ladder and training of one set."""
    write_task(name, public, work / "data", rows)
    commands = {"advise": ("advise", name), "ladder": ("advise", name, "--measure"), "run": ("run", name)}
    answers = {title: finetune(work, *arguments) for title, arguments in commands.items()}
    advice, ladder, run = (answer.content for answer in answers.values())
    if "steps" not in run:
        raise RuntimeError(f"a check stopped the run before the training: {json.dumps(run)[:500]}")
    report = read_json(Path(run["steps"]["evaluation_report"]["folder"]) / "report.json")
    comparisons = report["comparisons"]
    gains = {key: gain for key, gain in comparisons.items() if gain and key != "champion" and gain.get("interval")}
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
        seconds={command: answer.seconds for command, answer in answers.items()},
    )


def table(results: Sequence[Result]) -> list[str]:
    """The results as Markdown, followed by the hit rates."""
    lines = [
        "| set | what it is | advice | ladder | tuned | best simpler | gain on the test | expected by the pilot | seconds |",
        "|---|---|---|---|---:|---|---|---|---:|",
    ]
    verdicts: dict[str, list[str]] = {"advice": [], "ladder": []}
    for r in results:
        advice_right, ladder_right = r.advised_to_train == r.wins, (r.ladder == "fine_tune") == r.wins
        verdicts["advice"].append("undecided" if r.advice == "pilot" else "right" if advice_right else "wrong")
        verdicts["ladder"].append("undecided" if r.ladder == "undecided" else "right" if ladder_right else "wrong")
        expected = " to ".join(map(percent, r.expected)) if r.expected else "–"
        lines.append(
            f"| {r.name} | {r.nature} | {r.advice} ({verdicts['advice'][-1]}) | {r.ladder} ({verdicts['ladder'][-1]}) | "
            f"{percent(r.tuned)} | {r.rival} {percent(r.tuned - r.gain)} | {points(r.gain)} "
            f"({points_range(r.interval)}) | {expected} | {sum(r.seconds.values()):.0f} |"
        )
    for name, of_source in verdicts.items():
        counts = ", ".join(f"{of_source.count(word)} {word}" for word in ("right", "wrong", "undecided"))
        lines.append(f"\n{name}: {counts} of {len(of_source)}")
    covered = [r.held for r in results if r.expected]
    lines.append(f"\nthe pilot's interval, from validation, covered the test score: {sum(covered)} of {len(covered)}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--set", nargs="*", choices=list(SETS), default=list(SETS), dest="sets")
    arguments = parser.parse_args()
    results: list[Result] = []
    for name in arguments.sets:
        result_file = arguments.work / f"{name}.json"
        if not result_file.exists():
            try:
                write_json(result_file, asdict(measure(name, arguments.work, arguments.public, arguments.rows)))
            except RuntimeError as error:
                print(f"{name}: failed: {error}", file=sys.stderr, flush=True)
                continue
        result = Result(**read_json(result_file))
        results.append(result)
        print(f"{name}: {result.advice}, {result.ladder}, gain {result.gain:+.3f}", flush=True)
    print("\n".join(table(results)))
    lost = [r.name for r in results if r.interval[1] < 0 and "fine_tune" in (r.advice, r.ladder)]
    if lost:
        print(f"\ncertain advice to fine-tune that lost: {', '.join(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
