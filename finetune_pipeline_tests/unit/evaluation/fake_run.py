"""Complete evaluations of invented predictions, for tests of gates and pages."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from finetune_pipeline.data.perturbations import KINDS, set_name
from finetune_pipeline.evaluation.evaluate_run import evaluate_task
from finetune_pipeline.evaluation.failures.atlas import ShownRows, failure_atlas, shown_rows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.predictions import of_model
from finetune_pipeline.evaluation.prompts import Neighbours, TrainingRow
from finetune_pipeline.evaluation.result import EvaluationResult, StepFacts
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.report.stored import Evaluated, Report
from finetune_pipeline_tests.trainings import AUDIT, LOCAL
from finetune_pipeline_tests.unit.evaluation.rows import json_spec, paired, row, rows, spec, text_spec

PARITY = {"kind": "lora", "rows": 32, "same_greedy_share": 1.0, "mean_kl": 1e-5, "mean_kl_limit": 1e-3, "passed": True}
NOT_COMPARED = {"kind": "lora", "rows": 0, "passed": False}
OPENINGS = [{"time": "2026-01-02T03:04:05+00:00", "test": "t1", "candidate": "c1", "reason": "evaluation"}]
VERSIONS = {"splits": "t1", "adapter": "c1", "merged_model": "m1", "champion": None}
ABILITY = {
    "items": 258, "unscored": 0, "n": 234, "drop": 0.013, "interval": [-0.037, 0.063], "lost": 18, "gained": 15,
    "before": {"accuracy": 0.534, "interval": [0.47, 0.6]}, "after": {"accuracy": 0.521, "interval": [0.46, 0.58]},
    "mcnemar_p": 0.73, "smallest_visible": 0.068, "lost_items": ["arithmetic-01"], "failed": [],
    "text": {"n": 24, "before": 1.23, "after": 1.25, "rise": 0.02, "interval": [0.01, 0.03]},
    "categories": {"arithmetic": {"n": 36, "unit": "accuracy", "before": 0.33, "after": 0.31}},
}  # fmt: skip
SUPERVISION = {"train": AUDIT}
COST = {
    "steps": {"adapter": {"seconds": 75.2, "cpu_seconds": 74.0, "train_seconds": 70.0, "peak_memory_mib": 1234.5}},
    "seconds": 75.2, "saved_share": 0.75,
    "tokens": {"base": {"prompt": 800.0, "answer": 4.0}, "candidate": {"prompt": 200.0, "answer": 1.0}},
}  # fmt: skip
QUALITY = {
    "passed": False, "tokens": {"whole": {"min": 60, "p50": 70, "p99": 88, "max": 90}},
    "parts": {"balance": {"passed": False, "message": "the largest label is 12 times the smallest", "blocking": True}},
}  # fmt: skip
TRAINING = LOCAL | {"measured": {"seconds": 75.2, "peak_memory_mib": 1234.5, "resumed_from": "checkpoint-20"}}
DATA = {
    "raw_examples": {"lines": 1042, "files": [{"file": "raw/a<b>.jsonl", "sha256": "ab12" * 16}]},
    "validated_examples": {"rows_in": 1042, "kept": 1019, "quarantined": 23, "by_rule": {"data.bad_json": 23}},
    "clean_examples": {"rows_in": 1019, "kept": 951, "quarantined": 16, "exact_duplicates": 31, "near_duplicates": 21,
                       "scrubbed": {"email": 14, "iban": 0}},
    "splits": {"rows_in": 951, "quarantined": 0, "counts": {"train": 700, "validation": 80, "test": 171},
               "labels": {"train": {"bug": 300, "billing": 300, "other": 100}},
               "leaks": {"exact": 0, "near": 0, "group": 0}},
}  # fmt: skip


def refusal() -> GateResult:
    """The result of a gate that refuses the candidate."""
    return GateResult(
        name="beats_baseline", status="failed", measured=0.0, threshold=0.0, message="It is not better.",
        what_to_do="Collect more rows.",
    )  # fmt: skip


def perturbed_answers(candidate: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The candidate's answers to perturbed rows, equal to those to the original rows."""
    perturbed = candidate[: spec().robustness.rows]
    return [dict(row) | {"model": set_name("candidate", kind)} for kind in KINDS for row in perturbed]


