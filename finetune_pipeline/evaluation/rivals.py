"""The rivals a candidate must beat: the base model with its best prompt, and simple models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.decisions import Mode
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import API, SIMPLE, in_order, prompts_of, restricted_name
from finetune_pipeline.evaluation.result_parts import Scores
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.scores import score, valid_share
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside, prompt_name
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput, TextOutput

MIN_IN_FORM = 0.8
"""Below this share of answers in the declared form, a model's free answers are no fair rival."""
API_MODEL = "api"
"""The API model of baseline.endpoint with its best prompt, unless that is the best prompt of all and therefore `base`."""
MODE_TITLES: dict[str, str] = {
    "free": "",
    "restricted": ", answer restricted to the allowed forms",
}


@dataclass(frozen=True)
class BaseAtItsBest:
    """The answers of the base model that a candidate is compared with.

    Attributes:
        mode: The mode that decides.
        answers: Rows by mode, the deciding one first, without free answers out of form where there are restricted ones.
        valid_share: Share of free answers in the declared form.
    """

    mode: Mode
    answers: dict[Mode, Sequence[Row]]
    valid_share: float


def base_at_its_best(rows: Mapping[str, Sequence[Row]], output: AnyOutput, name: str = "base") -> BaseAtItsBest:
    """Choose the answers of the base model that a candidate is compared with.

    Free answers decide if at least MIN_IN_FORM of them are in form, and restricted answers are a second rival. Otherwise
    restricted answers decide alone, if there are any. Free text has no restricted form.

    Args:
        name: The base model, or one of its prompts, in `rows`.
    """
    free = scored(rows[name], output)
    share = valid_share(free, output)["share"] or 0.0
    if isinstance(output, TextOutput):
        return BaseAtItsBest("free", {"free": free}, share)
    restricted = restricted_rows(rows, name, output)
    answers: dict[Mode, Sequence[Row]] = {}
    if share >= MIN_IN_FORM or not restricted:
        answers["free"] = free
    if restricted:
        answers["restricted"] = restricted
    return BaseAtItsBest(next(iter(answers)), answers, share)


def restricted_rows(rows: Mapping[str, Sequence[Row]], name: str, output: AnyOutput) -> Sequence[Row] | None:
    """A model's answers restricted to the allowed forms: the likeliest label, or JSON decoded under the schema. None for free
    text, or from an engine that cannot restrict answers."""
    if isinstance(output, LabelsOutput):
        free = rows.get(name, ())
        return [row.likeliest for row in scored(free, output)] if any(row["label_scores"] for row in free) else None
    return rows.get(restricted_name(name)) or None


