"""All training methods on one task: trainable parameters, peak memory, time, validation loss, test score, size.

    python benchmarks/methods_table.py --work DIR [--base FOLDER] [--chat-template none] [--methods qlora,prompt] [--passes 1]

Each method is trained with its own defaults by the jobs that the graph runs, one process at a time, with one thread. The
result is merged where that is possible, and answers the sealed test as a candidate does in the graph. `--passes`: epochs over
the training split (default: the method's own); qlora's are divided between its two phases as by default. Everything is kept
in DIR, so an interrupted run continues. CPU time is printed beside the wall clock, which says little on a busy machine.

Measures: finetune_pipeline/training, finetune_pipeline/spec/methods, finetune_pipeline/models/merging.py.
"""

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training_tasks import run_job
from finetune_pipeline.data.examples import examples_of, read_examples, seal_key
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.engine.files import digest_json, read_json, write_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.evaluation.sealed import Judgement, open_sealed
from finetune_pipeline.jobs import BaseJob, Job, MergeJob, ModelSet, PredictJob, job_fields
from finetune_pipeline.models.chat_templates import read_chat_template
from finetune_pipeline.models.identity import served
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.steps.data import SCRUBBING_KEY
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.trainers import TrainingOrder, train


def launch(job: Job) -> dict[str, Any]:
    """Run a job in its own process, unless the same job is done already. Returns its facts."""
    out, job_digest = job.out, digest_json(job_fields(job))
    result, digest = out / "result.json", out / "job_digest.json"
    if not (result.exists() and digest.exists() and read_json(digest) == job_digest):
        run_job(job, out)
        write_json(digest, job_digest)
    return dict(read_json(result))


def splits_of(task: Task, store: ArtifactStore) -> Artifact:
    """The task's splits, made by the graph's own steps."""
    return PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)["splits"]


def with_method(spec: TaskSpec, method: str, passes: float | None) -> TaskSpec:
    """Change the task's method, with its defaults; `passes`: total number of epochs."""
    settings = TrainingSpec.model_validate({"method": method})
    if passes is not None:
        scale = passes / (settings.epochs + settings.unquantized_epochs)
        epochs = {"epochs": settings.epochs * scale, "unquantized_epochs": settings.unquantized_epochs * scale}
        settings = settings.changed(**epochs)
    return spec.model_copy(update={"training": settings})


def measure_method(
    method: str, task: Task, base: Path, splits: Artifact, store: ArtifactStore, work: Path, passes: float | None
) -> dict[str, Any]:
    """Train, merge and test a method. Returns its row of the table."""
    order = TrainingOrder(
        with_method(task.spec, method, passes),
        base=base,
        train=examples_of(splits.folder, "train"),
        validation=examples_of(splits.folder, "validation"),
        out=work / "out",
        work=work / "work",
        launch=launch,
    )
    facts = train(order)
    measured = read_json(work / "out" / "measured.json")
    return {
        "method": method,
        "trainable": facts.trainable_parameters,
        "peak_mib": measured["peak_memory_mib"],
        "wall": measured["seconds"],
        "cpu": measured["cpu_seconds"],
        "steps": facts.steps,
        "epochs": sum(phase.epochs for phase in facts.phases) if facts.phases else facts.epochs,
        "first_loss": facts.first_eval_loss,
        "loss": facts.best_eval_loss,
        "bytes": facts.trained.bytes,
        "test": test_score(method, task, base, splits, store, work),
    }


def test_score(
    method: str, task: Task, base: Path, splits: Artifact, store: ArtifactStore, work: Path
) -> dict[str, Any]:
    """Accuracy on the sealed test, in float32, as test_predictions measures it. The opening is recorded in DIR."""
    settings: dict[str, Any] = {
        "labels": task.spec.labels,
        "max_new_tokens": task.spec.answer_length,
        "batch_size": task.spec.baseline.batch_size,
    }
    merged = launch(
        MergeJob(
            base=base,
            adapter=work / "out" / "adapter",
            examples=examples_of(splits.folder, "validation"),
            out=work / "merged",
            **settings,
        )
    )
    loaded = served(
        Artifact(task.name, "merged_model", method, work / "merged", merged, {}),
        Artifact("shared", "base_model", "base", base, {}, {}),
    )
    answers = work / "test" / "predictions.parquet"
    if not answers.exists():
        sealed = open_sealed(
            examples_of(splits.folder, "test"),
            store.state_folder(task.name),
            work / "sealed",
            seal_key(load_key(store.root / SCRUBBING_KEY)),
            test=splits.version,
            judgement=Judgement(method, task.spec.metric, None),
            reason="comparison of methods",
        )
        with sealed as examples:
            sets = [ModelSet(name="candidate", model=loaded.model, adapter=loaded.adapter)]
            launch(PredictJob(sets=sets, examples=examples, out=work / "test", **settings))
    results = score(read_predictions(answers), task.spec)
    return results.model_dump(include={"n", "accuracy", "interval", "macro_f1"})


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| method | trainable parameters | peak memory | CPU time (wall) | passes, steps | validation loss | test accuracy "
        "(95% interval) | file |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        test = "–"
        if r["test"]:
            low, high = r["test"]["interval"]
            test = f"{r['test']['accuracy']:.3f} ({low:.3f} to {high:.3f})"
        size = f"{r['bytes'] / 2**20:.1f} MiB" if r["bytes"] >= 2**20 else f"{r['bytes'] / 2**10:.0f} KiB"
        lines.append(
            f"| `{r['method']}` | {r['trainable']:,} | {r['peak_mib'] / 1024:.2f} GiB | {r['cpu'] / 60:.1f} min "
            f"({r['wall'] / 60:.1f}) | {r['epochs']:g}, {r['steps']} | {r['first_loss']:.3f} → {r['loss']:.3f} | {test} | "
            f"{size} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder in which everything is kept")
    parser.add_argument("--task", default="ticket_triage")
    parser.add_argument("--base", default=None, help="another base model than the task's")
    parser.add_argument(
        "--chat-template",
        default=None,
        help="for a base without one: chatml, gemma, llama3, none, or a file",
    )
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--passes", type=float, default=None)
    arguments = parser.parse_args()
    task = load_task(read_settings().data_root / arguments.task)
    name = arguments.base or task.spec.base_model
    store = ArtifactStore(arguments.work / "artifacts")
    splits = splits_of(task, store)
    place = arguments.work / Path(name).name
    template = read_chat_template(arguments.chat_template, task.folder)
    launch(BaseJob(base_model=name, revision=None, out=place / "base", chat_template=template))
    rows = []
    for method in arguments.methods.split(","):
        folder = place / (method if arguments.passes is None else f"{method}_{arguments.passes:g}")
        rows.append(measure_method(method, task, place / "base", splits, store, folder, arguments.passes))
        print(f"{method}: done", flush=True)
    parameters = read_json(place / "base" / "result.json")["parameters"]
    number = len(read_examples(examples_of(splits.folder, "train")))
    print(
        f"\n{datetime.date.today()}, {name} ({parameters:,} parameters), {arguments.task}, {number} training rows, one thread"
    )
    print(table(rows))
    write_json(place / "rows.json", rows)


if __name__ == "__main__":
    main()
