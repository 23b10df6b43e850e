"""``finetune check TASK``: checks the spec and the raw data without training anything."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from finetune_pipeline.baseline.decision import Advised, Prospects
from finetune_pipeline.baseline.input_evidence import Learnable, learnable
from finetune_pipeline.baseline.simple_score import SimpleScore, kept_score, learnable_by_score
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, say, task_folder, tell
from finetune_pipeline.data.dedup.cleaning import Cleaned
from finetune_pipeline.data.documents import FOLDER, document_findings
from finetune_pipeline.data.examples import ORIGINS, Example, read_examples, sample_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.preferences.rows import Preference
from finetune_pipeline.data.quality.noise import NoisePart
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.raw_files import RawFacts
from finetune_pipeline.data.split.placement import HUMAN, expected_rows
from finetune_pipeline.data.split.splitting import no_rows_by_people
from finetune_pipeline.data.validate.validation import Validated
from finetune_pipeline.engine.checks import Check
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.findings import Finding, FindingsError, as_rows, errors, finding_lines, listed_files
from finetune_pipeline.models.chat_templates import template_origin
from finetune_pipeline.models.identity import local_base, model_kind
from finetune_pipeline.pipeline import PIPELINE, base_model_folder
from finetune_pipeline.planning.base_counter import base_counter
from finetune_pipeline.planning.gate_needs import obstacles
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.planning.power import Power, power_bounds
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.report.data_quality import write_quality
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task, read_spec
from finetune_pipeline.steps import training_checks
from finetune_pipeline.steps.ability import ability_digest
from finetune_pipeline.steps.data import DATA_STEPS
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.steps.training import preferences_to_plan
from finetune_pipeline.trainers import preflight

EXAMPLES = 3
"""Findings shown of each rule."""
OK, LOOK, STOPS = "ok", "look", "stops"
"""Marks of a check's answer: passed, failed with a warning, failed so that the pipeline would stop."""
PLANNED_ROWS = 2_000
FOUND = ("data_quality", "training_plan", "advice")
"""Steps that need not be repeated if a run has made them of the same rows and settings."""
STEPS = DATA_STEPS[:4]
"""Steps whose facts are shown, named without `_examples`."""

Rows = list[dict[str, Any]]


@dataclass
class TaskCheck:
    """The result of checking one task.

    Attributes:
        problems: Findings about the spec and about unreadable files.
        task: None if the spec or all rows are unusable; the other fields are then empty.
        artifacts: Artifacts of the data steps.
        simple: Score of the simplest model; None if there are too few rows.
        answers: (OK, LOOK or STOPS; name; message) of each check.
        rules: Findings by rule, most frequent first.
        folder: Where the report was written.
    """

    name: str
    problems: list[Finding]
    code: int
    task: Task | None = None
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    quality: Artifact | None = None
    signal: Learnable | None = None
    simple: SimpleScore | None = None
    unread: list[Finding] = field(default_factory=list)
    answers: list[tuple[str, str, str]] = field(default_factory=list)
    rules: dict[str, Rows] = field(default_factory=dict)
    power: Power | None = None
    folder: Path = Path()

    @property
    def stops(self) -> list[str]:
        """Return the reasons why the pipeline would stop."""
        return [f"{name}: {message}" for mark, name, message in self.answers if mark == STOPS]

    def rows(self) -> list[Example]:
        """Return the rows left to split."""
        return read_examples(self.artifacts["reviewed_examples"].folder)


@click.command()
@click.argument("task")
@as_json
def check(task: str) -> int:
    """Check the spec and every raw row of TASK: the findings by rule with three places each, the full list in a file.

    Exit code 2 when the pipeline would stop at these data (too many bad rows, too few good ones, rows to be reviewed).
    """
    settings = read_settings()
    checked = check_task(task_folder(task), ArtifactStore(settings.artifacts), settings.home / "checks")
    show_check(checked)
    tell(facts_of(checked))
    return checked.code


def check_task(folder: Path, store: ArtifactStore, reports: Path) -> TaskCheck:
    """Check the task in a folder, and write its report below `reports`. Only one check runs at a time."""
    with store.lock(folder.name, "check"):
        return _check_task(folder, store, reports)


