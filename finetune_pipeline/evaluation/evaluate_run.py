"""Everything the report and the gates need to know about one candidate, as one plain JSON value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.deciding import decide_gain, decisive_metrics, level_of, margin_of
from finetune_pipeline.evaluation.failure_atlas import failure_atlas
from finetune_pipeline.evaluation.failures import changed_examples, wrong_answers
from finetune_pipeline.evaluation.metrics import score
from finetune_pipeline.evaluation.neighbours import Neighbours, Trained
from finetune_pipeline.evaluation.predictions import SIMPLE, of_the_test, restricted_name
from finetune_pipeline.evaluation.production_rows import recent_rows
from finetune_pipeline.evaluation.regression_ledger import outcomes_of, regressions
from finetune_pipeline.evaluation.rivals import (
    MODE_TITLES,
    OTHER_PROMPT,
    BaseAtItsBest,
    base_at_its_best,
    restricted_rows,
    simple_rows,
)
from finetune_pipeline.evaluation.robustness import robustness
from finetune_pipeline.evaluation.row_scores import is_right
from finetune_pipeline.evaluation.sealed import look_number
from finetune_pipeline.evaluation.shared_sources import shared_sources, sources_told, widen_rates
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
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
    for the same examples; of the simple models and of restricted answers (see rivals); and answers to perturbed and to
    production rows (see robustness.robustness). baseline_facts: see baseline.score_baselines. training_facts:
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
    scores (by model; `base` as it writes freely), restricted (the same of restricted answers: base, candidate),
    base_at_its_best {mode, valid_share} (see rivals), comparison (the main one, without ids: with the base model at its
    best), comparisons (`baseline`, `champion` or null, `base_restricted` where free answers decide, `simple_NAME`),
    format_gap, regressions, fixes, wrong_answers, atlas (of the candidate), seal (with the `level` of this look),
    decisions (deciding.decide_gain at that level, `baseline`, `simple`, and `champion` or null), sources,
    never_break, history (regression_ledger.regressions), robustness and production (or null), baseline, training, data, parity,
    ability, people, judge, similarity, supervision, cost, quality, versions, gates (their settings). Numbers that are not
    finite become null. Raises
    ValueError when a model's predictions are missing, an unexpected model is there, or the sides of a comparison do not match.
    """
    rows = _rows_by_model(predictions, versions)
    labels, confidence = spec.labels, spec.gates.confidence
    base_best, simple = base_at_its_best(rows, spec.output), simple_rows(rows)
    judged = {name: of for name, of in rows.items() if name in MODELS} | {
        f"{SIMPLE}{n}": of for n, of in simple.items()
    }
    scores: dict[str, Any] = {name: score(of, spec.output, confidence, spec.metric) for name, of in judged.items()}
    restricted: dict[str, Any] = {
        name: score(of, spec.output, confidence, spec.metric) if of else None
        for name, of in (
            ("base", base_best.answers.get("restricted")),
            ("candidate", restricted_rows(rows, "candidate", spec.output)),
        )
    }
    comparisons = _comparisons(spec, rows, base_best, simple, sources)
    clusters = shared_sources(rows["candidate"], sources)
    if clusters is not None:
        for name, of in judged.items():
            own = shared_sources(of, sources)
            widen_rates(scores[name], of, spec.output, own or clusters, confidence)
    seal = _seal(openings, comparisons["baseline"]["n"], scores["candidate"]["accuracy"], versions.get("merged_model"))
    seal["level"] = level_of(seal["look"], confidence)
    known_texts = texts or {}
    base = {row["example_id"]: row for row in base_best.answers[base_best.mode]}
    candidate = {row["example_id"]: row for row in rows["candidate"]}
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
        "models": _model_table(spec, scores, restricted, baseline_facts),
        "scores": scores,
        "restricted": restricted,
        "base_at_its_best": {"mode": base_best.mode, "valid_share": base_best.valid_share},
        "comparison": {key: value for key, value in main.items() if key not in ("fixed", "broken")},
        "comparisons": comparisons,
        "format_gap": _format_gap(scores, restricted),
        "regressions": changed_examples(main["broken"], base, candidate, known_texts, SHOWN_REGRESSIONS),
        "fixes": changed_examples(main["fixed"], base, candidate, known_texts, SHOWN_FIXES),
        "wrong_answers": wrong_answers(rows["candidate"], labels, known_texts) if labels else [],
        "atlas": failure_atlas(
            rows["candidate"], spec.output, known_texts, Neighbours(training_rows) if training_rows else None
        ),
        "seal": seal,
        "decisions": _decisions(spec, rows, base_best, simple, seal["level"]["level"], sources),
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
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in predictions:
        if of_the_test(row["model"]):
            rows.setdefault(row["model"], []).append(dict(row))
    known = {*MODELS, OTHER_PROMPT, *(SIMPLE + name for name in SIMPLE_MODELS)}
    known |= {restricted_name(name) for name in (*MODELS, OTHER_PROMPT)}
    problems = [f"unexpected model {name!r}" for name in sorted(rows.keys() - known)]
    problems += [f"no predictions of {name}" for name in ("base", "candidate") if name not in rows]
    if versions.get("champion") and "champion" not in rows:
        problems.append(f"no predictions of the champion, though there is one (version {versions['champion']})")
    if problems:
        raise ValueError("cannot evaluate: " + "; ".join(problems))
    return rows


