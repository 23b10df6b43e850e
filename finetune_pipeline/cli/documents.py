"""The JSON documents that commands print with ``--json``: one class a command, and their published schemas.

A document may have further keys in later versions. A field with a default may be absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from finetune_pipeline.baseline.good_enough import Worth
from finetune_pipeline.baseline.input_evidence import Learnable
from finetune_pipeline.baseline.ladder import Rung
from finetune_pipeline.baseline.learning_curve import Extrapolation, Point
from finetune_pipeline.baseline.prompt_export import PromptManifest
from finetune_pipeline.baseline.reasons import CallTokens, Failures, Retrieval
from finetune_pipeline.baseline.simple_export import SimpleManifest
from finetune_pipeline.baseline.simple_score import SimpleScore
from finetune_pipeline.cli.list_ import TaskRow
from finetune_pipeline.cli.run import RunResult
from finetune_pipeline.cli.try_ import RowsWorth
from finetune_pipeline.data.dedup.cleaning import Cleaned, Copies
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.raw_files import RawFacts
from finetune_pipeline.data.review import Reviewed
from finetune_pipeline.data.split.canaries import EditRecall
from finetune_pipeline.data.validate.validation import Validated
from finetune_pipeline.evaluation.costs import SimpleCost
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings
from finetune_pipeline.evaluation.result_parts import GateResult
from finetune_pipeline.findings import Finding
from finetune_pipeline.models.manifest import Manifest
from finetune_pipeline.planning.costs import Costs
from finetune_pipeline.planning.needs import Needs
from finetune_pipeline.planning.plan import NearestPlan, PlannedTokens
from finetune_pipeline.planning.power import Power
from finetune_pipeline.production.erasure import Forgotten
from finetune_pipeline.production.rollout import Judged
from finetune_pipeline.production.shadow import ShadowReport
from finetune_pipeline.production.share import ShareReport
from finetune_pipeline.report.versus import Versus
from finetune_pipeline.worker.doctor import Machine


@dataclass
class ErrorDocument:
    """What any command prints if it fails. error: what is wrong and what to do; exit_code: the command's."""

    error: str | None
    exit_code: int


@dataclass
class RuleFindings:
    """The findings of one rule: their number, and the first of them."""

    count: int
    examples: list[Finding]


@dataclass
class CheckDocument:
    """usable: the pipeline would not stop at these data; stops: why it would. raw, validated, clean, reviewed: facts of the data
    steps. A task that cannot be read has only the first three."""

    task: str
    usable: bool
    spec_findings: list[Finding]
    stops: list[str] = field(default_factory=list)
    chat_template: str = ""
    raw: RawFacts | None = None
    validated: Validated | None = None
    clean: Cleaned | None = None
    reviewed: Reviewed | None = None
    quality: QualityFacts | None = None
    simple: SimpleScore | None = None
    learnable: Learnable | None = None
    power: Power | None = None
    rules: dict[str, RuleFindings] = field(default_factory=dict)
    folder: str = ""
    full_list: str = ""


@dataclass
class DraftedColumns:
    """text, answer: candidates, the chosen one first. scores: of those that may hold labels."""

    text: list[str]
    answer: list[str]
    unused: list[str]
    scores: list[dict[str, Any]]


@dataclass
class DraftDocument:
    """A drafted task. labels: rows by label; data: the section of task.yaml."""

    files: list[dict[str, Any]]
    kind: str
    labels: dict[str, int]
    other_spellings: dict[str, tuple[str, int]]
    columns: DraftedColumns
    data: dict[str, Any]
    notes: list[str]
    findings: list[Finding]


@dataclass
class _Drafted:
    draft: DraftDocument


@dataclass
class TryDocument(CheckDocument, _Drafted):
    """As of check, with the draft.

    worth: what the rows are worth; next: the command that follows; is_log: the answers are those of a model in its log.
    """

    copies: Copies | None = None
    needs: Needs | None = None
    worth: RowsWorth | None = None
    is_log: bool = False
    next: str = ""


@dataclass
class InitDocument(CheckDocument, _Drafted):
    """As of check, with the draft. copied: names of the raw files."""

    copied: list[str] = field(default_factory=list)


@dataclass
class AdviseDocument:
    """decision: a key such as `prompt`, `simple`, `collect` or `fine_tune`; next: the command that follows. rungs to page: of the
    ladder (--measure, --tuned); the others without it."""

    task: str
    decision: str
    sentence: str
    reasons: list[str]
    next: str
    fine_tune: bool | None = None
    must_reach: float | None = None
    failures: Failures | None = None
    retrieval: Retrieval | None = None
    tokens: CallTokens | None = None
    power: Power | None = None
    worth_training: Worth | None = None
    simple_costs: dict[str, SimpleCost] = field(default_factory=dict)
    metric: str = ""
    rows: int = 0
    confidence: float = 0.0
    rungs: list[Rung] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    expected: Extrapolation | None = None
    stands: str = ""
    flips: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    page: str = ""


