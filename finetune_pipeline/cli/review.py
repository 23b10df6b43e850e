"""``finetune review TASK``: people look at answers, synthetic rows and flagged production rows, on a page or by file."""

from __future__ import annotations

import getpass
import secrets
import time
import webbrowser
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.artifacts import Artifact
from finetune_pipeline.cli.output import DONE, ERROR, as_json, emit, get_task, problem, say
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.people.desks import (
    Desk,
    flagged_desk,
    judge,
    outputs_desk,
    read_table,
    synthetic_desk,
    write_table,
)
from finetune_pipeline.people.handed_in import store
from finetune_pipeline.people.ratings import read_ratings
from finetune_pipeline.people.server import review_server
from finetune_pipeline.production.ingest import chosen, read_logs
from finetune_pipeline.resources.store import Store
from finetune_pipeline.spec.model import Task
from finetune_pipeline.stages.people import output_sheet, secret_of

SUBJECTS = ("outputs", "synthetic", "flagged")


@click.command()
@click.argument("task")
@click.option("--what", type=click.Choice(SUBJECTS), default="outputs", show_default=True, help="What is reviewed.")
@click.option("--items", type=click.IntRange(2, 1000), default=60, show_default=True, help="Answers on the sheet.")
@click.option("--rater", default="", help="Your name; otherwise asked on the page.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1; 0: any that is free.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")
@click.option("--seconds", default=0.0, help="Stop by itself after so many seconds; 0: run until Ctrl-C.")
@click.option("--page", type=click.Path(path_type=Path), help="Write the page to this file instead of serving it.")
@click.option("--table", type=click.Path(path_type=Path), help="Write the sheet to this .csv or .jsonl file.")
@click.option("--take", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take a filled-in file in.")
@click.option(
    "--mlflow",
    type=click.Choice(["push", "take"]),
    help="Review in MLflow's own Review tab: put the items there, or take the answers back.",
)
@as_json
def review(
    task: str,
    what: str,
    items: int,
    rater: str,
    port: int,
    browser: bool,
    seconds: float,
    page: Path | None,
    table: Path | None,
    take: Path | None,
    mlflow: str | None,
    as_json: bool,
) -> int:
    """Review answers of base and candidate side by side, blind (--what outputs), synthetic rows that wait for a decision,
    or production rows that wait for people. Decisions go into the task folder; the next `finetune run TASK` takes them in.
    """
    loaded = get_task(task)
    desk = _desk(loaded, what, items, rater)
    if isinstance(desk, str):
        problem(desk)
        return ERROR
    told: dict[str, object] = {"task": loaded.name, "what": what, "sheet": desk.sheet, "items": len(desk.items)}
    if mlflow is not None:
        return _in_mlflow(desk, mlflow, loaded.name, rater, told, as_json)
    try:
        if take is not None:
            return _store(desk, *read_table(desk, take), told, as_json)
        for path, write in (
            (page, lambda p: p.write_text(desk.page(rater), "utf-8")),
            (table, lambda p: write_table(desk, p)),
        ):
            if path is not None:
                write(path)
                told[str(path.suffix[1:])] = str(path.absolute())
    except (OSError, ValueError) as error:
        problem(str(error))
        return ERROR
    if page is None and table is None:
        return _serve(desk, rater, port, browser, seconds)
    if as_json:
        emit(told)
    else:
        say(f"{len(desk.items)} items, in {', '.join(str(p) for p in (page, table) if p)}")
        say(f"when it comes back: finetune review {loaded.name} --what {what} --take FILE")
    return DONE


def _desk(task: Task, what: str, items: int, rater: str) -> Desk | str:
    """What is reviewed, or why there is nothing to review."""
    artifacts = Store().artifacts()
    if what == "flagged":
        queue = chosen(task.spec, read_logs(task, artifacts)).queue
        rows = [{**row, "why": why} for row, why in queue]
        return flagged_desk(task, rows) if rows else "no production row waits: none is flagged, sampled or held back"
    step = "test_predictions" if what == "outputs" else "data_quality"
    made: list[Artifact] = artifacts.all_versions(task.name, step)
    if not made:
        return f"{task.name} has no {step} yet: run `finetune run {task.name}`"
    if what == "synthetic":
        rows = read_rows(made[-1].path("to_review.jsonl"))
        return synthetic_desk(task, rows) if rows else "no synthetic row waits for a decision"
    name, sheet = output_sheet(made[-1], task, items, secret_of(artifacts))
    done = [r.to_dict() for r in read_ratings(task.folder / "reviews")[0] if r.sheet == name and r.rater == rater]
    return outputs_desk(task, name, sheet, done)


def _in_mlflow(desk: Desk, way: str, task: str, rater: str, told: dict[str, object], as_json: bool) -> int:
    from finetune_pipeline.resources import review_tab
    from finetune_pipeline.resources.tracking import Tracking

    tracking = Tracking()
    if way == "take":
        lines, gone = review_tab.answers(desk, tracking, task, rater)
        if gone:
            say(f"{gone} answers are about items that are not on this sheet any more: they are left where they are")
        return _store(desk, *judge(desk, lines), {**told, "not_on_sheet": gone}, as_json)
    queue = review_tab.push(desk, tracking, task)
    if as_json:
        emit({**told, "queue": queue.name, "added": queue.added, "page": queue.page})
    else:
        say(f"{queue.items} items ({queue.added} of them new) in the queue {queue.name}: {queue.page}")
        say("MLflow's pages run with `finetune ui`; without accounts there, all its reviewers are one person")
        say(f"when people have answered: finetune review {task} --what {told['what']} --mlflow take --rater NAME")
    return DONE


def _store(
    desk: Desk, by_rater: dict[str, list[dict[str, Any]]], wrong: list[str], told: dict[str, object], as_json: bool
) -> int:
    taken, known, files = store(desk, by_rater)
    if as_json:
        emit({**told, "taken": taken, "known": known, "files": files, "wrong": wrong})
    else:
        again = f", {known} were there already" if known else ""
        say(f"{taken} decisions taken in{again}" + (f", in {', '.join(files)}" if files else ""))
        for one in wrong:
            problem(f"  {one}")
    return ERROR if wrong or not taken + known else DONE


def _serve(desk: Desk, rater: str, port: int, browser: bool, seconds: float) -> int:
    token = secrets.token_urlsafe(24)
    try:
        server = review_server(desk.page(rater, token), token, desk.take, desk.target(rater or getpass.getuser()), port)
    except OSError as error:
        problem(f"port {port} cannot be used: {error.strerror}; leave --port out")
        return ERROR
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    say(f"{len(desk.items)} items: {address}")
    say("Ctrl-C ends it; what is decided is stored at once")
    if browser:
        webbrowser.open(address)
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    end = time.monotonic() + seconds if seconds else None
    try:
        while end is None or time.monotonic() < end:
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        server.shutdown()
        server.server_close()
    return DONE