def simple_answers(base: Sequence[Mapping[str, Any]], simple: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Prediction rows of simple models. simple: Each model's answers by example id."""
    return [
        {**r, "model": f"simple_{name}", "text": answers[r["example_id"]], "status": "ok", "label_scores": []}
        for name, answers in simple.items()
        for r in base
    ]


def arguments(simple: Mapping[str, Mapping[str, str]] | None = None, **changes: Any) -> dict[str, Any]:
    """Keyword arguments of evaluate_task for a good candidate without a champion: 200 rows, 5 lost and 60 won.

    simple: Simple models' answers by example id; by default, linear is right on two thirds of the rows, others on a third.
    """
    base, candidate = paired(both=100, only_base=5, only_candidate=60, neither=35)
    zero_shot = rows([("billing", "no label"), ("bug", "bug")] * 20)
    eight_shot = rows([("bug", "bug")] * 30 + [("bug", "other")] * 10)
    right_on_validation = {"simple_commonest": 10, "simple_nearest": 20, "simple_linear": 30}
    validated = {n: rows([("bug", "bug")] * k + [("bug", "other")] * (40 - k)) for n, k in right_on_validation.items()}
    args = {
        "spec": spec(), "predictions": [*base, *candidate, *perturbed_answers(candidate)],
        "baseline": score_baselines(spec(), {"zero_shot": zero_shot, "8_shot": eight_shot, **validated}).to_json(),
        "training": TRAINING, "data": DATA, "parity": PARITY, "ability": ABILITY, "people": {"rated": 0},
        "supervision": SUPERVISION, "cost": COST, "quality": QUALITY, "openings": OPENINGS, "versions": VERSIONS,
        **changes,
    }  # fmt: skip
    base_rows = [r for r in args["predictions"] if r["model"] == "base"]
    if simple is None and "predictions" not in changes:
        guesses = {"commonest": lambda i, gold: "bug", "nearest": lambda i, gold: "billing"}
        guesses["linear"] = lambda i, gold: gold if i % 2 else "other"
        simple = {n: {r["example_id"]: f(i, r["gold"]) for i, r in enumerate(base_rows)} for n, f in guesses.items()}
    return args | {"predictions": [*args["predictions"], *simple_answers(base_rows, simple or {})]}


def evaluation_and_rows(
    texts: Mapping[str, str] | None = None, trained: Sequence[TrainingRow] = (), **changes: Any
) -> tuple[EvaluationResult, ShownRows]:
    """The evaluation of :func:`arguments` and the rows that its report shows. texts: By example id; default: `text of ID`."""
    args = arguments(**changes)
    candidate, output = of_model(args["predictions"], "candidate"), args["spec"].output
    texts = {r["example_id"]: f"text of {r['example_id']}" for r in candidate} if texts is None else texts
    atlas = failure_atlas(candidate, output, texts, Neighbours(trained))
    facts = {name: args.pop(name) for name in StepFacts.model_fields if name in args}
    facts["baseline"] = json.loads(json.dumps(facts["baseline"]))  # as it is read from the store: lists, no tuples
    result = evaluate_task(**args, facts=StepFacts.model_validate(facts), atlas=atlas)
    return result, shown_rows(result, args["predictions"], output, texts, trained)


def evaluation(**changes: Any) -> EvaluationResult:
    """The evaluation of :func:`arguments`."""
    return evaluation_and_rows(**changes)[0]


usual = cache(evaluation)
"""The default evaluation, cached. Tests must not change it."""


def report_facts(**changes: Any) -> dict[str, Any]:
    """Facts of an evaluation_report of the default evaluation, as JSON; changes: other values."""
    return {**Evaluated.from_report(Report.of(usual(), []), []).to_json(), **changes}


def changed(result: EvaluationResult, values: Mapping[str, Any]) -> EvaluationResult:
    """The evaluation with other values at dotted paths of its JSON, such as `seal.level.look` or `fixes.shown.0.id`."""
    content = result.to_json()
    for path, value in values.items():
        parent: Any = content
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("."))
        for key in keys:
            parent = parent[key]
        parent[last] = value
    return EvaluationResult.model_validate(content)


def text_evaluation() -> EvaluationResult:
    """An evaluation of a text task: the candidate answers the reference, the base model only half of it."""
    gold = [f"parcel {i} arrives on monday morning" for i in range(40)]
    base = [row(i, text, " ".join(text.split()[:3]), "base", label_scores=[]) for i, text in enumerate(gold)]
    candidate = [row(i, text, text, "candidate", label_scores=[]) for i, text in enumerate(gold)]
    baseline = score_baselines(text_spec(), {"zero_shot": base}).to_json()
    return evaluation(spec=text_spec(), predictions=[*base, *candidate], baseline=baseline)


def json_evaluation(**changes: Any) -> EvaluationResult:
    """The evaluation of :func:`json_evaluation_and_rows`."""
    return json_evaluation_and_rows(**changes)[0]


def json_evaluation_and_rows(**changes: Any) -> tuple[EvaluationResult, ShownRows]:
    """An evaluation of an extraction task and the rows that its report shows: the base model fences half of its JSON and renames a
    key in the other half; the candidate gets some cities wrong."""
    gold = [json.dumps({"city": "Rome" if i % 2 else "Oslo", "guests": i}) for i in range(60)]
    fenced = [f"```json\n{g}\n```" if i % 2 else g.replace("guests", "people") for i, g in enumerate(gold)]
    misread = [g.replace("Rome", "Paris") if i % 5 == 1 else g for i, g in enumerate(gold)]
    base = [row(i, g, text, "base", label_scores=[]) for i, (g, text) in enumerate(zip(gold, fenced, strict=True))]
    candidate = [row(i, g, s, "candidate", label_scores=[]) for i, (g, s) in enumerate(zip(gold, misread, strict=True))]
    task = json_spec(**changes)
    baseline = score_baselines(task, {"zero_shot": base}).to_json()
    return evaluation_and_rows(spec=task, predictions=[*base, *candidate], baseline=baseline)
