"""What prompting the base model reaches before anybody trains: shots to show it, and scores of each prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from finetune_pipeline.evaluation.metrics import likelihood_metrics, score
from finetune_pipeline.spec.model import TaskSpec


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


def score_baselines(spec: TaskSpec, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Scores of each prompt on the same rows (validation), and which is best.

    rows: prediction rows per prompt name. Returns {prompts: {name: {n, correct, accuracy, interval, macro_f1,
    primary, valid_share, valid_interval, likelihood_accuracy, likelihood_interval, likelihood_macro_f1, statuses}}, best,
    metric, confidence, n}; where answers are written freely, overlap or micro-F1 stands beside exact match, and the
    likelihood values are null. Best by free generation in the metric that decides, which is what production gets;
    ties go to the prompt named first. Raises ValueError without a prompt, or when prompts cover different examples.
    """
    if not rows or not all(rows.values()):
        raise ValueError("no baseline predictions to score")
    covered = {name: sorted(row["example_id"] for row in of) for name, of in rows.items()}
    first = next(iter(covered))
    if different := [name for name, ids in covered.items() if ids != covered[first]]:
        raise ValueError(f"prompts cover other examples than {first}: {', '.join(different)}")
    confidence = spec.gates.confidence
    metric = spec.metric
    prompts = {name: _prompt_scores(spec, of) for name, of in rows.items()}
    best = max(prompts, key=lambda name: prompts[name]["primary"]["value"] or 0.0)
    return {"prompts": prompts, "best": best, "metric": metric, "confidence": confidence, "n": len(covered[first])}


def _prompt_scores(spec: TaskSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labels, confidence = spec.labels, spec.gates.confidence
    scores = score(rows, spec.output, confidence, spec.metric)
    likelihood = (likelihood_metrics(rows, labels, confidence) if labels else None) or {}
    wanted = (
        *("n", "correct", "accuracy", "interval", "macro_f1", "micro_f1", "rouge1", "rouge2", "rougeLsum"),
        *("rougeLsum_interval", "primary"),
    )
    return {
        **{name: scores[name] for name in wanted if name in scores},
        "valid_share": scores["valid"]["share"],
        "valid_interval": scores["valid"]["interval"],
        "likelihood_accuracy": likelihood.get("accuracy"),
        "likelihood_interval": likelihood.get("interval"),
        "likelihood_macro_f1": likelihood.get("macro_f1"),
        "statuses": scores["statuses"],
    }
