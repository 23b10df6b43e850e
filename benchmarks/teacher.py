"""From raw texts to a verdict: a teacher with planted errors behind a real server answers the rows of two public sets.

    python -m benchmarks.teacher DIR PUBLIC BASE [--only WORLD,…] [--kills N]

PUBLIC: folder of the public sets (see public_sets.py). BASE: a base model as in task.yaml, such as
bundled/smollm2-135m-instruct. The labels of a set are hidden but for PEOPLE rows, which fill the sealed test and the validation.
The teacher answers the others: a rule that knows the right labels, behind a server of OpenAI's protocol. A share of its answers is
wrong, or of those to rows of one label. On every second wrong row it is unsure: its further answers are right. With --kills, the
process that buys the answers is killed that often after a random number of calls, and started again. Each world is a project that
`finetune run` takes from texts to its verdict. Finished worlds are read from DIR. Prints for each world what the filter keeps and
how much of it is wrong, the noise estimated from the sealed rows, whether the label is named, the money counted by the server and
by the pipeline, the scores on the sealed rows, and what is shipped.

Measures: finetune_pipeline/evaluation/teacher.py, finetune_pipeline/evaluation/teacher_rival.py,
finetune_pipeline/evaluation/call_ledger.py, finetune_pipeline/steps/teacher.py, finetune_pipeline/steps/teacher_rival.py.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.example_sets import example_set
from benchmarks.finetune_command import environment, finetune
from finetune_pipeline.data.examples import Example, read_examples, sample_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import MANIFEST
from finetune_pipeline.steps.teacher import ANSWERS, TeacherAnswers
from finetune_pipeline_tests.openai_server import openai_server

TEST, VALIDATION, TEXTS = 150, 50, 500
PEOPLE = TEST + VALIDATION
PRICE = {"input": 10.0, "output": 30.0}
CALL_USD = (7 * PRICE["input"] + 3 * PRICE["output"]) / 1e6
"""Dollars of a call: the server reports 7 and 3 tokens."""
BUDGET_USD = 5.0
SETS = ("snips", "trec6")
SHARES: dict[str, float] = {"0%": 0.0, "5%": 0.05, "10%": 0.1, "20%": 0.2, "one-label": 0.5}
"""Shares of wrong answers; of one-label: among the rows of the set's second commonest label."""
WORLDS = {f"{name}-{share}": (name, share) for name in SETS for share in SHARES}
TRAINING = {"snips": {"method": "lora"}, "trec6": {"method": "classifier"}}
SPEC: dict[str, Any] = {
    "baseline": {"rows": 60, "shots": [0, 4], "encoder": "bundled/minilm"},
    "ability": {"suite": False},
    "robustness": {"rows": 0},
    "gates": {"worth_training": "warn", "learnable": "warn", "enough_test_rows": "warn"},
    "split": {"test": TEST / (PEOPLE + TEXTS), "validation": VALIDATION / (PEOPLE + TEXTS)},
}


@dataclass(frozen=True)
class World:
    """What came of a world. kept_wrong: of the kept rows. noise: share of wrong answers on the sealed rows, with its interval.

    Attributes:
        named: Labels on which the teacher was said to err most.
        calls, repeated: Requests that the server got, and those that equal an earlier one.
        spent_usd, most_usd: What the pipeline counts, and what the server's calls cost.
        scores: On the sealed rows, in percent.
        sealed_synthetic: Rows of the teacher in test or validation.
    """

    rows: int
    kept: int
    kept_wrong: int
    left_out: dict[str, int]
    noise: list[float]
    named: list[str]
    planted: str
    kills: int
    calls: int
    repeated: int
    spent_usd: float
    most_usd: float
    scores: dict[str, float]
    gate: str
    sealed_synthetic: int
    ships: str


