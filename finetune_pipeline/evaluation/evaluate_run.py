"""Evaluates one candidate on the sealed test and returns everything that the report and the gates read."""

from collections.abc import Collection, Mapping, Sequence

from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.evaluation.compare import SourceOf, compare, count_sources, shared_sources
from finetune_pipeline.evaluation.correctness import INVALID, Row
from finetune_pipeline.evaluation.coverage import Automated
from finetune_pipeline.evaluation.deciding import MIN_ROWS, answers_to, decisions_of, parts_of_test
from finetune_pipeline.evaluation.decisions import BaseMode, Comparison, FormGap, FormOf, Loosened, Promoted
from finetune_pipeline.evaluation.finalists import contenders, finalists_of, score_interval
from finetune_pipeline.evaluation.predictions import CANDIDATE, SIMPLE, by_model, in_order, of_model, restricted_name
from finetune_pipeline.evaluation.probabilities import ON_VALIDATION, first_of_sources
from finetune_pipeline.evaluation.production_rows import RecentRows, recent_rows
from finetune_pipeline.evaluation.promises import automated_models, probabilities_of
from finetune_pipeline.evaluation.refined_choice import REFINED, SUPERVISED, confirmed
from finetune_pipeline.evaluation.regression_ledger import never_broken, outcomes_of, regressions
from finetune_pipeline.evaluation.result import (
    Atlas,
    ChangedRows,
    EvaluationResult,
    Opening,
    StepFacts,
    Task,
    WrongAnswers,
)
from finetune_pipeline.evaluation.result_parts import ModelRow, Probabilities, Scores
from finetune_pipeline.evaluation.rivals import (
    API_MODEL,
    MODE_TITLES,
    BaseAtItsBest,
    ScoredBaselines,
    base_at_its_best,
    best_api_prompt,
    restricted_rows,
    simple_rows,
)
from finetune_pipeline.evaluation.robustness import robustness
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.evaluation.sealed import Judgement, seal_of
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.multiple_testing import holm
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher, compare_with_teacher
from finetune_pipeline.evaluation.wording import prompt_name
from finetune_pipeline.spec.looseness import loose_thresholds
from finetune_pipeline.spec.model import TaskSpec

MODELS = ("base", "candidate", "champion")
SHOWN_REGRESSIONS, SHOWN_FIXES, SHOWN_WRONG = 30, 10, 2
"""Maximum ids listed: of regressions, of fixes, and of each group of wrong answers."""


