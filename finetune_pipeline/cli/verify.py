"""``finetune verify TASK --endpoint URL``: checks that a served model is the evaluated one."""

from dataclasses import asdict
from urllib.parse import urlsplit

import click

from finetune_pipeline.cli.judged import ALIASES, find_source, judged_rows
from finetune_pipeline.cli.output import DONE, REFUSED, as_json, get_task, tell
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, models_of
from finetune_pipeline.evaluation.verification import CHANGES, ROWS, required_share
from finetune_pipeline.evaluation.verification import verify as ask_rows
from finetune_pipeline.models.identity import model_folder, served
from finetune_pipeline.models.manifest import Source, folder_control_tokens
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.spec.model import Task


@click.command()
@click.argument("task")
@click.option(
    "--endpoint", "url", required=True, help="Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."
)
@click.option("--model", "name", help="Name of the served model. Unset: the only one listed, or the task's.")
@click.option("--rows", type=click.IntRange(min=1), default=ROWS, show_default=True, help="Validation rows to ask.")
@click.option("--key-variable", help="Environment variable with the API key.")
@click.option(
    "--alias", type=click.Choice(ALIASES), help="Alias of the model to compare with. Unset: champion, else candidate."
)
@as_json
def verify(task: str, url: str, name: str | None, rows: int, key_variable: str | None, alias: str | None) -> int:
    """Check that the model at an endpoint is the evaluated one of TASK: same prompt, same answers, same end of turn. The
    validation rows are sent there several times. Exit code 2: it is not, or this could not be shown.
    """
    loaded, store = get_task(task), Store().artifacts()
    source = find_source(loaded, store, alias, "compared with another server")
    try:
        address = url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"
        name = name or _default_name(Endpoint(address, loaded.name, key_variable), loaded, source)
        # `finetune serve` would log the validation rows as production rows
        unlogged = {"store": False} if name.split(":")[0] == loaded.name else {}
        endpoint = Endpoint(address, name, key_variable, body=unlogged)
        same = source.merged.facts["parity"]["same_greedy_share"]
        result = ask_rows(
            endpoint,
            judged_rows(loaded, store, source, rows),
            source.serving["max_new_tokens"],
            control_tokens=folder_control_tokens(model_folder(served(source.merged, source.base).model)),
            required=required_share(loaded.spec.gates.parity_min_agreement, same),
            changes=max(CHANGES, 1 - same),
        )
    except (ValueError, EndpointError) as error:
        raise click.ClickException(str(error.args[0])) from error
    version = source.merged.version
    tell(
        {"task": loaded.name, "merged_model": version, "passed": result.passed, **asdict(result)},
        f"{result.endpoint}, against {loaded.name}'s model {version} on {result.rows} validation rows",
        *(f"  {'ok ' if q.passed else 'NO '} {q.name:<8} {q.message}" for q in result.questions),
        *(f"  note: {note}" for note in result.notes),
        "this is the evaluated model" if result.passed else f"not verified: {result.cause}",
    )
    return DONE if result.passed else REFUSED


def _default_name(endpoint: Endpoint, task: Task, source: Source) -> str:
    """The default model name. Raises ValueError listing the served models."""
    listed = models_of(endpoint)
    for name in (f"{task.name}:{source.model_version}", task.name, *(listed if len(listed) == 1 else [])):
        if name in listed:
            return name
    raise ValueError(f"the server lists several models, or none ({', '.join(listed[:20])}): choose one with --model")