class Teacher:
    """A rule that knows the right answers and errs on rows chosen by their text."""

    def __init__(self, examples: Sequence[Example], share: str) -> None:
        self.right = {one_line(e.user_text): e.answer for e in examples}
        labels = Counter(self.right.values())
        self.label = labels.most_common(2)[1][0] if share == "one-label" else ""
        self.others = sorted(labels)
        self.share = SHARES[share]

    def errs(self, text: str) -> bool:
        return (not self.label or self.right[text] == self.label) and random.Random(text).random() < self.share

    def __call__(self, body: dict[str, Any], seen: int) -> str:
        text = one_line(body["messages"][-1]["content"])
        right = self.right[text]
        unsure = random.Random(text + "?").random() < 0.5
        if not self.errs(text) or (unsure and body["temperature"]):
            return right
        return random.Random(text + "!").choice([label for label in self.others if label != right])


def one_line(text: str) -> str:
    """Return a text as the teacher looks it up."""
    return " ".join(text.split())


def write_project(world: str, examples: Sequence[Example], url: str, base: str, data: Path) -> None:
    """Write the project of a world: people's rows, texts, the teacher's price and task.yaml."""
    name, _ = WORLDS[world]
    folder = data / project_name(world)
    for part in ("raw", "unlabelled"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_rows(folder / "raw" / "people.jsonl", [{"text": e.user_text, "label": e.answer} for e in examples[:PEOPLE]])
    write_rows(folder / "unlabelled" / "texts.jsonl", [{"text": e.user_text} for e in examples[PEOPLE:]])
    line = {
        "engine": "rule",
        "model": "large",
        "date": "2026-12-01",
        "note": "made up",
        "unit": "million_served",
        **PRICE,
    }
    write_json(folder / "prices.yaml", [line])
    labels = sorted({e.answer for e in examples})
    spec = {
        "name": project_name(world),
        "base_model": base,
        "description": name,
        "system_prompt": f"Answer with exactly one label and nothing else. Labels: {', '.join(labels)}",
        "output": {"kind": "labels", "labels": labels},
        "data": {
            "min_examples": 50,
            "min_per_label": 2,
            "max_label_noise": 1.0,
            "unlabelled": ["unlabelled/*"],
            "synthetic": {"review_share": 0.0},
            "scrub": "warn",
        },
        "teacher": {
            "endpoint": {"url": url, "model": "large"},
            "allowed": True,
            "budget_usd": BUDGET_USD,
            "rows": TEXTS,
            "answers": 3,
        },
        "training": {"epochs": 2, "learning_rate": 0.001, "max_tokens": 1024, **TRAINING[name]},
        **SPEC,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), "utf-8")


def project_name(world: str) -> str:
    return world.replace("-", "_").replace("%", "")


def buy_and_be_killed(work: Path, project: str, server: Any, kills: int) -> int:
    """Start `finetune run --stage data` again and again, and kill its whole process group after one to twenty further calls.
    Returns how many were killed; fewer than asked for if a run ended first."""
    chance, killed = random.Random(project), 0
    command = [sys.executable, "-m", "finetune_pipeline.cli.main", "run", project, "--stage", "data", "--json"]
    while killed < kills:
        wanted = len(server.requests) + chance.randint(1, 20)
        process = subprocess.Popen(command, env=environment(work), stdout=subprocess.DEVNULL, start_new_session=True)
        while len(server.requests) < wanted and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    return killed


