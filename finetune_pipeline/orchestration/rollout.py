"""Takes the steps of a rollout: from what the production logs say to the registry, and to the page that shows it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_pipeline.engine.files import replace_text
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.rollout import Judged, Rollout, alias_of, judge, next_percent
from finetune_pipeline.report.page import page_html
from finetune_pipeline.report.rollout_page import rollout_page
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import rollouts
from finetune_pipeline.tracking.tracking import Tracking


@dataclass(frozen=True)
class RolloutState:
    """A rollout as it goes.

    Attributes:
        rollout: The stage that was judged.
        judged: What the rows say of it.
        done: What was done about it; empty: nothing.
        page: Where it is shown.
    """

    rollout: Rollout
    judged: Judged
    done: str
    page: Path

    @property
    def sentence(self) -> str:
        """The state in one sentence."""
        said = f"version {self.rollout.candidate} is at {self.rollout.alias}: {self.judged.why}"
        return f"{said}; {self.done}" if self.done else said


def watch_rollout(task: Task, store: ArtifactStore, tracking: Tracking, act: bool) -> RolloutState | None:
    """Judge the present stage of a task's rollout, and write its page; None without a rollout.

    act: Begin the next stage, promote the candidate, or end the rollout, as judged.

    Raises ValueError and OutsideError like :func:`.rollouts.advance`, and ValueError if task.yaml has no key `rollout` any more.
    """
    rollout = rollouts.present(tracking, task.name)
    if rollout and task.spec.rollout is None:
        raise ValueError(
            f"task.yaml declares no rollout any more, but version {rollout.candidate} is still at {rollout.alias}, and servers "
            f"follow that until they start again\nfix: `finetune run {task.name}` promotes it at once, `finetune rollout "
            f"{task.name} --stop WHY` ends it, and with `rollout: {{}}` it goes on"
        )
    if rollout is None or task.spec.rollout is None:
        if act:
            rollouts.tidy(tracking, task.name)
        return None
    judged = judge(read_logs(task, store).rows, task.spec, rollout, datetime.now(UTC))
    done = _act(task, tracking, rollout, judged) if act else ""
    page = store.state_folder(task.name) / "rollout.html"
    history = rollouts.history(tracking, task.name)
    state = RolloutState(rollout, judged, done, page)
    page.parent.mkdir(parents=True, exist_ok=True)
    replace_text(page, page_html(rollout_page(task.spec, rollout, judged, state.sentence, history)))
    return state


def _act(task: Task, tracking: Tracking, rollout: Rollout, judged: Judged) -> str:
    if judged.action == "stop":
        rollouts.stop(tracking, task.name, rollout, judged.why)
        return f"its rollout has ended, and version {rollout.champion} serves on"
    if judged.action == "wait":
        return ""
    percent = next_percent(task.spec, rollout.percent)
    rollouts.advance(tracking, task.name, rollout, percent, judged.why)
    return "it is the champion now" if percent is None else f"it goes on to {alias_of(percent)}"
