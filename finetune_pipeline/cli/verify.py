"""``finetune verify TASK --endpoint URL``: whether a served model is the one that was judged."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import click

from finetune_pipeline.cli.export import ALIASES, find_source
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, get_task, problem, say
from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, models_of
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.verification import CHANGES, ROWS, JudgedRow, required_share
from finetune_pipeline.evaluation.verification import verify as ask_rows
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder, served
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.manifest import Source, folder_control_tokens
from finetune_pipeline.orchestration.resources import Compute, Store
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import kept_in
from finetune_pipeline.worker.jobs import predict_job, prompt_set


@click.command()
@click.argument("task")
@click.option(
    "--endpoint", "url", required=True, help="Address of an OpenAI-style server, as http://127.0.0.1:8000/v1."
)
@click.option("--model", "name", help="The model's name there; otherwise the only one it lists, or the task's.")
@click.option("--rows", type=click.IntRange(min=1), default=ROWS, show_default=True, help="Validation rows to ask.")
@click.option("--key-variable", help="Environment variable that holds the key.")
@click.option(
    "--alias", type=click.Choice(ALIASES), help="Compare with this model; otherwise the champion or candidate."
)
@as_json
def verify(
    task: str, url: str, name: str | None, rows: int, key_variable: str | None, alias: str | None, as_json: bool
) -> int:
    """Say whether the model at an endpoint is the one of TASK that was judged: same prompt, same answers, same end. The
    validation rows are sent there several times. Exit code 2: it is not, or it could not be shown.
    """
    loaded, store = get_task(task), Store().artifacts()
    source = find_source(loaded, store, alias)
    if isinstance(source, str):
        problem(source)
        return ERROR
    if hosted := read_hosted(source.merged.folder):
        problem(hosted.cannot("compared with another server"))
        return ERROR
    try:
        address = url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"
        name = name or _name_there(Endpoint(address, loaded.name, key_variable), loaded, source)
        # `finetune serve` would take the validation rows for production's
        unlogged = {"store": False} if name.split(":")[0] == loaded.name else {}
        endpoint = Endpoint(address, name, key_variable, body=unlogged)
        judged = _judged(loaded, store, source, rows)
        result = ask_rows(
            endpoint,
            judged,
            source.serving["max_new_tokens"],
            control_tokens=folder_control_tokens(_folder(source)),
            required=required_share(
                loaded.spec.gates.parity_min_agreement, source.merged.facts["parity"]["same_greedy_share"]
            ),
            changes=max(CHANGES, 1 - source.merged.facts["parity"]["same_greedy_share"]),
        )
    except (ValueError, LookupError, EndpointError) as error:
        problem(str(error.args[0]))
        return ERROR
    if as_json:
        emit({"task": loaded.name, "merged_model": source.merged.version, "passed": result.passed, **asdict(result)})
    else:
        say(
            f"{result.endpoint}, against {loaded.name}'s model {source.merged.version} on {result.rows} validation rows"
        )
        for question in result.questions:
            say(f"  {'ok ' if question.passed else 'NO '} {question.name:<8} {question.message}")
        for note in result.notes:
            say(f"  note: {note}")
        say("it is the model that was judged" if result.passed else f"not verified: {result.cause}")
    return DONE if result.passed else REFUSED


def _name_there(endpoint: Endpoint, task: Task, source: Source) -> str:
    """The model to ask for where nobody says. Raises LookupError naming those there are."""
    listed = models_of(endpoint)
    for name in (f"{task.name}:{source.model_version}", task.name, *(listed if len(listed) == 1 else [])):
        if name in listed:
            return name
    raise LookupError(f"several models are served, or none ({', '.join(listed[:20])}): choose one with --model")


def _folder(source: Source) -> Path:
    return model_folder(served(source.merged, source.base).model)


def _judged(task: Task, store: ArtifactStore, source: Source, most: int) -> list[JudgedRow]:
    """Validation rows of the model's own run, with its answers: from the cache, or computed now as in the evaluation.

    Raises:
        LookupError: There are no such rows.
    """
    split = store.find(task.name, "splits", source.merged.inputs.get("validation_split", ""))
    if split is None:
        raise LookupError(
            f"the validation rows of this model are gone from {store.root}: run `finetune run {task.name}`"
        )
    examples = [e for e in read_examples(examples_of(store.check(split).folder, "validation")) if _is_text(e)]
    examples = sorted(examples, key=lambda e: e.id)[:most]
    if not examples:
        raise LookupError(f"no validation row of {task.name} is answered with a text: calls of tools are not compared")
    return [
        JudgedRow(example.prompt_messages, answer)
        for example, answer in zip(examples, _answers(task, store, source, examples), strict=True)
    ]


def _is_text(example: Example) -> bool:
    return not example.tools and not any("tool_calls" in message for message in example.messages)


def _answers(task: Task, store: ArtifactStore, source: Source, examples: Sequence[Example]) -> list[Answer]:
    model = served(source.merged, source.base)
    with tempfile.TemporaryDirectory(prefix="finetune-verify-") as folder:
        out = Path(folder)
        write_examples(out / "examples.jsonl", examples)
        job = predict_job(
            sets=[prompt_set(name="candidate", model=model.model, adapter=model.adapter)],
            examples=out / "examples.jsonl",
            labels=[],
            max_new_tokens=source.serving["max_new_tokens"],
            batch_size=task.spec.baseline.batch_size,
            answers=kept_in(store, None),
            precision=source.serving.get("precision", "float32"),
            out=out,
            stage="verify",
        )
        Compute(module=read_settings().worker_module).launch(None, job)
        by_id = {row["example_id"]: row for row in read_predictions(out / "predictions.parquet")}
    return [
        Answer(row["text"], row["status"], row["error"], prompt_tokens=row["prompt_tokens"])
        for row in (by_id[e.id] for e in examples)
    ]