def evaluate_task(
    spec: TaskSpec,
    predictions: Sequence[Row],
    facts: StepFacts,
    *,
    atlas: Atlas,
    openings: Sequence[Opening],
    versions: Mapping[str, str | None],
    rules: str | None = None,
    promoted: Promoted | None = None,
    untrained: str = "",
    champion_forgotten: bool = False,
    champion_kind: str | None = None,
    champion_name: str | None = None,
    champion_learned: Collection[str] = (),
    champion_probability: ReleasedProbability | None = None,
    sources: SourceOf = None,
    files: Mapping[str, str] | None = None,
    validation: Sequence[Row] = (),
    validation_sources: SourceOf = None,
    never_break: Sequence[str] = (),
    earlier: Mapping[str, Mapping[str, bool]] | None = None,
    production_rows: RecentRows | None = None,
    teacher: tuple[Sequence[Row], AskedTeacher] | None = None,
) -> EvaluationResult:
    """Evaluate one candidate on the sealed test.

    Args:
        predictions: Rows of `base` (with the best prompt), `candidate` and any `champion`, all for the same examples; of the
            simple models and of restricted answers (see rivals); of the first stage's model, if a second stage's is the candidate
            (see refined_choice.confirmed); and answers to perturbed and to production rows (see robustness.robustness).
        atlas: The candidate's wrong answers (atlas.failure_atlas).
        openings: The ledger of the sealed test, one entry per opening; `candidate` identifies the candidate.
        versions: Versions of artifacts by name. `champion` requires champion predictions; `adapter` is the candidate's.
        rules: See sealed.Judgement.
        promoted, untrained, champion_forgotten, champion_kind, champion_name: See EvaluationResult.
        champion_learned: Ids of the test rows that the champion was trained on. If fewer than MIN_ROWS are left, it is not
            compared.
        champion_probability: Released with the champion; read with gates.metric coverage.
        sources: What each example was made from, by id (Example.made_from).
        files: The raw file of each example, by id; needed with gates.parts.
        validation: Answers to validation rows under the names of `predictions`, on which probabilities are calibrated; those of the
            candidate are in `predictions`, as ON_VALIDATION.
        validation_sources: As `sources`, of validation rows.
        never_break: Ids the candidate must have right.
        earlier: Outcomes by earlier candidate (regression_ledger.recorded).
        production_rows: See production_rows.recent_rows.
        teacher: Its answers to the sealed rows, and facts about them.

    Raises:
        ValueError: Two compared models have different rows.
    """
    rows = by_model(in_order(scored(predictions, spec.output)))
    if champion_learned:
        not_learned = [row for row in rows.pop("champion") if row["example_id"] not in champion_learned]
        rows |= {"champion": not_learned} if len(not_learned) >= MIN_ROWS else {}
    labels, confidence, asked = spec.labels, spec.gates.confidence, by_model(in_order(scored(validation, spec.output)))
    base_best, simple = base_at_its_best(rows, spec.output), simple_rows(rows)
    scored_models = (*MODELS, SUPERVISED, REFINED, API_MODEL, *(SIMPLE + name for name in simple))
    scores = {name: score(rows[name], spec, sources) for name in scored_models if name in rows}
    restricted_answers = {
        "base": base_best.answers.get("restricted"),
        "candidate": restricted_rows(rows, "candidate", spec.output),
    }
    restricted = {
        name: score(answers, spec, sources) if answers else None for name, answers in restricted_answers.items()
    }
    comparisons = _comparisons(spec, rows, base_best, simple, sources)
    main = comparisons["baseline"]
    assert main is not None
    judgement = Judgement(str(versions.get("adapter")), spec.judged_metric, rules)
    seal = seal_of(openings, main.n, scores["candidate"].accuracy, judgement, confidence)
    level = float(seal.level.level or 0.0)
    candidate_outcomes = outcomes_of(rows["candidate"], spec.output)
    baseline = ScoredBaselines.of(facts.baseline.model_dump())
    chosen = list(contenders(spec, baseline, rows, simple, asked))
    judged = {
        finalist.row: probabilities_of(
            spec, finalist.validation, finalist.rows, level / len(chosen), sources, validation_sources
        )
        for finalist in chosen
    }
    if not untrained:
        answers = of_model(predictions, ON_VALIDATION)
        judged[CANDIDATE] = probabilities_of(spec, answers, rows["candidate"], level, sources, validation_sources)
    probabilities = {name: of_model for name, of_model in judged.items() if of_model}
    automated = None
    if spec.by_coverage:
        answered = (rows, base_best, simple, asked, judged, champion_probability)
        automated = automated_models(spec, *answered, level / max(1, len(chosen)), sources, validation_sources)
    parts = []
    if not untrained:
        parts = parts_of_test(spec, base_best, rows["candidate"], files or {}, level, sources, automated)
    refinement = facts.training.refinement if facts.training else None
    stages = None
    if refinement and refinement.choice and refinement.choice.refined:
        stages = confirmed(spec, rows, refinement.choice, sources, level)
    finalists = finalists_of(
        spec,
        chosen,
        rows,
        simple,
        level,
        sources,
        never_break,
        champion_forgotten,
        untrained=bool(untrained),
        automated=automated,
    )
    return EvaluationResult(
        **dict(facts),
        task=Task(
            name=spec.name,
            description=spec.description,
            kind=spec.output.kind,
            labels=labels,
            base_model=spec.base_model,
            base_revision=spec.base_revision,
            method=spec.training.method,
            system_prompt=spec.system_prompt,
        ),
        metric=main.metric,
        confidence=confidence,
        n=main.n,
        models=with_coverage(
            _model_table(_candidate_title(spec, facts), scores, restricted, baseline, bool(champion_learned)),
            probabilities,
            automated or {},
            [row["example_id"] for row in first_of_sources(rows["candidate"], sources)],
        )
        | {f"part_{i}_{name}": row for i, part in enumerate(parts) for name, row in part.models.items()},
        scores=scores,
        restricted=restricted,
        base_at_its_best=BaseMode(mode=base_best.mode, valid_share=base_best.valid_share),
        comparison=Comparison(**main.model_dump(exclude={"fixed", "broken"}, exclude_unset=True)),
        comparisons=comparisons,
        format_gap=_format_gap(scores, restricted),
        regressions=ChangedRows(total=len(main.broken), shown=main.broken[:SHOWN_REGRESSIONS]),
        fixes=ChangedRows(total=len(main.fixed), shown=main.fixed[:SHOWN_FIXES]),
        wrong_answers=_wrong_answers(rows["candidate"]) if labels else [],
        atlas=atlas,
        seal=seal,
        decisions=decisions_of(spec, rows, base_best, simple, level, sources, champion_forgotten, automated),
        parts=parts,
        sources=count_sources(shared_sources(rows["candidate"], sources), main.n),
        never_break=never_broken(never_break, candidate_outcomes),
        history=regressions(earlier or {}, candidate_outcomes),
        robustness=None if untrained else robustness(spec, predictions, sources),
        production=recent_rows(spec, predictions, production_rows),
        versions=dict(versions),
        gate_settings=spec.gates.model_dump(mode="json") | {"ceiling": spec.baseline.ceiling},
        promoted=promoted,
        untrained=untrained,
        champion_forgotten=champion_forgotten,
        champion_kind=champion_kind,
        champion_name=champion_name,
        champion_learned=len(champion_learned),
        teacher=compare_with_teacher(spec, teacher[0], rows["candidate"], simple, teacher[1], level, sources)
        if teacher
        else None,
        loosened=Loosened(thresholds=[str(loose) for loose in loose_thresholds(spec)]),
        score_interval=score_interval(spec, rows["candidate"], level, sources),
        stages=stages,
        probabilities=probabilities,
        finalists=finalists,
    )


