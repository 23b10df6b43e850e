"""``finetune review TASK``: people review answers, rows of data and flagged production rows, on a page or in a file."""

import contextlib
import webbrowser
from itertools import chain
from pathlib import Path
from threading import Event

import click

from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, failure, get_task, problem, say, tell, writing
from finetune_pipeline.data.examples import examples_of, hash_order, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.people import read_people
from finetune_pipeline.data.quality.noise import NoisePart
from finetune_pipeline.data.review import SECOND_STAGE, read_decisions
from finetune_pipeline.data.unlabelled import read_unlabelled
from finetune_pipeline.engine.facts import to_json
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import EndpointError
from finetune_pipeline.evaluation.preferences.judge import LIKED, Judge
from finetune_pipeline.evaluation.sealed import user_name
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.choosing import DIFFERS
from finetune_pipeline.production.log_merging import cached_choice, read_logs
from finetune_pipeline.production.logged_answers import log_sources, questions_to_judge
from finetune_pipeline.production.shadow_rows import is_decidable
from finetune_pipeline.report.judgements import judge_sentences
from finetune_pipeline.review.flagged_queue import WaitingRow, flagged_queue
from finetune_pipeline.review.people_queue import people_queue, progress
from finetune_pipeline.review.queues import (
    ReviewQueue,
    outputs_queue,
    rows_queue,
    suspects_queue,
    synthetic_queue,
)
from finetune_pipeline.review.ratings import read_ratings
from finetune_pipeline.review.second_stage import ask_judge, second_stage_sheet
from finetune_pipeline.review.server import review_app
from finetune_pipeline.review.sheet_files import read_table, store, write_table
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import answers_of
from finetune_pipeline.steps.reviews import output_sheet, secret_of
from finetune_pipeline.steps.teacher import ANSWERS

SUBJECTS = ("outputs", "refined", "test", "suspects", "rows", "synthetic", "flagged")


