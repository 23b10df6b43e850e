"""The Python API: what the commands do, as functions with typed results.

    import finetune_pipeline.api as finetune

    checked = finetune.check("tickets")
    result = finetune.run("tickets")
    print(finetune.report("tickets").verdict)
    finetune.predict("tickets", ["Where is my parcel?"])

Functions take a loaded task, its name, or its folder. Folders and MLflow's address come from the environment variables of
docs/operations.md. FindingsError names every problem of a task; ValueError says that something was not made yet, and how to
make it; OutsideError is about files, disks and servers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import click
import msgspec

from finetune_pipeline.cli.advise import Advice, advise_task
from finetune_pipeline.cli.check import TaskCheck, check_task
from finetune_pipeline.cli.output import apply_environment, get_task, task_folder
from finetune_pipeline.cli.report import TaskReport, report_task
from finetune_pipeline.cli.run import RunResult, run_task
from finetune_pipeline.data.examples import Message
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.serving.loading import load
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, find_tasks
from finetune_pipeline.tracking.champion import present_champion
from finetune_pipeline.tracking.tracking import Tracking

__all__ = [
    "Advice", "Answer", "Champion", "RunResult", "Task", "TaskCheck", "TaskReport", "advise", "check", "list_tasks",
    "load_task", "predict", "report", "run",
]  # fmt: skip

Conversation = str | Sequence[Mapping[str, str]]
"""What a model is asked: a text, or messages with `role` and `content`, without the system prompt."""


@contextmanager
def _without_click() -> Iterator[None]:
    """Convert errors that are meant for the command line to ValueError."""
    try:
        yield
    except click.ClickException as error:
        raise ValueError(error.format_message()) from error


@_without_click()
def load_task(task: str | Path) -> Task:
    """Load the task of this name, or in this folder. Raises ValueError with every problem of its task.yaml."""
    return get_task(str(task))


def list_tasks() -> dict[str, Path]:
    """Return the folder of every task below the data root, by name."""
    return find_tasks(read_settings().data_root)


@_without_click()
def check(task: Task | str | Path) -> TaskCheck:
    """Check spec and raw rows, as `finetune check`: nothing is trained. `stops` of the result says why a run would stop."""
    folder = task.folder if isinstance(task, Task) else task_folder(str(task))
    settings = read_settings()
    return check_task(folder, ArtifactStore(settings.artifacts), settings.home / "checks")


@_without_click()
def advise(task: Task | str | Path) -> Advice:
    """Say whether a task is worth fine-tuning, as `finetune advise`; prompts and simple models are measured, none trained."""
    return advise_task(_loaded(task))


@_without_click()
def run(task: Task | str | Path, stage: str | None = None) -> RunResult:
    """Run the graph, as `finetune run`; finished steps are skipped, and progress is printed.

    A check or gate that says no is a result (`refused`, `decision`), not an error. Call it from the main thread. Interrupt it
    to stop; the next call continues.

    Args:
        stage: Run only this stage of the graph: data, baseline, training, evaluation, release or production.
    """
    return run_task(_loaded(task), stage)


@_without_click()
def report(task: Task | str | Path) -> TaskReport:
    """Return the newest evaluation: verdict, gates, scores, and the pages. Raises ValueError if there is none."""
    return report_task(_loaded(task))


class Champion:
    """The model in service, in memory, which answers as it was evaluated. Loading it takes seconds; answers are not logged.

    Attributes:
        name: TASK:VERSION, as in MLflow and the logs of `finetune serve`.
    """

    def __init__(self, task: Task | str | Path) -> None:
        apply_environment()
        loaded, tracking = _loaded(task), Tracking()
        tracking.prepare()
        self._loaded = load(present_champion(loaded, Store().artifacts(), tracking))
        self.name = self._loaded.served.name

    def answer(self, conversation: Conversation, constrained: bool = False) -> Answer:
        """Answer a text or a conversation. constrained: decode under the task's JSON schema."""
        turns = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else conversation
        messages = msgspec.convert([dict(turn) for turn in turns], list[Message])
        with self._loaded.turn:
            return self._loaded.answer(messages, None, Event(), constrained)

    def predict(self, conversations: Iterable[Conversation]) -> list[str]:
        """Return the text of each answer, in order."""
        return [self.answer(conversation).text.strip() for conversation in conversations]


def predict(task: Task | str | Path, conversations: Iterable[Conversation]) -> list[str]:
    """Load the champion and return its answers. For several calls, keep a :class:`Champion`."""
    return Champion(task).predict(conversations)


def _loaded(task: Task | str | Path) -> Task:
    if isinstance(task, Task):
        return task
    with _without_click():
        return get_task(str(task))
