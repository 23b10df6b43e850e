"""Learning rates of one training method, compared on validation rows of several projects.

    python -m benchmarks.learning_rates DATA HOME --work DIR [--method classifier] [--rates 2e-4,5e-4] [--only TASK,…]

DATA and HOME: projects whose splits exist, such as those of `winners.py --advice`. Every rate trains each project once, with the
settings of winners.py and one thread; the merged model answers the validation rows. The sealed tests stay closed. Prints the best
validation loss, the accuracy on validation, and how often a rate was the best of a project. Everything is kept in DIR, so an
interrupted run continues.

Measures: finetune_pipeline/training, finetune_pipeline/spec/methods.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.methods_table import launch
from benchmarks.winners import TRAINING
from finetune_pipeline.data.examples import examples_of
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.jobs import BaseJob, MergeJob, ModelSet, PredictJob
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.trainers import TrainingOrder, train


@dataclass(frozen=True)
class Trained:
    """One project trained at one rate: the best validation loss, and the accuracy on the validation rows."""

    task: str
    rate: float
    loss: float
    right: float


def measure(task: Task, method: str, rate: float, base: Path, splits: Path, work: Path) -> Trained:
    """Train, merge and ask the validation rows."""
    settings = TrainingSpec.model_validate(TRAINING | {"method": method, "learning_rate": rate})
    validation = examples_of(splits, "validation")
    facts = train(
        TrainingOrder(
            task.spec.model_copy(update={"training": settings}),
            base=base,
            train=examples_of(splits, "train"),
            validation=validation,
            out=work / "out",
            work=work / "work",
            launch=launch,
        )
    )
    assert facts.best_eval_loss is not None
    spec = task.spec
    labels, length, rows = spec.labels, spec.answer_length, spec.baseline.batch_size
    launch(
        MergeJob(
            base=base,
            adapter=work / "out" / "adapter",
            examples=validation,
            out=work / "merged",
            labels=labels,
            max_new_tokens=length,
            batch_size=rows,
        )
    )
    launch(
        PredictJob(
            sets=[ModelSet(name="candidate", model=work / "merged")],
            examples=validation,
            out=work / "answers",
            labels=labels,
            max_new_tokens=length,
            batch_size=rows,
        )
    )
    right = score(read_predictions(work / "answers" / "predictions.parquet"), spec).accuracy
    return Trained(task.name, rate, facts.best_eval_loss, right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--method", default="classifier")
    parser.add_argument("--rates", default="2e-4,5e-4,1e-3,2e-3")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    store = ArtifactStore(arguments.home / "artifacts")
    rates = [float(rate) for rate in arguments.rates.split(",")]
    names = [n for n in arguments.only.split(",") if n] or sorted(
        p.parent.name for p in arguments.data.glob("*/task.yaml")
    )
    print(f"{'task':<28} {'rate':>8} {'loss':>7} {'right':>7}")
    won = dict.fromkeys(rates, 0)
    for name in names:
        task = load_task(arguments.data / name)
        splits = store.all_versions(name, "splits")
        if not splits or not task.spec.labels:
            continue
        base = arguments.work / "base"
        launch(BaseJob(base_model=task.spec.base_model, revision=None, out=base, chat_template=None))
        trained = []
        for rate in rates:
            work = arguments.work / name / f"{arguments.method}_{rate:g}"
            trained.append(measure(task, arguments.method, rate, base, splits[-1].folder, work))
            print(f"{name:<28} {rate:>8g} {trained[-1].loss:>7.3f} {trained[-1].right:>7.1%}", flush=True)
        won[min(trained, key=lambda t: t.loss).rate] += 1
    print("lowest loss: " + ", ".join(f"{rate:g} in {number}" for rate, number in won.items()))


if __name__ == "__main__":
    main()