@click.command()
@click.argument("task")
@click.option("--what", type=click.Choice(SUBJECTS), default="outputs", show_default=True, help="What is reviewed.")
@click.option(
    "--items",
    type=click.IntRange(2, 1000),
    default=60,
    show_default=True,
    help="Answers, suspects or rows on the sheet.",
)
@click.option("--rater", default="", help="Your name. Unset: asked on the page; with --what test your user's.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1; 0: any that is free.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.")
@click.option("--page", type=click.Path(path_type=Path), help="Write the page to this file instead of serving it.")
@click.option("--table", type=click.Path(path_type=Path), help="Write the sheet to this .jsonl file.")
@click.option("--judge", is_flag=True, help="With --what refined: ask evaluation.judge in place of people.")
@click.option("--take", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Import a filled-in file.")
@as_json
def review(
    task: str,
    what: str,
    items: int,
    rater: str,
    port: int,
    browser: bool,
    page: Path | None,
    table: Path | None,
    judge: bool,
    take: Path | None,
) -> int:
    """Review answers or rows of TASK: answers of base and candidate side by side, blind (--what outputs), those of the two
    stages of a text task with training.refine (refined), rows without an answer, which people answer for test and validation
    (test), labels in doubt (suspects), rows as they were read (rows), synthetic rows awaiting a decision, or flagged production
    rows. Decisions go into the task folder; the next `finetune run TASK` applies them. --judge asks the declared judge model about
    the rows of --what refined; it counts if it agrees with people on those that they compared.
    """
    loaded = get_task(task)
    if judge:
        return _ask_judge(loaded, what)
    if table is not None and table.exists():
        fix = f"name another file, or import it with --take {table}"
        raise click.ClickException(f"{table} is there already, and may be filled in\nfix: {fix}")
    try:
        queue = _queue(loaded, what, items, rater, taking=take is not None)
        result: dict[str, object] = {"task": loaded.name, "what": what, "sheet": queue.sheet, "items": len(queue.items)}
        if take is not None:
            return _import_sheet(queue, take, result)
        if page is not None:
            with writing(page):
                page.write_text(queue.page(rater), "utf-8")
            result["html"] = str(page.absolute())
        if table is not None:
            with writing(table):
                write_table(queue, table)
            result[table.suffix[1:]] = str(table.absolute())
    except (OSError, ValueError) as error:
        raise click.ClickException(failure(error) or str(error)) from error
    if page is None and table is None:
        return _serve(queue, rater or (user_name() if what == "test" else ""), port, browser)
    headline = f"{len(queue.items)} items, in {', '.join(str(p) for p in (page, table) if p)}"
    tell(result, headline, f"once it is filled in: finetune review {loaded.name} --what {what} --take FILE")
    return DONE


def _queue(task: Task, what: str, items: int, rater: str, taking: bool) -> ReviewQueue:
    """The queue to review. Raises ClickException with the reason if it is empty. taking: whether a filled-in sheet is
    imported, whose rows may be decided already."""
    artifacts = Store().artifacts()
    if what == "test":
        return _unlabelled_rows(task, artifacts, items, rater or user_name(), taking)
    if what == "refined":
        return _both_stages(task, artifacts, items, rater, taking)
    if what == "flagged":
        logs = read_logs(task, artifacts)
        waiting: list[WaitingRow] = [{**row, "why": why} for row, why in cached_choice(task.spec, logs).queue]
        if not is_decidable(task.spec.output):
            compared = [row for row in waiting if row["why"] == DIFFERS]
            waiting = [*compared[:items], *(row for row in waiting if row["why"] != DIFFERS)]
            if len(compared) > items:
                problem(f"{counted(len(compared), 'pair')} of answers wait; the first {items:,} are shown (--items)")
        if not waiting and not taking:
            raise click.ClickException("no production row is waiting: none is flagged, sampled or held back")
        return flagged_queue(task, waiting, secret_of(artifacts), logs.rows)
    if what in ("suspects", "rows"):
        return _data_rows(task, artifacts, what, items, taking)
    step = "test_predictions" if what == "outputs" else "data_quality"
    versions: list[Artifact] = artifacts.all_versions(task.name, step)
    if not versions:
        raise click.ClickException(f"{task.name} has no {step} yet: run `finetune run {task.name}`")
    if what == "synthetic":
        *earlier, rows = [read_rows(artifacts.check(version).path("to_review.jsonl")) for version in versions]
        if not rows and not taking:
            raise click.ClickException("no synthetic row is waiting for a decision")
        return synthetic_queue(task, rows, chain.from_iterable(earlier))
    name, sheet = output_sheet(artifacts.check(versions[-1]), task, items, secret_of(artifacts))
    ratings = [r.to_dict() for r in read_ratings(task.folder / "reviews")[0] if r.sheet == name and r.rater == rater]
    return outputs_queue(task, name, sheet, ratings)


def _second_stage(task: Task, artifacts: ArtifactStore) -> Artifact:
    """The newest second stage of a text task."""
    if not task.spec.training.refine.is_on or task.spec.output.kind != "text":
        fix = "elsewhere the metric decides (`finetune docs preferences`)"
        raise click.ClickException(f"{task.name} is no text task with training.refine\nfix: {fix}")
    newest = artifacts.all_versions(task.name, "refined_adapter")[-1:]
    if not newest or newest[0].skipped:
        raise click.ClickException(f"{task.name} has no refined_adapter yet: run `finetune run {task.name}`")
    return artifacts.check(newest[0])


def _ask_judge(task: Task, what: str) -> int:
    """Ask the declared judge which of the two stages' answers are better."""
    settings, artifacts = task.spec.evaluation.judge, Store().artifacts()
    if what != "refined":
        fix = "`finetune run` asks it about the test; --what refined asks it about a second stage"
        raise click.ClickException(f"--judge compares no {what}\nfix: {fix}")
    if settings is None:
        raise click.ClickException(
            f"{task.name} declares no judge\nfix: declare evaluation.judge (`finetune docs review`)"
        )
    refined = _second_stage(task, artifacts)
    try:
        model = Judge.of(settings, AnswerCache.of(answers_of(artifacts)), LIKED, "refined_adapter")
        findings = ask_judge(task, refined, model, settings, secret_of(artifacts))
    except (EndpointError, ValueError) as error:
        fix = "check the endpoint and its key, and run it again; received replies are kept"
        raise click.ClickException(f"the judge was not asked: {error}\nfix: {fix}") from error
    tell(
        {"task": task.name, "what": what, "judge": to_json(findings)},
        *judge_sentences(findings, "of changed answers", "second stage"),
        *([f"next: finetune run {task.name}"] if findings.believed else []),
    )
    return DONE if findings.believed else REFUSED


def _both_stages(task: Task, artifacts: ArtifactStore, items: int, rater: str, taking: bool) -> ReviewQueue:
    """The queue of text answers that a second stage has changed."""
    name, sheet = second_stage_sheet(_second_stage(task, artifacts), secret_of(artifacts))
    if not sheet and not taking:
        raise click.ClickException(
            "the second stage changed no answer to a validation row, so there is nothing to compare"
        )
    folder = task.folder / "reviews"
    done = [r.to_dict() for r in read_ratings(folder, SECOND_STAGE)[0] if r.sheet == name and r.rater == rater]
    return outputs_queue(task, name, sheet if taking else sheet[:items], done, SECOND_STAGE)


def _unlabelled_rows(task: Task, artifacts: ArtifactStore, items: int, rater: str, taking: bool) -> ReviewQueue:
    """The queue of rows for people to answer, who become test and validation."""
    if task.spec.teacher is None:
        fix = "declare teacher and data.unlabelled in task.yaml; rows with answers are reviewed by --what rows"
        raise click.ClickException(f"{task.name} declares no teacher, so no row waits for people's answers\nfix: {fix}")
    people = read_people(task.folder, task.spec)
    problem(*(f"{f.place}: {f.message}; {f.fix}" for f in people.findings))
    if task.spec.teacher.from_logs:
        logged = read_logs(task, artifacts).rows
        rows, said = questions_to_judge(task.spec, logged, people)
        queue = people_queue(task, rows, people, said, rater, items, log_sources(task, artifacts, logged, people))
    else:
        newest = artifacts.all_versions(task.name, "teacher_answers")[-1:]
        lines = read_rows(artifacts.check(newest[0]).path(ANSWERS)) if newest else []
        said = {str(line["id"]): str(line["answer"]) for line in lines if line.get("answer")}
        queue = people_queue(task, read_unlabelled(task).rows, people, said, rater, items)
    if not queue.items and not taking:
        raise click.ClickException(f"{rater} has answered or skipped every row. {progress(people, task.spec)}")
    return queue


def _data_rows(task: Task, artifacts: ArtifactStore, what: str, items: int, taking: bool) -> ReviewQueue:
    """The queue of label suspects or of a random sample of rows, without decided ones and those of the sealed test."""
    splits, quality = (artifacts.all_versions(task.name, step)[-1:] for step in ("splits", "data_quality"))
    if not splits or not quality:
        raise click.ClickException(f"{task.name} has no data report yet: run `finetune run {task.name}`")
    folder = artifacts.check(splits[0]).folder
    rows = {e.id: e for name in ("train", "validation") for e in stream_examples(examples_of(folder, name))}
    decided = {decision.id for decision in read_decisions(task.folder / "reviews", task.spec)[0]}
    if what == "rows":
        waiting = sorted(rows.keys() - decided, key=lambda name: hash_order(name, "review"))[:items]
        if not waiting and not taking:
            raise click.ClickException("every row of training and validation was reviewed")
        return rows_queue(task, [rows[name] for name in waiting], rows)
    noise = NoisePart.of(read_json(artifacts.check(quality[0]).path("quality.json"))["noise"])
    open_suspects = [suspect for suspect in noise.suspects if suspect.id in rows and suspect.id not in decided]
    if sealed := sum(suspect.id not in rows and suspect.id not in decided for suspect in noise.suspects):
        problem(f"{counted(sealed, 'suspect')} not shown: rows of the sealed test, or removed since")
    if not open_suspects and not taking:
        raise click.ClickException(f"no label is in doubt and undecided: {noise.message}")
    return suspects_queue(task, open_suspects[:items], rows)


def _import_sheet(queue: ReviewQueue, file: Path, result: dict[str, object]) -> int:
    sheet = read_table(queue, file)
    stored = store(queue, sheet.rows)
    problem(*(f"  {line}" for line in sheet.problems))
    known_text = f", {stored.known} were there already" if stored.known else ""
    places = f", in {', '.join(stored.files)}" if stored.files else ""
    facts = {"taken": stored.added, "known": stored.known, "files": stored.files, "wrong": sheet.problems}
    tell({**result, **facts}, f"{stored.added} decisions taken in{known_text}{places}")
    return ERROR if sheet.problems or not stored.added + stored.known else DONE


def _serve(queue: ReviewQueue, rater: str, port: int, browser: bool) -> int:
    app = review_app(queue.page(rater, server=True), queue.take, queue.target(rater or user_name()), queue.reveal)
    with LocalServer(app, port) as server, contextlib.suppress(KeyboardInterrupt):
        say(f"{len(queue.items)} items: {server.url}/")
        say("Ctrl-C stops it; decisions are saved immediately")
        if browser:
            webbrowser.open(f"{server.url}/")
        Event().wait()
    return DONE
