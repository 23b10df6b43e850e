"""Checks of the EVALUATION and RELEASE stages. Gates stop the alias `champion`, not the graph: a refused candidate is
still registered, so that people can look at it."""

from __future__ import annotations

from collections.abc import Callable

from finetune_pipeline.engine.checks import Answer, Check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.failed_rows import failed_test_rows
from finetune_pipeline.evaluation.gates import table
from finetune_pipeline.evaluation.gates_besides_task import general_ability
from finetune_pipeline.evaluation.step_facts import Ability, JudgeFindings
from finetune_pipeline.report.judgements import judge_sentences
from finetune_pipeline.spec.model import TaskSpec


def all_predicted(artifact: Artifact, spec: TaskSpec) -> Answer:
    errors = failed_test_rows(artifact.facts)
    rows = {name: artifact.facts["sets"][name]["rows"] for name in errors}
    good = len(set(rows.values())) == 1 and all(n > 0 for n in rows.values()) and not any(errors.values())
    return Answer(good, ", ".join(f"{name}: {n} rows, {errors[name]} failed" for name, n in rows.items()))


def _gate(name: str) -> Callable[[Artifact, TaskSpec], Answer]:
    def judge(artifact: Artifact, spec: TaskSpec) -> Answer:
        gate = {g["name"]: g for g in artifact.facts["gates"]}[name]
        figures = {
            k: gate[k] for k in ("status", "measured", "threshold", "what_to_do") if gate.get(k) not in (None, "")
        }
        message = f"Not asked: {gate['message']}" if gate["status"] == "not_asked" else gate["message"]
        return Answer(gate["status"] in ("passed", "not_asked"), message, figures, gate["status"] == "warned")

    return judge


def ability_scored(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    if not f["items"]:
        return Answer(True, f["sentence"])
    return Answer(f["unscored"] == 0, f"{f['items']} items, {f['unscored']} could not be scored")


def ability_kept(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    if not f["items"]:
        return Answer(True, f["sentence"])
    gate = general_ability(spec, Ability.model_validate(f))
    return Answer(
        not f["unscored"] and gate.passed, gate.message, {"categories": f["categories"], "lost_items": f["lost_items"]}
    )


def ratings_read(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    bad = sum(f["by_rule"].values())
    told = f"{f['rated']} answers judged by {len(f['raters'])} people"
    return Answer(not bad and not f["unknown"], f"{told}; {bad} lines unreadable, {f['unknown']} of unknown items")


def judge_believed(artifact: Artifact, spec: TaskSpec) -> Answer:
    told = artifact.facts["judge"]
    if told is None:
        return Answer(spec.evaluation.judge is None, "the spec asks no judge")
    figures = {k: told[k] for k in ("kappa", "interval", "consistent", "rated")}
    believed = told["believed"] is True and not told["refused"]
    return Answer(believed, " ".join(judge_sentences(JudgeFindings.model_validate(told))), figures)


def aliases_consistent(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    good = f["candidate"] == f["model_version"] and (not f["promoted"] or f["gates_passed"])
    champion = f"champion is version {f['champion']}" if f["champion"] else "there is no champion"
    return Answer(good, f"version {f['model_version']} {'promoted' if f['promoted'] else 'not promoted'}; {champion}")


def nothing_forgotten(artifact: Artifact, spec: TaskSpec) -> Answer:
    version = artifact.facts["model_version"]
    if artifact.facts["forgotten"]:
        return Answer(False, f"version {version} was trained on rows that were forgotten since: run the task again")
    return Answer(artifact.facts["forgotten"] is False, f"version {version} was trained on no forgotten row")


def drift(artifact: Artifact, spec: TaskSpec) -> Answer:
    return Answer(not artifact.facts["drifted"], artifact.facts["sentence"])


CHECKS = [
    Check("ability_scored", "base_ability", "Every item of general ability was scored.", ability_scored),
    Check(
        "ability_kept",
        "general_ability",
        "What the base model could do besides the task is still there (the gate general_ability).",
        ability_kept,
        blocking=False,
        advisory=True,
    ),
    Check(
        "ratings_read",
        "human_review",
        "Every rating people handed in was read and belongs to this sheet.",
        ratings_read,
        blocking=False,
        advisory=True,
    ),
    Check(
        "judge_believed",
        "judge_review",
        "The judging model agrees with people and is moved by neither place nor length; or the spec asks none.",
        judge_believed,
        blocking=False,
        advisory=True,
    ),
    Check("all_rows_predicted", "test_predictions", "Every model answered every test row; none failed.", all_predicted),
    *(Check(g["name"], "evaluation_report", g["needs"], _gate(g["name"]), blocking=False) for g in table()),
    Check(
        "nothing_forgotten",
        "model_version",
        "The model was trained on no row that people had removed (finetune forget).",
        nothing_forgotten,
    ),
    Check(
        "aliases_consistent",
        "model_version",
        "`champion` never points to a version that failed a gate.",
        aliases_consistent,
        blocking=False,
    ),
    Check(
        "no_drift",
        "drift_report",
        "Production still looks like the training data.",
        drift,
        blocking=False,
        advisory=True,
    ),
]