def simple_rows(rows: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """The rows of each simple model, by its name in SIMPLE_MODELS."""
    return {name: rows[SIMPLE + name] for name in SIMPLE_MODELS if SIMPLE + name in rows}


@dataclass(frozen=True)
class Rival:
    """One rival on validation.

    Attributes:
        title: Name inside a sentence.
        value: Its score in the deciding metric.
        rows: In the order of example ids.
        gates: The gates that compare a candidate with it.
    """

    title: str
    value: float
    rows: Sequence[Row]
    gates: tuple[str, ...] = ("beats_baseline",)


def rivals_of(spec: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> list[Rival]:
    """The alternatives to fine-tuning on validation: prompts, restricted answers, simple models.

    Args:
        rows: By prompt, by restricted_name(prompt), and by SIMPLE + name of a simple model.
    """
    metric, rivals = METRICS[spec.metric], []

    def add(title: str, rival_rows: Sequence[Row], *gates: str) -> None:
        value = metric.score(rival_rows, spec.output)
        rivals.append(Rival(title, value, in_order(rival_rows), gates))

    for name in prompts_of(rows):
        for mode, answers in base_at_its_best(rows, spec.output, name).answers.items():
            add(f"the base model, {prompt_name(name)}{MODE_TITLES[mode]}", answers, "beats_baseline")
    for name, model_rows in simple_rows(rows).items():
        blind = ("beats_commonest",) if name in BLIND else ()
        add(inside(SIMPLE_MODELS[name].title), model_rows, "beats_simple", *blind)
    return rivals


def strongest_rival(spec: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> Rival:
    """The best of :func:`rivals_of` in the metric that decides."""
    metric = METRICS[spec.metric]
    return max(rivals_of(spec, rows), key=lambda rival: metric.rank(rival.value))


def score_baselines(spec: TaskSpec, rows: Mapping[str, Sequence[Row]], sources: SourceOf = None) -> dict[str, Any]:
    """Score every prompt and every simple model on validation, and choose the prompt that fine-tuning must beat.

    The best prompt has the best answers in the metric that decides: free ones, where enough are in form (MIN_IN_FORM), or
    restricted ones. A base model that is wrong only in form is no reason to train. Ties go to free answers, and to the first
    prompt.

    Args:
        rows: As in :func:`rivals_of`.
        sources: What each example was made from, by id; intervals count them where rows share them.

    Returns:
        {prompts: {name: {n, correct, accuracy, interval, primary, valid_share, statuses, restricted:
        {n, accuracy, interval, primary} or null, and further metrics}}, best (prompt), best_mode (free or
        restricted), simple: {name: {n, correct, accuracy, interval, primary}}, metric, confidence, n}.

    Raises:
        ValueError: There is no prompt, or prompts cover different examples.
    """
    rows = {name: scored(answers, spec.output) for name, answers in rows.items()}
    names = prompts_of(rows)
    if not names or not all(rows[name] for name in names):
        raise ValueError("no baseline predictions to score")
    covered = {name: sorted(row["example_id"] for row in rows[name]) for name in names}
    if different := [name for name, ids in covered.items() if ids != covered[names[0]]]:
        raise ValueError(f"prompts cover other examples than {names[0]}: {', '.join(different)}")
    prompts = {name: _prompt_scores(spec, rows, name, sources) for name in names}
    restricted = [name for name in names if prompts[name]["restricted"]]
    in_form = names
    if not isinstance(spec.output, TextOutput):
        in_form = [name for name in names if (prompts[name]["valid_share"] or 0.0) >= MIN_IN_FORM]
    free = in_form if in_form or restricted else names
    ranks: dict[tuple[str, str], float] = {("free", name): rank_of(prompts[name]) for name in free}
    ranks |= {("restricted", name): rank_of(prompts[name]["restricted"]) for name in restricted}
    mode, best = max(ranks, key=lambda key: ranks[key])
    return {
        "prompts": prompts,
        "best": best,
        "best_mode": mode,
        "simple": {name: _reported(score(answers, spec, sources)) for name, answers in simple_rows(rows).items()},
        "metric": spec.metric,
        "confidence": spec.gates.confidence,
        "n": len(covered[names[0]]),
    }


def best_api_prompt(prompts: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The API model's best prompt on validation, by its free answers; None if it was not asked."""
    api_prompts = [name for name in prompts if name.startswith(API)]
    return max(api_prompts, key=lambda name: rank_of(prompts[name]), default=None)


def rank_of(scores: Mapping[str, Any]) -> float:
    """The rank of a baseline's scores, by the metric that decides; more is better."""
    return METRICS[scores["primary"]["name"]].rank(scores["primary"]["value"])


def _prompt_scores(spec: TaskSpec, rows: Mapping[str, Sequence[Row]], name: str, sources: SourceOf) -> dict[str, Any]:
    scores, restricted = score(rows[name], spec, sources), restricted_rows(rows, name, spec.output)
    return {
        **_reported(scores, "macro_f1", "micro_f1", "rougeLsum", "statuses"),
        "valid_share": scores.valid.share,
        "restricted": _reported(score(restricted, spec, sources)) if restricted else None,
    }


def _reported(scores: Scores, *more_fields: str) -> dict[str, Any]:
    """The fields of scores that the baseline's facts keep, as JSON."""
    fields = {"n", "correct", "accuracy", "interval", "primary", *more_fields}
    return scores.model_dump(mode="json", include=fields, exclude_unset=True)
