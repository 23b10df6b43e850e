"""Everything the report and the gates need to know about one candidate, as one plain JSON value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import likelihood_rows
from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.deciding import decide_gain, decisive_metrics, level_of
from finetune_pipeline.evaluation.failure_atlas import failure_atlas
from finetune_pipeline.evaluation.failures import changed_examples, wrong_answers
from finetune_pipeline.evaluation.metrics import likelihood_metrics, score
from finetune_pipeline.evaluation.neighbours import Neighbours, Trained
from finetune_pipeline.evaluation.predictions import of_model, of_the_test
from finetune_pipeline.evaluation.production_rows import recent_rows
from finetune_pipeline.evaluation.regression_ledger import outcomes_of, regressions
from finetune_pipeline.evaluation.robustness import robustness
from finetune_pipeline.evaluation.row_scores import is_right
from finetune_pipeline.evaluation.sealed import look_number
from finetune_pipeline.evaluation.shared_sources import shared_sources, sources_told, widen_rates
from finetune_pipeline.evaluation.statistics import holm, selection_optimism
from finetune_pipeline.evaluation.wording import cut, is_number, prompt_name
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, Any]
MODELS = ("base", "candidate", "champion")
SHOWN_REGRESSIONS, SHOWN_FIXES = 30, 10


def evaluate_task(
    spec: TaskSpec,
    predictions: Sequence[Row],
    *,
    linear: Mapping[str, str] | None,
    baseline_facts: Mapping[str, Any],
    training_facts: Mapping[str, Any],
    data_facts: Mapping[str, Any],
    parity_facts: Mapping[str, Any],
    openings: Sequence[Mapping[str, Any]],
    versions: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
    training_rows: Sequence[Trained] = (),
    sources: Mapping[str, str] | None = None,
    never_break: Sequence[str] = (),
    earlier: Mapping[str, Mapping[str, bool]] | None = None,
    ability_facts: Mapping[str, Any] | None = None,
    people_facts: Mapping[str, Any] | None = None,
    judge_facts: Mapping[str, Any] | None = None,
    supervision: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
    quality_facts: Mapping[str, Any] | None = None,
    production_rows: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge one candidate on the sealed test.

    predictions: rows of `base` (with the best baseline prompt), `candidate` and, where there is one, `champion`, all
    for the same examples; and answers to perturbed and to production rows (see robustness.robustness). linear: the
    linear model's label per example id (label tasks). baseline_facts: see baseline.score_baselines. training_facts:
    of the adapter step, with `history` [{step, loss | eval_loss}] and `measured`. data_facts: facts per data step, in
    order. parity_facts: of the merge. openings: the sealed test's ledger, one entry an opening; its key `candidate`
    tells candidates apart. versions: names to versions or hashes; `champion`, when set, announces champion
    predictions, and `merged_model` is the candidate of the ledger. texts: user text per example id, for the failures
    shown. sources: what each example was made from (shared_sources.source_of). never_break: ids the candidate must
    have right. earlier: outcomes per earlier candidate (regression_ledger.recorded). training_rows: what was trained
    on, to find the rows nearest to a failure. ability_facts, people_facts, judge_facts: of the steps general_ability,
    human_review and judge_review. supervision: the audit per split; cost: costs.costs; quality_facts: of
    data_quality. production_rows: see production_rows.recent_rows.

    Returns task, metric, confidence, n, models (rows of the side-by-side table by name, `candidate` among them),
    scores, likelihood, comparison (the main one, without ids), comparisons (`baseline`, `champion` or null,
    `base_likelihood`, `linear`), format_gap, regressions, fixes, wrong_answers, atlas (of the candidate), seal (with the
    `level` of this look), decisions (deciding.decide_gain at that level, `baseline` and `champion` or null), sources,
    never_break, history (regression_ledger.regressions), robustness and production (or null), baseline, training, data, parity,
    ability, people, judge, similarity, supervision, cost, quality, versions, gates (their settings). Numbers that are not
    finite become null. Raises
    ValueError when a model's predictions are missing, an unexpected model is there, or the sides of a comparison do not match.
    """
    rows = _rows_by_model(predictions, versions)
    labels, confidence = spec.labels, spec.gates.confidence
    scores: dict[str, Any] = {name: score(of, spec.output, confidence, spec.metric) for name, of in rows.items()}
    likelihood = {
        name: likelihood_metrics(of, labels, confidence, spec.metric) if labels else None for name, of in rows.items()
    }
    comparisons = _comparisons(spec, rows, linear, likelihood, sources)
    clusters = shared_sources(rows["candidate"], sources)
    if clusters is not None:
        for name, of in rows.items():
            told = shared_sources(of, sources)
            widen_rates(scores[name], of, spec.output, told or clusters, confidence)
    seal = _seal(openings, comparisons["baseline"]["n"], scores["candidate"]["accuracy"], versions.get("merged_model"))
    seal["level"] = level_of(seal["look"], confidence)
    if linear is not None and labels:
        scores["linear"] = score(_linear_rows(rows["base"], linear), labels, confidence, spec.metric)
    known_texts = texts or {}
    base, candidate = ({row["example_id"]: row for row in rows[name]} for name in ("base", "candidate"))
    main = comparisons["baseline"]
    evaluation = {
        "task": {
            "name": spec.name,
            "description": spec.description,
            "kind": spec.output.kind,
            "labels": labels,
            "base_model": spec.base_model,
            "base_revision": spec.base_revision,
            "method": spec.training.method,
            "system_prompt": spec.system_prompt,
        },
        "metric": main["metric"],
        "confidence": confidence,
        "n": main["n"],
        "models": _model_table(spec, scores, likelihood, baseline_facts),
        "scores": scores,
        "likelihood": likelihood,
        "comparison": {key: value for key, value in main.items() if key not in ("fixed", "broken")},
        "comparisons": comparisons,
        "format_gap": _format_gap(scores, likelihood),
        "regressions": changed_examples(main["broken"], base, candidate, known_texts, SHOWN_REGRESSIONS),
        "fixes": changed_examples(main["fixed"], base, candidate, known_texts, SHOWN_FIXES),
        "wrong_answers": wrong_answers(rows["candidate"], labels, known_texts) if labels else [],
        "atlas": failure_atlas(
            rows["candidate"], spec.output, known_texts, Neighbours(training_rows) if training_rows else None
        ),
        "seal": seal,
        "decisions": _decisions(spec, rows, seal["level"]["level"], sources),
        "sources": sources_told(clusters, main["n"]),
        "never_break": _never_break(never_break, rows["candidate"], spec, known_texts),
        "history": regressions(earlier or {}, outcomes_of(rows["candidate"], spec.output)),
        "robustness": robustness(spec, predictions, sources),
        "production": recent_rows(spec, predictions, production_rows),
        "baseline": baseline_facts,
        "training": training_facts,
        "data": data_facts,
        "parity": parity_facts,
        "ability": ability_facts,
        "people": people_facts,
        "judge": (judge_facts or {}).get("judge"),
        "similarity": (judge_facts or {}).get("similarity"),
        "supervision": supervision,
        "cost": cost,
        "quality": quality_facts,
        "versions": versions,
        "gates": spec.gates.model_dump(mode="json") | {"ceiling": spec.baseline.ceiling},
    }
    plain: dict[str, Any] = plain_json(evaluation)
    return plain