@dataclass
class PlanDocument:
    """fits: None if the settings have errors (`findings`); then the rest is missing. Further keys: those of
    planning.plan.TrainingPlan."""

    task: str
    fits: bool | None
    findings: list[Finding]
    source: str = ""
    sentence: str = ""
    memory_mib: dict[str, int] = field(default_factory=dict)
    available_mib: int = 0
    steps: int = 0
    tokens: PlannedTokens | None = None
    nearest: NearestPlan | None = None
    power: Power | None = None
    costs: Costs | None = None


@dataclass(frozen=True)
class RunDocument(RunResult):
    """worked: anything had to be made."""

    worked: bool = False


@dataclass(frozen=True)
class ListedTask(TaskRow):
    """broken: task.yaml has errors (`problems`)."""

    broken: bool = False


@dataclass
class ListDocument:
    """Every task by name."""

    tasks: dict[str, ListedTask]


@dataclass
class ReportDocument:
    """The newest evaluation. html, markdown, audit: files; evaluation: report.json (`finetune show --schema report.json`)."""

    task: str
    version: str
    passed: bool
    verdict: str
    gates: list[GateResult]
    html: str
    audit: str
    markdown: str
    evaluation: dict[str, Any]
    versus: Versus | None = None
    data_request: dict[str, Any] | None = None
    shadow: ShadowReport | None = None
    share: ShareReport | None = None


@dataclass
class RolloutDocument:
    """The rollout that goes on (production.rollout.Rollout); only the first three keys without one. done: what --step did; page:
    shows it."""

    task: str
    sentence: str
    rollout: dict[str, Any] | None
    judged: Judged | None = None
    done: str = ""
    page: str = ""


@dataclass
class ShownStep:
    """A step's present version, and its folder once it is made."""

    version: str
    made: bool
    folder: str | None


@dataclass
class ShowDocument:
    """spec: task.yaml with every default."""

    spec: dict[str, Any]
    folder: str
    chat_template: str
    steps: dict[str, ShownStep]
    edited_copies: dict[str, EditRecall]
    champion: int | None
    champion_forgotten: bool


@dataclass
class ExportDocument:
    """manifest: export.json or simple_model.json. base_folder: of what is served with a base model."""

    folder: str
    manifest: Manifest | SimpleManifest | PromptManifest
    base_folder: str = ""


@dataclass
class VerifyDocument:
    """export --verify. passed: the endpoint serves the evaluated model. Further keys: evaluation.verification's result."""

    task: str
    merged_model: str | None
    model_version: int | None
    passed: bool


@dataclass
class ReviewDocument:
    """sheet: its name; items: to judge. html, jsonl: files written. taken to wrong: of --take. judge: of --judge, which makes no
    sheet."""

    task: str
    what: str
    sheet: str = ""
    items: int = 0
    html: str = ""
    jsonl: str = ""
    judge: JudgeFindings | None = None
    taken: int = 0
    known: int = 0
    files: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class RollbackDocument:
    """champion, previous_champion: versions after the swap."""

    task: str
    champion: int
    previous_champion: int | None
    reason: str | None


@dataclass
class _Task:
    task: str


@dataclass
class ForgetDocument(Forgotten, _Task):
    """blocked: versions that can no longer become champion. files_removed: versions whose files are gone; pages_removed: MLflow
    runs whose copy of a report is gone. champion: the version that serves."""

    blocked: list[int] = field(default_factory=list)
    files_removed: list[int] = field(default_factory=list)
    pages_removed: list[str] = field(default_factory=list)
    champion: int | None = None


@dataclass
class Instigator:
    """A sensor or schedule: whether it is on; time and outcome of its last tick."""

    name: str
    on: bool
    when: str | None
    reason: str | None


@dataclass
class AutomateDocument:
    """The task's sensors and schedule."""

    task: str
    automation: list[Instigator]


@dataclass(frozen=True)
class DoctorDocument(Machine):
    """right: no device is unusable."""

    right: bool = True


@dataclass
class DocsDocument:
    """pages: all, each with name, title and file; or one page, as Markdown."""

    pages: list[dict[str, str]] = field(default_factory=list)
    name: str = ""
    file: str = ""
    markdown: str = ""


DOCUMENTS: dict[str, tuple[type, ...]] = {
    "init": (InitDocument,),
    "try": (TryDocument,),
    "check": (CheckDocument,),
    "advise": (AdviseDocument,),
    "plan": (PlanDocument,),
    "run": (RunDocument,),
    "list": (ListDocument,),
    "report": (ReportDocument,),
    "review": (ReviewDocument,),
    "show": (ShowDocument, ListDocument),
    "export": (ExportDocument, VerifyDocument),
    "rollout": (RolloutDocument,),
    "rollback": (RollbackDocument,),
    "forget": (ForgetDocument,),
    "automate": (AutomateDocument,),
    "doctor": (DoctorDocument,),
    "docs": (DocsDocument,),
}
"""What each command with ``--json`` prints, besides an ErrorDocument."""


def document_schema(command: str) -> dict[str, object]:
    """Return the JSON schema of what a command prints with ``--json``."""
    union: Any = ErrorDocument
    for document in DOCUMENTS[command]:
        union = union | document
    schema = TypeAdapter(union).json_schema()
    title = f"finetune {command} --json"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}
