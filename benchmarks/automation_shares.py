"""Which share of a sealed test each kind of model answers by itself at 1, 2, 5 and 10% of wrong answers, from finished projects.

    python -m benchmarks.automation_shares DATA HOME [--only TASK,…]
    python -m benchmarks.automation_shares --draw TABLE PICTURE

DATA: folder of the tasks; HOME: the home in which they were run, such as those of winners.py. Of each project the trained
model, the best simple model and the best prompt are judged as the report does: calibrated on validation, certified on the sealed
rows, each at a level of 5%. What a project has not stored is computed here: a trained model answers the validation rows unless
automation.max_error was declared, and projects of earlier releases stored no probabilities of simple models and of JSON. JSON by
prompts of such projects is shown without. `right`: on the sealed test; `-`: the model has no probabilities. --draw: draws a printed
table, which may stand in a file of results.

Measures: finetune_pipeline/evaluation.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.finalists import contenders
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.predictions import (
    CANDIDATE,
    by_model,
    in_order,
    of_model,
    read_predictions,
    read_test_rows,
)
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION
from finetune_pipeline.evaluation.promises import probabilities_of
from finetune_pipeline.evaluation.rivals import Baseline, simple_rows
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.simple_answers import log_shares
from finetune_pipeline.evaluation.simple_models import FITTED, load_simple_model
from finetune_pipeline.jobs import PredictJob
from finetune_pipeline.report.plots import Dot, dot_plot
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.evaluation import AutomationSpec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.asked_models import trained_set
from finetune_pipeline.steps.baseline import answering_settings
from finetune_pipeline.steps.evaluation import on_validation

ERRORS, ALPHA = (0.01, 0.02, 0.05, 0.1), 0.05
DRAWN = 0.1
COLUMNS, KINDS = ("task", "kind", "model", "rows", "right"), ("tuned", "classifier", "simple", "prompt")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Judged:
    """One model of one project, and its answers."""

    task: str
    kind: str
    name: str
    spec: TaskSpec
    validation: Rows
    test: Rows
    sources: Mapping[str, str]

    def coverage(self, max_error: float) -> float | None:
        """The certified share; None if no answer has a probability."""
        spec = self.spec.model_copy(update={"automation": AutomationSpec(max_error=max_error)})
        measured = probabilities_of(spec, self.validation, self.test, ALPHA, self.sources)
        promise = measured.automation if measured else None
        return promise.coverage if promise and promise.tested else None

    def right(self) -> float:
        rows = scored(self.test, self.spec.output)
        return sum(row.right for row in rows) / len(rows)


class Project:
    """A finished project: the artifacts behind its newest report."""

    def __init__(self, folder: Path, store: ArtifactStore) -> None:
        self.task, self.store = load_task(folder), store
        self.spec = self.task.spec
        self.report = store.all_versions(self.task.name, "evaluation_report")[-1]
        self.predictions, self.baseline = self.input("test_predictions"), self.input("few_shot_baseline")
        self.asked = read_test_rows(self.predictions.folder)

    def input(self, step: str, of: Artifact | None = None) -> Artifact:
        found = self.store.find(self.task.name, step, (of or self.report).inputs[step])
        assert found is not None, f"{self.task.name}: {step} is gone"
        return found

    def validation_file(self) -> Path:
        splits = self.store.find(self.task.name, "splits", self.baseline.inputs["validation_split"])
        assert splits is not None
        return examples_of(splits.folder, "validation")

    def models(self) -> Iterator[Judged]:
        """Yield the models that may be shipped."""
        rows = by_model(
            in_order(scored(read_predictions(self.predictions.path("predictions.parquet")), self.spec.output))
        )
        asked = on_validation(self.baseline)
        if self.input("merged_model").facts:
            kind = "classifier" if self.spec.training.method == "classifier" else "tuned"
            yield self._judged(kind, self.spec.training.method, *self._tuned(rows[CANDIDATE]))
        chosen = contenders(self.spec, self.baseline.read(Baseline), rows, simple_rows(rows), by_model(in_order(asked)))
        for contender in chosen:
            validation: Rows = contender.validation
            test: Rows = contender.rows
            if contender.kind == "simple":
                validation, test = self._simple(contender.name, validation), self._simple(contender.name, test)
            yield self._judged(contender.kind, contender.name, validation, test)

    def _judged(self, kind: str, name: str, validation: Rows, test: Rows) -> Judged:
        return Judged(self.task.name, kind, name, self.spec, validation, test, self.asked.sources)

    def _texts(self) -> dict[str, str]:
        return self.asked.texts | {e.id: e.user_text for e in read_examples(self.validation_file())}

    def _simple(self, name: str, rows: Rows) -> Rows:
        """Rows of a simple model with its probabilities."""
        if not self.spec.labels or any(row["label_scores"] for row in rows):
            return rows
        texts = self._texts()
        tables = load_simple_model(self.baseline.path(f"{FITTED}/{name}")).probabilities(
            [texts[row["example_id"]] for row in rows]
        )
        if tables is None:
            return rows
        return [
            {**row, "label_scores": log_shares(table, self.spec.labels)}
            for row, table in zip(rows, tables, strict=True)
        ]

    def _tuned(self, test: Rows) -> tuple[Rows, Rows]:
        """Answers of the trained model to validation and to the sealed rows."""
        stored = of_model(read_predictions(self.predictions.path("predictions.parquet")), ON_VALIDATION)
        if stored:
            return stored, test
        validation = self._answers(self.validation_file())
        if self.spec.labels:
            return validation, test
        with tempfile.TemporaryDirectory() as work:
            gold = {row["example_id"]: row["gold"] for row in test}
            examples = [
                Example(name, [{"role": "system", "content": self.spec.system_prompt}, {"role": "user", "content": text},
                               {"role": "assistant", "content": gold[name]}])
                for name, text in self.asked.texts.items()
            ]  # fmt: skip
            write_examples(Path(work) / "test.jsonl", examples)
            return validation, self._answers(Path(work) / "test.jsonl")

    def _answers(self, examples: Path) -> Rows:
        merged = self.input("merged_model")
        base = self.store.find(SHARED, "base_model", merged.inputs["base_model"])
        assert base is not None
        with tempfile.TemporaryDirectory() as work:
            asked = trained_set(self.spec, CANDIDATE, merged, base, self.spec.decoded_schema)
            settings = answering_settings(self.spec)
            predict(PredictJob(sets=[asked], examples=examples, labels=self.spec.labels, out=Path(work), **settings))
            return read_predictions(Path(work) / "predictions.parquet")


def draw(table: Path, picture: Path) -> None:
    """Draw the shares that a table says are answered alone at DRAWN wrong, of models that have probabilities. Two projects of one
    set share its simple models and prompts."""
    shares: dict[str, float] = {}
    for line in table.read_text("utf-8").splitlines():
        cells = line.split()
        if len(cells) == len(COLUMNS) + len(ERRORS) and cells[1] in KINDS and cells[-1] != "-":
            task = cells[0].removesuffix("_lora").removesuffix("_classifier")
            share = float(cells[len(COLUMNS) + ERRORS.index(DRAWN)].rstrip("%"))
            shares[f"{task}, {cells[2]}, {cells[3]} rows"] = share
    dots = [Dot(name, share, (0.0, share), f"{share:.0f}%") for name, share in sorted(shares.items())]
    title = f"Answered by itself, surely at most {DRAWN:.0%} of it wrong"
    plot = dot_plot("coverage", title, dots, "share of the sealed rows, %", (0.0, 100.0))
    assert plot is not None
    picture.write_text(plot.document, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("home", type=Path, nargs="?")
    parser.add_argument("--only", default="")
    parser.add_argument("--draw", type=Path, nargs=2, metavar=("TABLE", "PICTURE"))
    arguments = parser.parse_args()
    if arguments.draw:
        draw(*arguments.draw)
        return
    if not arguments.home:
        parser.error("give DATA and HOME, or --draw")
    store = ArtifactStore(arguments.home / "artifacts")
    names = [name for name in arguments.only.split(",") if name] or sorted(
        p.parent.name for p in arguments.data.glob("*/task.yaml")
    )
    print("{:<28} {:<11} {:<26} {:>5} {:>6}".format(*COLUMNS) + "".join(f"{error:>7.0%}" for error in ERRORS))
    for name in names:
        if not store.all_versions(load_task(arguments.data / name).name, "evaluation_report"):
            continue
        for judged in Project(arguments.data / name, store).models():
            shares = [judged.coverage(error) for error in ERRORS]
            shown = "".join(f"{'-':>7}" if share is None else f"{share:>7.0%}" for share in shares)
            print(
                f"{judged.task:<28} {judged.kind:<11} {judged.name:<26} {len(judged.test):>5} {judged.right():>6.1%}{shown}",
                flush=True,
            )


if __name__ == "__main__":
    main()