def _check_task(folder: Path, store: ArtifactStore, reports: Path) -> TaskCheck:
    loaded, problems = _load_task(folder, store)
    if loaded is None:
        return TaskCheck(folder.name, problems, ERROR)
    if loaded.spec.baseline.documents:
        problems += document_findings(loaded.folder / FOLDER)
    try:
        run_inputs = collect_run_inputs(loaded, None, store)
        artifacts = PIPELINE.run_to("reviewed_examples", loaded, run_inputs, store)
    except FindingsError as error:
        return TaskCheck(loaded.name, [*problems, *error.findings], ERROR)
    validated = artifacts["validated_examples"].read(Validated)
    unread = [part.finding for part in validated.unread]
    if not validated.rows_in:
        no_rows = Finding("data.no_rows", "error", loaded.name, "no row was read", "see the findings for its files")
        return TaskCheck(loaded.name, [*problems, *unread, no_rows], REFUSED)
    out = reports / loaded.name
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # findings quote raw rows
    checked = TaskCheck(loaded.name, problems, DONE, loaded, artifacts, unread=unread, folder=out)
    stored = {name: PIPELINE.find(name, loaded, run_inputs, store) for name in FOUND}
    rows, quality, plan = checked.rows(), stored["data_quality"], stored["training_plan"]
    if quality is None or plan is None:
        base = base_model_folder(loaded, store)
        counter = base_counter(loaded, base)
        quality = quality or _quality(loaded, artifacts, counter, out)
        preferences = preferences_to_plan(PIPELINE.find("preference_rows", loaded, run_inputs, store), loaded)
        plan = plan or _plan(loaded, rows, preferences, base, counter, quality)
    checked.quality = quality
    noise, version = (
        NoisePart.of(read_json(quality.path("quality.json"))["noise"]),
        artifacts["reviewed_examples"].version,
    )
    checked.simple = kept_score(out / "simple.json", version, loaded.spec, rows, noise)
    checked.signal, checked.power = _evidence(loaded, rows, checked.simple, stored["advice"])
    if validated.kept:
        to_check = [*artifacts.values(), quality, *([plan] if plan else [])]
        folders = [*(artifacts[step].folder for step in ("production_logs", *STEPS[1:])), quality.folder]
    else:  # without valid rows, the later steps have nothing to check
        to_check = [artifacts["raw_examples"], artifacts["validated_examples"]]
        folders = [artifacts[step].folder for step in ("production_logs", "validated_examples")]
    checked.answers = _run_checks(loaded, to_check)
    if finding := no_rows_by_people(loaded.spec, sum(row.origin == ORIGINS[HUMAN] for row in rows), len(rows)):
        checked.answers.append((STOPS, "splits", f"{finding.message} (fix: {finding.fix})"))
    if checked.signal and checked.power:
        facts = Prospects(learnable=checked.signal, power=checked.power).to_json()
        advice = Artifact(loaded.name, "advice", "", out, facts, {})
        checked.answers += [
            _answer(loaded, advice, check) for check in (training_checks.learnable, training_checks.enough_test_rows)
        ]
    checked.rules = _findings_by_rule(folders, out / "findings.jsonl")
    checked.code = ERROR if errors(problems) else REFUSED if checked.stops else DONE
    return checked


def _evidence(
    task: Task, rows: list[Example], simple: SimpleScore | None, advice: Artifact | None
) -> tuple[Learnable | None, Power]:
    """Return whether the inputs predict the answers, and what the test can show: as the run measured it, or else by the rows
    alone."""
    if advice is not None:
        advised = advice.read(Advised)
        return advised.learnable, advised.power
    spec = task.spec
    _, test_rows = expected_rows(spec, rows)
    signal = learnable_by_score(spec, simple) or learnable(spec, rows) if rows else None
    return signal, power_bounds(spec, test_rows, obstacles(spec, test_rows, rows))