def with_coverage(
    table: Mapping[str, ModelRow],
    probabilities: Mapping[str, Probabilities],
    automated: Mapping[str, Automated],
    ids: Sequence[str],
) -> dict[str, ModelRow]:
    """Add which share of the sealed test models answer by themselves: those that may be shipped, and with gates.metric coverage
    (`automated`) their rivals. ids: rows that count, one of each source."""
    shares = {name: sum(model.of(ids)) / len(ids) for name, model in automated.items()}
    shares |= {name: of_model.automation.coverage for name, of_model in probabilities.items() if of_model.automation}
    return {
        name: row.model_copy(update={"coverage": shares[name]}) if name in shares else row
        for name, row in table.items()
    }


def _candidate_title(spec: TaskSpec, facts: StepFacts) -> str:
    if facts.training is None:
        return "Judged without training"
    endpoint = facts.training.endpoint
    title = f"{endpoint.base_model} by {endpoint.trainer}" if endpoint else spec.training.method
    if spec.decoded_schema is not None:
        title += ", constrained decoding"
    return f"Fine-tuned ({title})"


def _comparisons(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    base: BaseAtItsBest,
    simple: Mapping[str, Sequence[Row]],
    sources: SourceOf,
) -> dict[str, Comparison | None]:
    """Compare the candidate with every other model; McNemar's p is also adjusted for their number (Holm)."""
    rivals: dict[str, Sequence[Row] | None] = {"baseline": base.answers[base.mode], "champion": rows.get("champion")}
    if API_MODEL in rows:
        rivals[API_MODEL] = rows[API_MODEL]
    rivals |= {f"base_{mode}": answers for mode, answers in base.answers.items() if mode != base.mode}
    rivals |= {f"{SIMPLE}{name}": answers for name, answers in simple.items()}
    if SUPERVISED in rows:
        rivals[SUPERVISED] = rows[SUPERVISED]
    candidate, settings = rows["candidate"], (spec.output, spec.gates.confidence, spec.metric, sources)

    def beside(name: str, answers: Sequence[Row]) -> Sequence[Row]:
        if name == SUPERVISED:
            return rows.get(REFINED, candidate)
        return answers_to(answers, candidate) if name == "champion" else candidate

    comparisons = {
        name: compare(answers, beside(name, answers), *settings) if answers else None
        for name, answers in rivals.items()
    }
    tested = {name: comparison for name, comparison in comparisons.items() if comparison}
    adjusted = holm([float(comparison.mcnemar_p or 0.0) for comparison in tested.values()])
    return comparisons | {
        name: comparison.model_copy(update={"mcnemar_p_holm": p})
        for (name, comparison), p in zip(tested.items(), adjusted, strict=True)
    }


