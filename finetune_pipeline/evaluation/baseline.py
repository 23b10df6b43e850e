"""What prompting the base model reaches before anybody trains: shots to show it, and scores of each prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import prompts_of
from finetune_pipeline.evaluation.rivals import IN_FORM, restricted_rows, simple_rows
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import TextOutput

Row = Mapping[str, Any]


class LabelledExample(Protocol):
    """The part of an example that choosing shots needs."""

    @property
    def id(self) -> str: ...

    @property
    def label(self) -> str | None: ...


def build_shots(train: Sequence[LabelledExample], k: int, labels: Sequence[str], seed: int = 0) -> list[str]:
    """Ids of k training examples to show in the prompt, as evenly spread over the labels as can be.

    Examples stand in the order of a seeded hash of their id and are taken label by label in turn, so the choice does
    not depend on the order of `train`, new data changes few shots, and the shots for a small k begin those for a
    larger one. A label with too few examples is made up for by the others. Without labels, the first k in hash order.
    Raises ValueError when k is negative or there are fewer than k (labelled) examples.
    """
    if k < 0:
        raise ValueError(f"cannot show {k} examples")

    def place(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogatepass")).hexdigest()

    waiting: dict[str | None, list[str]] = {label: [] for label in labels} if labels else {None: []}
    for example in sorted(train, key=lambda example: place(example.id)):
        queue = waiting.get(example.label) if labels else waiting[None]
        if queue is not None:
            queue.append(example.id)
    available = sum(map(len, waiting.values()))
    if available < k:
        raise ValueError(f"{k} shots asked for, but only {available} training examples carry one of the labels")
    turn = sorted(waiting, key=lambda label: place(f"label:{label}"))
    chosen: list[str] = []
    while len(chosen) < k:
        for label in turn:
            if waiting[label] and len(chosen) < k:
                chosen.append(waiting[label].pop(0))
    return chosen


def score_baselines(spec: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Score every prompt and every simple model on validation, and choose the prompt that fine-tuning must beat.

    The best prompt is that with the best answers as written, in the metric that decides, among the prompts with enough
    answers in form (rivals.IN_FORM). Where there is none, it is the one whose restricted answers are best: a base model
    that is wrong only in form is no reason to train. Ties go to the prompt named first.

    Args:
        spec: The task.
        rows: Prediction rows by prompt, by restricted_name(prompt), and by SIMPLE + name of a simple model.

    Returns:
        {prompts: {name: {n, correct, accuracy, interval, primary, valid_share, valid_interval, statuses, restricted:
        {n, accuracy, interval, primary} or null, and further metrics}}, best (prompt), best_mode (free or restricted),
        best_restricted (prompt, or null), simple: {name: {n, correct, accuracy, interval, primary}}, metric, confidence,
        n}.

    Raises:
        ValueError: There is no prompt, or prompts cover different examples.
    """
    names = prompts_of(rows)
    if not names or not all(rows[name] for name in names):
        raise ValueError("no baseline predictions to score")
    covered = {name: sorted(row["example_id"] for row in rows[name]) for name in names}
    if different := [name for name, ids in covered.items() if ids != covered[names[0]]]:
        raise ValueError(f"prompts cover other examples than {names[0]}: {', '.join(different)}")
    prompts = {name: _prompt_scores(spec, rows, name) for name in names}
    restricted = [name for name in names if prompts[name]["restricted"]]
    best_restricted = max(restricted, key=lambda name: _rank(prompts[name]["restricted"]), default=None)
    in_form = [n for n in names if isinstance(spec.output, TextOutput) or (prompts[n]["valid_share"] or 0.0) >= IN_FORM]
    if in_form or best_restricted is None:
        mode, best = "free", max(in_form or names, key=lambda name: _rank(prompts[name]))
    else:
        mode, best = "restricted", best_restricted
    return {
        "prompts": prompts,
        "best": best,
        "best_mode": mode,
        "best_restricted": best_restricted,
        "simple": {name: _answer_scores(spec, answers) for name, answers in simple_rows(rows).items()},
        "metric": spec.metric,
        "confidence": spec.gates.confidence,
        "n": len(covered[names[0]]),
    }


def _rank(scores: Mapping[str, Any]) -> float:
    return METRICS[scores["primary"]["name"]].rank(scores["primary"]["value"])


def _prompt_scores(spec: TaskSpec, rows: Mapping[str, Sequence[Row]], name: str) -> dict[str, Any]:
    scores = score(rows[name], spec.output, spec.gates.confidence, spec.metric)
    restricted = restricted_rows(rows, name, spec.output)
    wanted = (
        *("n", "correct", "accuracy", "interval", "macro_f1", "micro_f1", "rouge1", "rouge2", "rougeLsum"),
        *("rougeLsum_interval", "primary"),
    )
    return {
        **{key: scores[key] for key in wanted if key in scores},
        "valid_share": scores["valid"]["share"],
        "valid_interval": scores["valid"]["interval"],
        "restricted": _answer_scores(spec, restricted) if restricted else None,
        "statuses": scores["statuses"],
    }


def _answer_scores(spec: TaskSpec, rows: Sequence[Row]) -> dict[str, Any]:
    scores = score(rows, spec.output, spec.gates.confidence, spec.metric)
    return {name: scores[name] for name in ("n", "correct", "accuracy", "interval", "primary")}