def measure(world: str, public: Path, base: str, work: Path, kills: int) -> World:
    """Run a world and read its results."""
    name, share = WORLDS[world]
    source = example_set(name, public)
    examples = sample_examples(source.rows, PEOPLE + TEXTS, "teacher")
    random.Random(world.partition("-")[0]).shuffle(examples)  # the same people's rows for every teacher
    teacher, project = Teacher(examples, share), project_name(world)
    with openai_server(teacher) as server:
        write_project(world, examples, server.url, base, work / "data")
        killed = buy_and_be_killed(work, project, server, kills)
        run = finetune(work, "run", project).content
    if "steps" not in run:
        raise RuntimeError(f"{project}: the run stopped: {str(run)[:1000]}")
    folders = {step: Path(made["folder"]) for step, made in run["steps"].items()}
    bought = msgspec.convert(read_json(folders["teacher_answers"] / MANIFEST)["facts"], TeacherAnswers)
    report = read_json(folders["evaluation_report"] / "report.json")
    answers = [row for row in read_rows(folders["teacher_answers"] / ANSWERS) if not row.get("reason")]
    texts = {e.id: e.user_text for e in read_examples(folders["unlabelled_rows"] / "rows.jsonl")}
    rival = report["teacher"]
    calls = Counter((body["messages"][-1]["content"], body["temperature"]) for body in server.requests)
    origins = read_json(folders["splits"] / MANIFEST)["facts"]["origins"]
    models = report["models"]
    best_simple = max(
        (model for model in models if model.startswith("simple_")), key=lambda model: models[model]["value"]
    )
    asked = read_json(folders["test_predictions"] / MANIFEST)["facts"]["teacher"]
    return World(
        rows=bought.rows_in,
        kept=bought.kept,
        kept_wrong=sum(row["answer"] != teacher.right[one_line(texts[row["id"]])] for row in answers),
        left_out=bought.by_reason,
        noise=[rival["kept_wrong"] / rival["kept"], *rival["noise"]],
        named=[errors["label"] for errors in rival["worse_on"]],
        planted=teacher.label,
        kills=killed,
        calls=len(server.requests),
        # one call is at temperature 0, the two others at 1
        repeated=sum(max(0, n - (2 if temperature else 1)) for (_, temperature), n in calls.items()),
        spent_usd=bought.spent_usd + asked["spent_usd"],
        most_usd=len(server.requests) * CALL_USD,
        scores={
            "teacher": 100 * rival["score"]["value"],
            "student": 100 * models["candidate"]["value"],
            best_simple.removeprefix("simple_"): 100 * models[best_simple]["value"],
        },
        gate=next(gate["status"] for gate in report["gates"] if gate["name"] == "not_worse_than_teacher"),
        sealed_synthetic=sum(origins[part].get("synthetic", 0) for part in ("test", "validation")),
        ships=report["winner"].get("title") or "nothing",
    )


def lines(world: str, result: World) -> str:
    """Return a world's lines."""
    left_out = ", ".join(f"{n} {reason}" for reason, n in result.left_out.items()) or "none"
    noise, low, high = (100 * value for value in result.noise)
    scores = ", ".join(f"{model} {score:.1f}" for model, score in result.scores.items())
    named = ", ".join(result.named) or "none"
    planted = f" (planted: {result.planted})" if result.planted else ""
    wrong = f"{100 * result.kept_wrong / result.kept:.1f}%"
    return "\n".join(
        [
            f"{world}: {result.rows} texts, {result.kept} kept, of which {wrong} are wrong; left out: {left_out}",
            f"  noise estimated from the sealed rows {noise:.1f}% ({low:.1f} to {high:.1f}); labels named: {named}{planted}",
            f"  {result.calls} calls, {result.repeated} paid twice, {result.kills} kills; the server's calls cost "
            f"${result.most_usd:.4f}, the pipeline counts ${result.spent_usd:.4f}, of a budget of ${BUDGET_USD:.2f}",
            f"  scores: {scores}; not_worse_than_teacher {result.gate}; of {TEST + VALIDATION} rows asked for test and validation "
            f"{result.sealed_synthetic} are the teacher's",
            f"  ships: {result.ships}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where projects, artifacts and results are kept")
    parser.add_argument("public", type=Path)
    parser.add_argument("base")
    parser.add_argument("--only", default=",".join(WORLDS), help="names of worlds")
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := set(names) - set(WORLDS):
        parser.error(f"no such world: {', '.join(sorted(unknown))}; there are {', '.join(WORLDS)}")
    work, public = given.folder.absolute(), given.public.absolute()
    for name in names:
        path = work / "results" / f"{project_name(name)}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, asdict(measure(name, public, given.base, work, given.kills)))
        print(lines(name, World(**read_json(path))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
