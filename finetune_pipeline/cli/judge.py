"""``finetune judge TASK``: base against fine-tuned by a language model, once it has agreed with people."""

from __future__ import annotations

from pathlib import Path

import click

from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, get_task, problem, say
from finetune_pipeline.cli.project import open_project
from finetune_pipeline.engine.store import write_json
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError
from finetune_pipeline.evaluation.judged_facts import JudgeFindings
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, read_test_rows
from finetune_pipeline.evaluation.preferences.judge import Judge
from finetune_pipeline.evaluation.preferences.pairs import prediction_pairs, read_ratings
from finetune_pipeline.evaluation.preferences.qualify import judged_pairs
from finetune_pipeline.report.judgements import judge_sentences
from finetune_pipeline.steps.earlier_runs import open_answers


@click.command()
@click.argument("task")
@click.option(
    "--url", required=True, help="Of an OpenAI-style endpoint, without /chat/completions. Test texts go there."
)
@click.option("--model", required=True, help="Name of the judging model there.")
@click.option("--key-variable", help="Environment variable that holds the endpoint's key.")
@click.option(
    "--ratings",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON Lines of people: {"id": …, "prefers": "base", "candidate" or "tie"}.',
)
@as_json
def judge(task: str, url: str, model: str, key_variable: str | None, ratings: Path, as_json: bool) -> int:
    """Ask a language model which answers to TASK's test are better. It is believed only if it agrees with people's
    ratings and is moved by neither place nor length; otherwise exit code 2, and no verdict."""
    loaded = get_task(task)
    project = open_project(loaded)
    artifact = project.artifacts()["test_predictions"]
    if artifact is None:
        problem(f"{loaded.name} has no predictions yet: run `finetune run {loaded.name}`")
        return ERROR
    rows = read_predictions(artifact.path("predictions.parquet"))
    pairs = prediction_pairs(of_model(rows, "base"), of_model(rows, "candidate"), read_test_rows(artifact.folder).texts)
    people, problems = read_ratings(ratings, {pair.id for pair in pairs})
    out = project.store.state_folder(loaded.name) / "judge"
    out.mkdir(parents=True, exist_ok=True)
    try:
        who = Judge(Endpoint(url, model, key_variable), cache=open_answers(project.store, loaded.name))
        verdict = judged_pairs(who, pairs, people, len(pairs))
    except (EndpointError, ValueError) as error:
        problem(str(error))
        return ERROR
    result = {"task": loaded.name, **verdict, "problems": problems}
    write_json(out / f"{artifact.version}.json", result)
    if as_json:
        emit(result)
    else:
        for line in problems:
            problem(line)
        for sentence in judge_sentences(JudgeFindings.model_validate(verdict)):
            say(sentence)
    return DONE if verdict["believed"] else REFUSED