def facts_of(checked: TaskCheck, is_kept: bool = True) -> dict[str, Any]:
    """Return the result as plain JSON. is_kept: the artifacts are kept, so it names their folders."""
    facts = {"task": checked.name, "usable": not checked.code, "spec_findings": as_rows(checked.problems)}
    if checked.task is None or checked.quality is None:
        return facts
    return facts | {
        "stops": checked.stops,
        "chat_template": template_origin(checked.task.spec.chat_template, checked.task.folder),
        **{step.removesuffix("_examples"): checked.artifacts[step].facts for step in STEPS},
        "quality": checked.quality.facts,
        "simple": asdict(checked.simple) if checked.simple else None,
        "learnable": asdict(checked.signal) if checked.signal else None,
        "power": checked.power.to_json() if checked.power else None,
        "rules": {rule: {"count": len(rows), "examples": rows[:EXAMPLES]} for rule, rows in checked.rules.items()},
        **({"folder": str(checked.folder), "full_list": str(checked.folder / "findings.jsonl")} if is_kept else {}),
    }


def show_check(checked: TaskCheck, brief: bool = False, is_kept: bool = True) -> None:
    """Print the result. brief: only problems; is_kept: the artifacts are kept, so print where they are."""
    say(*finding_lines([*checked.unread, *checked.problems]))
    if checked.task is None:
        return
    artifacts = checked.artifacts
    if not brief:
        say(f"chat template: {template_origin(checked.task.spec.chat_template, checked.task.folder)}")
    _show_counts(artifacts)
    answers = [answer for answer in checked.answers if not brief or answer[0] != OK]
    say(*([""] if answers else []), *(f"{mark:5} {name:24} {message}" for mark, name, message in answers))
    shown_above = {finding.rule for finding in checked.unread}
    _show_rules({rule: rows for rule, rows in checked.rules.items() if rule not in shown_above})
    validated, clean = artifacts["validated_examples"].read(Validated), artifacts["clean_examples"].read(Cleaned)
    if validated.kept:
        say(f"\n{checked.simple.sentence if checked.simple else 'There are too few rows to fit a simple model.'}")
        if checked.power and "enough_test_rows" not in [name for _, name, _ in answers]:
            say(checked.power.sentence)
    if is_kept and checked.quality:
        say(f"\npage: {checked.quality.path('report.html')}", f"all findings: {checked.folder / 'findings.jsonl'}")
    for step, facts in (("validated_examples", validated), ("clean_examples", clean)) if is_kept else ():
        if facts.quarantined:
            say(f"rows in quarantine: {artifacts[step].path('quarantine.jsonl')}")
    say(*(f"the pipeline would stop: {stop}" for stop in checked.stops))
    if not brief and not checked.code:
        say(f"next: finetune run {checked.name}")
    if checked.signal and checked.signal.evidence and any(stop.startswith("learnable") for stop in checked.stops):
        say(
            f"The run continues if a prompted model can predict the answers: `finetune advise {checked.name}` tests it."
        )


def _load_task(folder: Path, store: ArtifactStore) -> tuple[Task | None, list[Finding]]:
    """Return (the task, or None if its spec or training is invalid; all findings)."""
    spec, findings = read_spec(folder)
    if spec is None:
        return None, findings
    task = Task(spec=spec, folder=folder.resolve())
    findings += [f for f in preflight(spec, task.folder, base_model_folder(task, store)) if f not in findings]
    try:
        ability_digest(task)
    except FindingsError as error:
        findings += error.findings
    return (None if errors(findings) else task), findings


def _quality(task: Task, artifacts: Mapping[str, Artifact], counter: TokenCounter | None, folder: Path) -> Artifact:
    """Make the data_quality artifact without the parts that need splits; with tokens if the base model is on this machine."""
    facts = write_quality(
        task.spec,
        reviewed=artifacts["reviewed_examples"].folder,
        clean=artifacts["clean_examples"].folder,
        splits=None,
        counter=counter,
        stages={step: artifacts[step].facts for step in STEPS},
        out=folder,
    )
    return Artifact(task.name, "data_quality", "", folder, facts.to_json(), {})