def _comparisons(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    base: BaseAtItsBest,
    simple: Mapping[str, Sequence[Row]],
    sources: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Candidate against each other model; McNemar's p also adjusted for the number of comparisons (Holm)."""
    others: dict[str, Sequence[Row] | None] = {"baseline": base.answers[base.mode], "champion": rows.get("champion")}
    others |= {f"base_{mode}": of for mode, of in base.answers.items() if mode != base.mode}
    others |= {f"{SIMPLE}{name}": of for name, of in simple.items()}
    made = {
        name: compare(of, rows["candidate"], spec.output, spec.gates.confidence, spec.metric, sources) if of else None
        for name, of in others.items()
    }
    tested = [one for one in made.values() if one]
    for one, adjusted in zip(tested, holm([one["mcnemar_p"] for one in tested]), strict=True):
        one["mcnemar_p_holm"] = adjusted
    return made


def _decisions(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    base: BaseAtItsBest,
    simple: Mapping[str, Sequence[Row]],
    level: float,
    sources: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Whether the gains over the base model at its best, the simple models and the champion are shown at this level."""
    after = _by_id(rows["candidate"])
    clusters = shared_sources(after, sources)

    def decision(rivals: Mapping[str, Sequence[Row]], metrics: Sequence[str], margin: float) -> dict[str, Any]:
        ordered = {name: _by_id(of) for name, of in rivals.items()}
        return decide_gain(ordered, after, spec.output, metrics, level=level, margin=margin, clusters=clusters)

    metrics, champion = decisive_metrics(spec), rows.get("champion")
    return {
        "baseline": decision({str(mode): of for mode, of in base.answers.items()}, metrics, spec.gates.min_gain),
        "simple": decision(simple, [spec.metric], margin_of(spec.gates.simple, spec.gates.simple_margin)),
        "champion": decision(
            {"champion": champion}, metrics, margin_of(spec.gates.champion, spec.gates.champion_margin)
        )
        if champion
        else None,
    }


def _by_id(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["example_id"]))


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
    spec: TaskSpec, scores: Mapping[str, Any], restricted: Mapping[str, Any], baseline: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The rows of the side-by-side table, in order: name to {title, set, n, accuracy, interval, macro_f1, …}."""
    best = prompt_name(baseline.get("best"))
    table = {}
    for name, of in (baseline.get("prompts") or {}).items():
        chosen = " (best prompt)" if name == baseline.get("best") else ""
        table[f"validation_{name}"] = _entry(f"Base, {prompt_name(name)}{chosen}", "validation", of)
        if of.get("restricted"):
            title = f"Base, {prompt_name(name)}{MODE_TITLES['restricted']}"
            table[f"validation_{restricted_name(name)}"] = _entry(title, "validation", of["restricted"])
    for name, of in (baseline.get("simple") or {}).items():
        table[f"validation_{SIMPLE}{name}"] = _entry(SIMPLE_MODELS[name].title, "validation", of)
    tuned = f"Fine-tuned ({spec.training.method})"
    rows: list[tuple[str, str, Mapping[str, Any] | None]] = [
        ("base", f"Base, {best}", scores["base"]),
        ("base_restricted", f"Base{_prompt_of_restricted(baseline)}{MODE_TITLES['restricted']}", restricted["base"]),
        *((f"{SIMPLE}{name}", model.title, scores.get(SIMPLE + name)) for name, model in SIMPLE_MODELS.items()),
        ("candidate", tuned, scores["candidate"]),
        ("candidate_restricted", f"{tuned}{MODE_TITLES['restricted']}", restricted["candidate"]),
        ("champion", "Champion in service", scores.get("champion")),
    ]
    return table | {name: _entry(title, "test", of) for name, title, of in rows if of}


def _prompt_of_restricted(baseline: Mapping[str, Any]) -> str:
    return f", {prompt_name(baseline['best_restricted'])}" if baseline.get("best_restricted") else ""


def _entry(title: str, where: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    valid = scores.get("valid", {}).get("share", scores.get("valid_share"))
    wanted = ("n", "correct", "accuracy", "interval", "macro_f1", "micro_f1", "rougeLsum", "rougeLsum_interval")
    decides = scores["primary"]
    told = {"value": decides["value"], "value_interval": decides["interval"], **{k: scores.get(k) for k in wanted}}
    return {"title": title, "set": where, "valid_share": valid, **told}


def _format_gap(scores: Mapping[str, Any], restricted: Mapping[str, Any]) -> dict[str, Any] | None:
    """How much of a model's error is form: accuracy by restricted answer minus by free generation, base and candidate.

    `closed_by_decoding`: share of the candidate's gain over the base that restricting the base's answers to the labels
    reaches without training; null when the candidate gains nothing.
    """
    if not restricted["base"] or not restricted["candidate"]:
        return None
    told: dict[str, Any] = {}
    for name in ("base", "candidate"):
        free, allowed = scores[name]["accuracy"], restricted[name]["accuracy"]
        told[name] = {
            "free": free,
            "restricted": allowed,
            "gap": allowed - free,
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