def _wrong_answers(rows: Sequence[ScoredRow]) -> list[WrongAnswers]:
    """Group wrong answers of a label task by reference and answer (or INVALID), largest group first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.label != row["gold"]:
            groups.setdefault((row["gold"], INVALID if row.label is None else row.label), []).append(row["example_id"])
    return [
        WrongAnswers(gold=gold, predicted=predicted, count=len(ids), examples=ids[:SHOWN_WRONG])
        for (gold, predicted), ids in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def _model_table(
    candidate_title: str,
    scores: Mapping[str, Scores],
    restricted: Mapping[str, Scores | None],
    baseline: ScoredBaselines,
    champion_learned: bool,
) -> dict[str, ModelRow]:
    """The rows of the side-by-side table, in order: validation first, then the sealed test."""
    best, restricted_suffix = baseline.best, MODE_TITLES["restricted"]
    table = {}
    for name, model_scores in baseline.prompts.items():
        title = f"Base, {prompt_name(name)}"
        best_mark = " (best prompt)" if name == best else ""
        table[f"validation_{name}"] = ModelRow.of(title + best_mark, "validation", model_scores.to_json())
        if restricted_scores := model_scores.restricted:
            row = ModelRow.of(title + restricted_suffix, "validation", restricted_scores.to_json())
            table[f"validation_{restricted_name(name)}"] = row
    for name, simple_scores in baseline.simple.items():
        row = ModelRow.of(SIMPLE_MODELS[name].title, "validation", simple_scores.to_json())
        table[f"validation_{SIMPLE}{name}"] = row
    champion_title = "Champion in service" + (" (rows it was not trained on)" if champion_learned else "")
    rows: list[tuple[str, str, Scores | None]] = [
        ("base", f"Base, {prompt_name(best)}", scores["base"]),
        ("base_restricted", f"Base, {prompt_name(best)}{restricted_suffix}", restricted["base"]),
        (API_MODEL, prompt_name(best_api_prompt(baseline.prompts)), scores.get(API_MODEL)),
        *((f"{SIMPLE}{name}", model.title, scores.get(SIMPLE + name)) for name, model in SIMPLE_MODELS.items()),
        (SUPERVISED, "Fine-tuned, first stage alone", scores.get(SUPERVISED)),
        (REFINED, "Fine-tuned, both stages, answering here", scores.get(REFINED)),
        ("candidate", candidate_title, scores["candidate"]),
        ("candidate_restricted", f"{candidate_title}{restricted_suffix}", restricted["candidate"]),
        ("champion", champion_title, scores.get("champion")),
    ]
    return table | {
        name: ModelRow.of(title, "test", test_scores.model_dump()) for name, title, test_scores in rows if test_scores
    }


def _format_gap(scores: Mapping[str, Scores], restricted: Mapping[str, Scores | None]) -> FormGap | None:
    """What base and candidate lose by answering freely; None if either has no restricted answers."""
    if not restricted["base"] or not restricted["candidate"]:
        return None
    base = _form_of(scores["base"], restricted["base"])
    candidate = _form_of(scores["candidate"], restricted["candidate"])
    gain = float(candidate.free or 0.0) - float(base.free or 0.0)
    return FormGap(base=base, candidate=candidate, closed_by_decoding=(base.gap or 0.0) / gain if gain > 0 else None)


def _form_of(free: Scores, restricted: Scores) -> FormOf:
    return FormOf(
        free=free.accuracy,
        restricted=restricted.accuracy,
        gap=(restricted.accuracy or 0.0) - (free.accuracy or 0.0),
        valid_share=free.valid.share,
    )