def _plan(
    task: Task,
    rows: list[Example],
    preferences: list[Preference],
    base: Path | None,
    counter: TokenCounter | None,
    quality: Artifact,
) -> Artifact | None:
    """Plan the training as `finetune plan` does, on at most 2,000 rows; None if they cannot be encoded, or the weights of the
    base model are not on this machine."""
    spec = task.spec
    if base is None and model_kind(spec.base_model, spec.base_revision) == "local":
        base = local_base(spec.base_model)
    if base is None or counter is None or not rows or "tokens" in quality.read(QualityFacts).blocked_by:
        return None
    planned = sample_examples(rows, PLANNED_ROWS, "plan")
    n_validation, n_test = expected_rows(spec, planned)
    validation, train = planned[:n_validation], planned[n_validation : len(planned) - n_test]
    plan = training_plan(
        spec, base, train, validation, task_folder=task.folder, counter=counter, preferences=preferences
    )
    if len(planned) < len(rows):
        plan = replace(plan, sentence=f"of {len(planned):,} of {len(rows):,} rows: {plan.sentence}")
    return Artifact(task.name, "training_plan", "", quality.folder, plan.to_json(), {})


def _run_checks(task: Task, artifacts: list[Artifact]) -> list[tuple[str, str, str]]:
    """Run the steps' own checks on these artifacts. Returns TaskCheck.answers."""
    return [_answer(task, artifact, check) for artifact in artifacts for check in PIPELINE.steps[artifact.step].checks]


def _answer(task: Task, artifact: Artifact, check: Check) -> tuple[str, str, str]:
    result = check.ask(artifact, task.spec)
    mark = OK
    if not result.passed:
        mark = STOPS if check.holds_back(artifact, task.spec) else LOOK
    return mark, check.name, result.message


def _findings_by_rule(folders: list[Path], full_list: Path) -> dict[str, Rows]:
    """Group the findings in these folders by rule, most frequent first, and write all of them to `full_list`. Logs have theirs
    beside the lines in quarantine."""
    files = [(folder / "findings.jsonl", folder / "quarantine.jsonl") for folder in folders]
    all_findings = chain.from_iterable(
        read_rows(own) if own.exists() else (f for line in read_rows(quarantine) for f in line["findings"])
        for own, quarantine in files
    )
    grouped: dict[str, Rows] = {}
    for finding in all_findings:
        grouped.setdefault(finding["rule"], []).append(finding)
    write_rows(full_list, chain.from_iterable(grouped.values()))
    return dict(sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0])))


def _show_counts(artifacts: Mapping[str, Artifact]) -> None:
    validated, clean = artifacts["validated_examples"].read(Validated), artifacts["clean_examples"].read(Cleaned)
    files = [file for file in artifacts["raw_examples"].read(RawFacts).files if file.bytes]
    alike: dict[str, list[str]] = {}
    for file in files:
        alike.setdefault(f"{file.container} ({file.reason})", []).append(file.file)
    for kind, names in alike.items():
        say(f"{listed_files(names)}: {kind}")
    say(f"formats: {', '.join(f'{n} {shape}' for shape, n in validated.shapes.items())}")
    say(
        f"{validated.rows_in} rows in {counted(len(files), 'file')} = {validated.kept} valid + {validated.quarantined} in "
        "quarantine"
    )
    say(
        f"{clean.rows_in} valid = {clean.kept} kept + {clean.exact_duplicates} exact and {clean.near_duplicates} near duplicates + "
        f"{clean.quarantined} in quarantine"
    )
    if unknown := validated.labels_unknown:
        say(f"labels missing from output.labels: {', '.join(f'{label} × {n}' for label, n in unknown.items())}")
    for kind, n in sorted(clean.scrubbed.items()):
        if n:
            say(f"scrubbed: {n} × {kind}")


def _show_rules(rules: Mapping[str, Rows]) -> None:
    for rule, findings in rules.items():
        say(f"\n{findings[0]['severity']}: {rule}: {len(findings):,}")
        places_by_message: dict[tuple[str, str], list[str]] = {}
        for finding in findings:
            places_by_message.setdefault((finding["message"], finding["fix"]), []).append(finding["place"])
        for (message, fix), places in list(places_by_message.items())[:EXAMPLES]:
            more = f" and {len(places) - EXAMPLES:,} more" if len(places) > EXAMPLES else ""
            say(f"  {'; '.join(places[:EXAMPLES])}{more}: {message}\n    fix: {fix}")
        if remaining := sum(map(len, list(places_by_message.values())[EXAMPLES:])):
            say(f"  and {remaining:,} more")
