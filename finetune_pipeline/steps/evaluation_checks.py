"""Checks of the EVALUATION, RELEASE and PRODUCTION stages. Gates stop the alias `champion`, not the graph."""

from collections.abc import Callable

from finetune_pipeline.engine.checks import Check, CheckResult, check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.ability.drop import Ability, Scored
from finetune_pipeline.evaluation.gates import GATES, Gate
from finetune_pipeline.evaluation.gates.general_ability import general_ability
from finetune_pipeline.evaluation.prediction_facts import Predicted
from finetune_pipeline.evaluation.preferences.judge import JudgeReview
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.production.drift import DriftReport
from finetune_pipeline.production.released import Released
from finetune_pipeline.report.judgements import judge_sentences
from finetune_pipeline.report.stored import Evaluated
from finetune_pipeline.spec.model import TaskSpec


@check("Every model answered every test row; none failed.", name="all_rows_predicted")
def all_predicted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    predicted = artifact.read(Predicted)
    errors, rows = predicted.failed, {name: predicted.sets[name].rows for name in predicted.failed}
    complete = len(set(rows.values())) == 1 and all(n > 0 for n in rows.values()) and not any(errors.values())
    return CheckResult(complete, ", ".join(f"{name}: {n} rows, {errors[name]} failed" for name, n in rows.items()))


def _gate(name: str) -> Callable[[Artifact, TaskSpec], CheckResult]:
    def judge(artifact: Artifact, spec: TaskSpec) -> CheckResult:
        gate = {gate.name: gate for gate in artifact.read(Evaluated).gates}[name]
        figures = gate.model_dump(include={"status", "measured", "threshold", "what_to_do"})
        shown = {figure: value for figure, value in figures.items() if value not in (None, "")}
        message = f"Not asked: {gate.message}" if gate.status == "not_asked" else gate.message
        return CheckResult(gate.status in ("passed", "not_asked"), message, shown, gate.status == "warned")

    return judge


@check("Every item of general ability was scored.")
def ability_scored(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    scored = artifact.read(Scored)
    if not scored.items:
        return CheckResult(bool(scored.sentence), scored.sentence)
    return CheckResult(scored.unscored == 0, f"{scored.items} items, {scored.unscored} could not be scored")


@check("The base model's general ability is kept (gate general_ability).", on_failure="warn")
def ability_kept(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    ability = artifact.read(Ability)
    if not ability.items:
        return CheckResult(bool(ability.sentence), ability.sentence)
    gate, categories = general_ability(spec, ability), {n: c.to_json() for n, c in ability.categories.items()}
    return CheckResult(gate.passed, gate.message, {"categories": categories, "lost_items": ability.lost_items})


@check("Every submitted rating was read and belongs to this sheet.", on_failure="warn")
def ratings_read(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    people = artifact.read(People)
    faulty, unknown = sum(people.by_rule.values()), people.unknown
    judged = f"{people.rated} answers rated by {len(people.raters)} people"
    return CheckResult(not faulty and not unknown, f"{judged}; {faulty} lines unreadable, {unknown} of unknown items")


@check(
    "The judge model agrees with people and is not biased by position or length; or the spec has none.",
    on_failure="warn",
)
def judge_believed(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    findings = artifact.read(JudgeReview).judge
    if findings is None:
        return CheckResult(spec.evaluation.judge is None, "the spec has no judge")
    figures = {k: getattr(findings, k) for k in ("kappa", "interval", "consistent", "rated")}
    believed = findings.believed and not findings.refused
    return CheckResult(believed, " ".join(judge_sentences(findings)), figures)


@check("`champion` never points to a version that failed a gate.", on_failure="fail")
def aliases_consistent(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    released = artifact.read(Released)
    consistent = released.champion is None or released.champion_gates == "passed"
    champion = f"champion is version {released.champion}" if released.champion else "there is no champion"
    moved = "promoted" if released.promoted else "not promoted"
    if released.rollout is not None:
        own = released.rollout == released.model_version
        moved = "takes over in stages" if own else f"waits for the end of the rollout of version {released.rollout}"
    return CheckResult(consistent, f"version {released.model_version} {moved}; {champion}")


@check("The model was trained on no forgotten row (finetune forget).")
def nothing_forgotten(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    released, rows = artifact.read(Released), "no forgotten row"
    if released.forgotten:
        rows = "rows that have since been forgotten: run the task again"
    return CheckResult(not released.forgotten, f"version {released.model_version} was trained on {rows}")


@check("Production still looks like the training data.", name="no_drift", on_failure="warn")
def drift(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    report = artifact.read(DriftReport)
    return CheckResult(not report.drifted, report.sentence)


def _asks_for(gate: Gate) -> Callable[[TaskSpec], bool]:
    return lambda spec: not gate.unasked(spec)


GATE_CHECKS = tuple(
    Check(gate.name, gate.needs, _gate(gate.name), on_failure="fail", asked=_asks_for(gate)) for gate in GATES.values()
)
"""One check for each gate. They stop nothing: the registry step decides by the verdict."""


@check(
    "In production, the champion's answers do not fail significantly more often than the previous champion's, and it keeps the "
    "error that automation.max_error promises.",
    on_failure="fail",
    live=True,
)
def champion_serves_well(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    return CheckResult(**artifact.facts)
