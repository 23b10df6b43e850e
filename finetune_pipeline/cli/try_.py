"""``finetune try FILE…``: checks raw files and scores a simple model in a minute, and keeps nothing."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune_pipeline.cli.init import draft_facts, draft_lines, draft_task, reading_options, write_task
from finetune_pipeline.cli.output import as_json, say, tell
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.wording import counted, inside, percent
from finetune_pipeline.findings import listed
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from finetune_pipeline.cli.check import TaskCheck
    from finetune_pipeline.planning.needs import Needs
    from finetune_pipeline.spec.model import TaskSpec

OF_A_MODEL = (
    "These files are a model's log: its answers are no person's, and the scores below say how well they can be predicted, not how "
    "good they are. `finetune init FILE --allowed` makes this model the teacher, once you have read its provider's terms."
)
_RIVALS = 12
"""Prompts, restricted answers and simple models that a run compares on validation, about."""
_MOST_ROWS = 10_000
ROWS_FIT = "rows_fit"
"""The check that every row can be encoded for the base model."""


@click.command("try")
@reading_options
@as_json
def try_(files: Sequence[Path], **options: Any) -> int:
    """Check FILES in a minute: their faults and duplicates, a linear model's score, and what fine-tuning would need.

    Works in a temporary folder and leaves nothing behind; no model is loaded. `finetune init` makes a task from the files.

    Exit code 2: the pipeline would stop at these data.
    """
    say(f"reading {listed(files, 3)}")
    from finetune_pipeline.data.draft.files import given_files, left_out, task_name

    sources = given_files(files)
    from finetune_pipeline.production.log_draft import are_logs

    draft, findings = draft_task(sources, options, asking=False)
    draft.notes += left_out(files)
    say(*draft_lines(draft), "")
    is_log = not (options["text"] or options["answer"]) and are_logs(sources)
    if is_log:
        say(OF_A_MODEL, "")
    from finetune_pipeline.cli.check import check_task, facts_of, show_check
    from finetune_pipeline.data.dedup.cleaning import Copies, copies_in
    from finetune_pipeline.planning.needs import training_needs

    with tempfile.TemporaryDirectory(prefix="finetune-try-") as place:
        name = task_name([file.path for file in sources])  # as `init` will
        folder, store = Path(place) / name, ArtifactStore(Path(place) / "artifacts")
        write_task(draft, sources, folder, store)
        checked = check_task(folder, store, Path(place) / "checks")
        copies: Copies | None = None
        needs: Needs | None = None
        if checked.task:
            copies = copies_in(checked.artifacts["clean_examples"].folder)
            needs = training_needs(checked.task.spec, checked.rows(), read_settings().home)
        command = init_command(files, options) + (" --allowed" if is_log else "")
        worth, then = rows_worth(checked, needs), f"next: {command}"
        show_check(checked, brief=True, is_kept=False)
        say("", *(copies.lines() if copies else []), *(needs.lines() if needs else []))
        extra_facts = {"copies": asdict(copies) if copies else None, "needs": asdict(needs) if needs else None}
        answer = {"worth": asdict(worth), "next": command, "is_log": is_log}
        tell({**facts_of(checked, is_kept=False), "draft": draft_facts(draft, findings), **extra_facts, **answer})
    say("", worth.sentence, worth.then, "Nothing was kept.", then)
    return checked.code


def init_command(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """Return the command line of `finetune init` that reads the files in the same way."""
    named = [
        (name, value) for name, given in options.items() for value in (given if isinstance(given, tuple) else [given])
    ]
    given_options = [word for name, value in named if value for word in (f"--{name}", value)]
    return shlex.join(["finetune", "init", *map(str, files), *given_options])


@dataclass(frozen=True)
class RowsWorth:
    """What the rows are worth.

    Attributes:
        kind: `unknown`, `nothing`, `too_few_rows`, `simple` (a simple model is enough) or `language_model`.
        rows_lacking: How many more rows to collect, about.
        then: What to do, once there is a task.
    """

    kind: str
    sentence: str
    then: str
    rows_lacking: int = 0


def rows_to_skip_training(spec: TaskSpec, share: float) -> int:
    """Return how many clean rows give enough validation rows to show that a model which is right on this share of them is surely
    at or above baseline.ceiling, however many rivals the run compares (good_enough.sure_of)."""
    from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
    from finetune_pipeline.evaluation.statistics.proportions import wilson_interval

    confidence, rows = shared_confidence(spec.gates.confidence, _RIVALS), 10
    while rows < _MOST_ROWS and wilson_interval(share * rows, rows, confidence)[0] < spec.baseline.ceiling:
        rows += 1
    return math.ceil(rows / spec.split.validation)


def rows_worth(checked: TaskCheck, needs: Needs | None) -> RowsWorth:
    """Say what these rows are worth, and what to do once there is a task."""
    task, simple, signal = checked.task, checked.simple, checked.signal
    cannot_be_read = any(stop.startswith(f"{ROWS_FIT}: ") for stop in checked.stops)
    if task is None or signal is None or needs is None or cannot_be_read:
        unknown = "What the rows are worth cannot be said before the problems above are solved."
        return RowsWorth("unknown", unknown, "A task shows them again: `finetune check TASK`.")
    if signal.status == "not_shown":
        then = "If a person can tell the answer from the input, make a task: a language model may, too."
        return RowsWorth("nothing", f"Nothing here to learn: {signal.sentence}", then)
    lacking = max(0, needs.least - needs.rows, (signal.rows_needed or 0) - needs.rows)
    if signal.status == "too_few_rows":
        then = f"Collect about {counted(lacking, 'row')} more." if lacking else "Collect more."
        return RowsWorth("too_few_rows", "Too few rows to say what they are worth.", then, lacking)
    if simple and simple.interval[0] >= task.spec.baseline.ceiling:
        sentence = f"Worth it, and without a language model: {inside(simple.title)} reaches {percent(simple.value)}."
        export = "`finetune export TASK --simple --to DIR` writes the model."
        wanted = rows_to_skip_training(task.spec, simple.value)
        then = f"`finetune run` then trains nothing, and ships it if the sealed test confirms that; {export}"
        if wanted > needs.rows:
            then = f"`finetune run` trains nothing once the validation rows show that surely, too: about {wanted:,} rows are enough"
            then = f"{then} for that; with fewer it may train. {export}"
        return RowsWorth("simple", sentence, then, lacking)
    reached = f"{inside(simple.title)} reaches {percent(simple.value)}" if simple else "a simple model cannot do it"
    more = f", and about {counted(lacking, 'row')} more" if lacking else ""
    sentence = f"It needs a language model{more}: {reached}."
    return RowsWorth(
        "language_model", sentence, "`finetune advise TASK` then says whether a prompt is enough.", lacking
    )
