"""``finetune serve TASK``: serves the champion on this machine and writes production logs."""

import signal
from threading import Event

import click

from finetune_pipeline.cli.output import DONE, get_task, problem, say
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.wording import dollars
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.production.log_files import OWN_FOLDER
from finetune_pipeline.serving.fallback import fallback_of
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.rollout import FollowedRollout
from finetune_pipeline.serving.server import chat_app
from finetune_pipeline.serving.service import LogWriter, Service
from finetune_pipeline.serving.shadow import WAITING_ROWS, Shadow
from finetune_pipeline.serving.share import Share
from finetune_pipeline.settings import read_settings
from finetune_pipeline.steps.earlier_runs import answers_of
from finetune_pipeline.tracking import rollouts
from finetune_pipeline.tracking.champion import present_champion, second_version, served_version
from finetune_pipeline.tracking.registry import CANDIDATE
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.argument("task")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port on 127.0.0.1; 0: any free one."
)
@click.option(
    "--fallback", is_flag=True, help="Let the model of baseline.endpoint answer what the champion is not sure of."
)
@click.option(
    "--shadow",
    metavar="VERSION",
    help="Let this registered version, or `candidate`, answer the same rows behind the champion, for the log alone.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    metavar="PERCENT",
    help="Let the candidate answer this percentage of the users or conversations in place of the champion.",
)
@click.option(
    "--candidate",
    metavar="VERSION",
    help="The version that --share means: its number, or `candidate`, the newest, which is the default.",
)
def serve(task: str, port: int, fallback: bool, shadow: str | None, share: float | None, candidate: str | None) -> int:
    """Serve the champion of TASK on 127.0.0.1: it answers OpenAI-style chat completions, and logs every answer.

    POST /v1/chat/completions; POST /classify of a classifier, as vLLM has it; GET /v1/models, GET /health, and POST /feedback
    {id, flag, score, correction, label}. Rows go into the task's logs/, which the next `finetune run` reads. For trying the
    loop on one machine; in production serve the folder of `finetune export` with vLLM or another server.

    With automation.max_error, answers below the certified threshold are marked `passed_on`. With --fallback another model answers
    them, within automation.fallback_seconds and automation.fallback_dollars; it receives their texts.

    With --shadow no client gets the second model's answers. It works in a process of its own, and only while the champion has
    nothing to do; `finetune report TASK --shadow` compares both.

    With --share a hash of `user`, or without one, of the first message decides who answers: a user or conversation keeps its model.
    Response and log name it. Where the candidate fails, the champion answers. `finetune report TASK --shadow` compares both.

    With the key `rollout` and neither of them, the stages of the present rollout are followed; see `finetune rollout`.
    """
    if shadow and share:
        raise click.UsageError("--shadow and --share are two steps: let the candidate answer behind the champion first")
    if candidate and not share:
        raise click.UsageError("--candidate is the version that --share PERCENT means: give both")
    loaded = get_task(task)
    store, tracking = Store().artifacts(), Tracking()
    tracking.prepare()
    writer = LogWriter(loaded.folder / OWN_FOLDER)
    second = None
    if fallback:
        prices = load_prices(home=read_settings().home, task_folder=loaded.folder)
        second = fallback_of(loaded, store, prices, AnswerCache.of(answers_of(store)))
    behind = Shadow(second_version(loaded, store, tracking, shadow), writer.write, problem) if shadow else None
    beside = None
    if share:
        beside = Share(second_version(loaded, store, tracking, candidate or CANDIDATE), share, problem)
    followed = None
    if loaded.spec.rollout and not behind and not beside:
        followed = FollowedRollout(
            lambda: rollouts.present(tracking, loaded.name),
            lambda version: served_version(loaded, store, tracking, version),
            writer.write,
            problem,
        )
    service = Service(
        loaded, lambda: present_champion(loaded, store, tracking), writer, problem, second, behind, beside, followed
    )
    server = LocalServer(chat_app(service), port)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    service.watch()
    with server:
        say(f"serving {service.model} at {server.url}/v1 (Ctrl-C stops it)")
        say(f"logging to {writer.path}")
        if behind:
            say(f"behind it answers {behind.name}, for the log alone; at most {WAITING_ROWS} rows wait for it")
        if beside:
            say(f"{beside.name} answers {beside.percent:g}% of the users or conversations in its place")
        if second:
            spent = f"{dollars(second.spending.month().dollars)} of {dollars(second.spending.limit)} spent this month"
            say(f"what is passed on is answered by {second.name} ({spent})")
        stop.wait()
        service.close()
    return DONE