def _rows_by_model(predictions: Sequence[Row], versions: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = {row["model"] for row in predictions if of_the_test(row["model"])}
    problems = [f"unexpected model {name!r}" for name in sorted(found - set(MODELS))]
    problems += [f"no predictions of {name}" for name in ("base", "candidate") if name not in found]
    if versions.get("champion") and "champion" not in found:
        problems.append(f"no predictions of the champion, though there is one (version {versions['champion']})")
    if problems:
        raise ValueError("cannot evaluate: " + "; ".join(problems))
    return {name: of_model(predictions, name) for name in MODELS if name in found}


def _linear_rows(rows: Sequence[Row], linear: Mapping[str, str]) -> list[dict[str, Any]]:
    missing = sorted(row["example_id"] for row in rows if row["example_id"] not in linear)
    if missing:
        raise ValueError(f"the linear model gives no label for {len(missing)} test examples, {missing[:3]}")
    return [
        {**row, "model": "linear", "text": linear[row["example_id"]], "status": "ok", "label_scores": []}
        for row in rows
    ]


def _comparisons(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    linear: Mapping[str, str] | None,
    likelihood: Mapping[str, Any],
    sources: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Candidate against each other model; McNemar's p also adjusted for the number of comparisons (Holm)."""
    labels = spec.labels
    others: dict[str, Sequence[Row] | None] = {"baseline": rows["base"], "champion": rows.get("champion")}
    others["base_likelihood"] = likelihood_rows(rows["base"], labels) if likelihood["base"] else None
    others["linear"] = _linear_rows(rows["base"], linear) if linear is not None and labels else None
    made = {
        name: compare(of, rows["candidate"], spec.output, spec.gates.confidence, spec.metric, sources) if of else None
        for name, of in others.items()
    }
    tested = [one for one in made.values() if one]
    for one, adjusted in zip(tested, holm([one["mcnemar_p"] for one in tested]), strict=True):
        one["mcnemar_p_holm"] = adjusted
    return made


def _decisions(
    spec: TaskSpec, rows: Mapping[str, Sequence[Row]], level: float, sources: Mapping[str, str] | None
) -> dict[str, Any]:
    """Whether the gain over baseline and champion is shown, at the level this look has left."""
    gates = spec.gates
    margins = {"baseline": gates.min_gain, "champion": -gates.champion_margin if gates.champion == "not_worse" else 0.0}
    sides = {"baseline": rows["base"], "champion": rows.get("champion")}
    after = sorted(rows["candidate"], key=lambda row: row["example_id"])
    return {
        name: decide_gain(
            sorted(of, key=lambda row: row["example_id"]),
            after,
            spec.output,
            decisive_metrics(spec),
            level=level,
            margin=margins[name],
            clusters=shared_sources(after, sources),
        )
        if of
        else None
        for name, of in sides.items()
    }


def _never_break(
    wanted: Sequence[str], rows: Sequence[Row], spec: TaskSpec, texts: Mapping[str, str]
) -> dict[str, Any]:
    """{listed, missing (ids that are not in the test), broken: [{id, text, gold, said}]}."""
    by_id = {row["example_id"]: row for row in rows}
    broken = [by_id[i] for i in wanted if i in by_id and not is_right(by_id[i], spec.output)]
    return {
        "listed": len(wanted),
        "missing": [i for i in wanted if i not in by_id],
        "broken": [
            {
                "id": row["example_id"],
                "text": cut(texts.get(row["example_id"], ""), 300),
                "gold": row["gold"],
                "said": cut(row["text"], 300),
            }
            for row in broken
        ],
    }


def _model_table(
    spec: TaskSpec, scores: Mapping[str, Any], likelihood: Mapping[str, Any], baseline: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The rows of the side-by-side table, in order: name to {title, set, n, accuracy, interval, macro_f1, …}."""
    best = prompt_name(baseline.get("best"))
    table = {}
    for name, of in (baseline.get("prompts") or {}).items():
        chosen = " (best prompt)" if name == baseline.get("best") else ""
        table[f"validation_{name}"] = _entry(f"Base, {prompt_name(name)}{chosen}", "validation", of)
    tuned = f"Fine-tuned ({spec.training.method})"
    rows: list[tuple[str, str, Mapping[str, Any] | None]] = [
        ("base", f"Base, {best}", scores["base"]),
        ("base_likelihood", f"Base, {best}, answer restricted to the labels", likelihood["base"]),
        ("linear", "TF-IDF and logistic regression", scores.get("linear")),
        ("candidate", tuned, scores["candidate"]),
        ("candidate_likelihood", f"{tuned}, answer restricted to the labels", likelihood["candidate"]),
        ("champion", "Champion in service", scores.get("champion")),
    ]
    return table | {name: _entry(title, "test", of) for name, title, of in rows if of}


def _entry(title: str, where: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    valid = scores.get("valid", {}).get("share", scores.get("valid_share"))
    wanted = ("n", "correct", "accuracy", "interval", "macro_f1", "micro_f1", "rougeLsum", "rougeLsum_interval")
    decides = scores["primary"]
    told = {"value": decides["value"], "value_interval": decides["interval"], **{k: scores.get(k) for k in wanted}}
    return {"title": title, "set": where, "valid_share": valid, **told}


def _format_gap(scores: Mapping[str, Any], likelihood: Mapping[str, Any]) -> dict[str, Any] | None:
    """How much of a model's error is form: accuracy by restricted answer minus by free generation, base and candidate.

    `closed_by_decoding`: share of the candidate's gain over the base that restricting the base's answers to the labels
    reaches without training; null when the candidate gains nothing.
    """
    if not likelihood["base"] or not likelihood["candidate"]:
        return None
    told: dict[str, Any] = {}
    for name in ("base", "candidate"):
        free, restricted = scores[name]["accuracy"], likelihood[name]["accuracy"]
        told[name] = {
            "free": free,
            "restricted": restricted,
            "gap": restricted - free,
            "valid_share": scores[name]["valid"]["share"],
        }
    gain = told["candidate"]["free"] - told["base"]["free"]
    return told | {"closed_by_decoding": told["base"]["gap"] / gain if gain > 0 else None}


def _seal(openings: Sequence[Mapping[str, Any]], n: int, accuracy: float | None, candidate: Any) -> dict[str, Any]:
    """Openings of the sealed test, how many candidates it has judged, the how-manieth this one is (`look`; `recorded`:
    whether the ledger knows it), and what choosing the best of them would add."""
    named = {str(entry["candidate"]) for entry in openings if entry.get("candidate")}
    candidates = len(named) + sum(1 for entry in openings if not entry.get("candidate"))
    optimism = selection_optimism(n, accuracy, candidates) if is_number(accuracy) else None
    return {
        "openings": [dict(entry) for entry in openings],
        "count": len(openings),
        "candidates": candidates,
        "look": look_number(openings, str(candidate) if candidate else None),
        "recorded": candidate is not None and str(candidate) in named,
        "optimism": optimism,
    }


def plain_json(value: Any) -> Any:
    """The value as strict JSON types: tuples become lists, numpy scalars numbers, NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain_json(item) for item in value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
