"""The gates between a candidate and the alias `champion`. What cannot be measured does not pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from finetune_pipeline.evaluation.gate_result import GateResult, answer
from finetune_pipeline.evaluation.gates_besides_task import (
    BESIDES_GATES,
    general_ability,
    human_review,
    judge,
    recent_production,
    robust_rows,
)
from finetune_pipeline.evaluation.gates_on_gains import (
    GAIN_GATES,
    beats_baseline,
    beats_champion,
    beats_commonest,
    beats_simple,
)
from finetune_pipeline.evaluation.gates_on_rows import ROW_GATES, few_regressions, never_break
from finetune_pipeline.evaluation.result import EvaluationResult, Seal
from finetune_pipeline.evaluation.statistics import rows_needed_for_share
from finetune_pipeline.evaluation.step_facts import Parity
from finetune_pipeline.evaluation.wording import counted, percent, points
from finetune_pipeline.spec.methods import kind_of
from finetune_pipeline.spec.model import GatesSpec, TaskSpec

Decision = Literal["promote", "use_simple", "refuse"]
"""What the gates together say: move `champion`; keep it and use a simple model instead; keep it."""
_TO_DO = {
    "format_compliance": "Look at the invalid answers in the report. Train longer, make the system prompt name the "
    "allowed answers, or restrict decoding to them; enlarge a test set too small to show it.",
    "merge_parity": "Do not ship this model: it is not the one that was trained. Make merged_model again; if it fails "
    "again, serve base and adapter as they were trained, and report the fault.",
    "no_failed_generation": "Read the error texts in the predictions (column error), mend the cause, and materialize "
    "test_predictions again.",
    "sealed_test_openings": "Materialize test_predictions, which records the opening. After many candidates on one "
    "test set, collect a new one.",
}


def _result(
    name: str, passed: bool, measured: Any, threshold: float | None, message: str, *, to_do: str | None = None
) -> GateResult:
    return answer(name, passed, measured, threshold, message, to_do or _TO_DO[name])


def decide(spec: TaskSpec, evaluation: EvaluationResult) -> list[GateResult]:
    """Ask every gate about an evaluation, always the same gates in the same order. What was not measured does not pass."""
    return [
        beats_baseline(spec, evaluation),
        beats_commonest(spec, evaluation),
        beats_simple(spec, evaluation),
        beats_champion(spec, evaluation),
        few_regressions(spec, evaluation),
        never_break(spec, evaluation),
        format_compliance(spec, evaluation),
        merge_parity(spec, evaluation.parity),
        no_failed_generation(spec, evaluation),
        sealed_test_openings(spec, evaluation.seal),
        judge(spec, evaluation.judge),
        general_ability(spec, evaluation.ability),
        human_review(spec, evaluation.people),
        robust_rows(spec, evaluation.robustness),
        recent_production(spec, evaluation.production, evaluation.versions.get("champion")),
    ]


def verdict(gates: Sequence[GateResult]) -> Decision:
    """`promote` where there are gates and all let the candidate through; `use_simple` where only beats_simple says no."""
    failed = [gate.name for gate in gates if not gate.passed]
    if gates and not failed:
        return "promote"
    return "use_simple" if failed == ["beats_simple"] else "refuse"


def format_compliance(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """Wilson lower bound of the candidate's valid share at or above gates.min_valid_share."""
    name, threshold = "format_compliance", spec.gates.min_valid_share
    valid = evaluation.scores["candidate"].valid
    if not valid.n or valid.valid is None or valid.interval is None:
        return _result(name, False, None, threshold, "The share of valid answers could not be measured.")
    low = valid.interval[0]
    message = (
        f"{valid.valid:,} of {counted(valid.n, 'answer')} in the declared form, so surely {percent(low)} "
        f"or more of all; {percent(threshold)} are asked for."
    )
    needed = rows_needed_for_share(threshold, spec.gates.confidence)
    if low >= threshold or (needed is not None and valid.n >= needed):
        return _result(name, low >= threshold, low, threshold, message)
    if needed is None:
        message += " No finite test can show a share of 100%."
        return _result(name, False, low, threshold, message, to_do="Set gates.min_valid_share below 1.")
    enough = counted(needed, "row")
    message += f" Even without a single invalid answer that takes a test set of {enough}."
    to_do = f"Enlarge the test set to {enough} or more, or lower gates.min_valid_share."
    return _result(name, False, low, threshold, message, to_do=to_do)


def merge_parity(spec: TaskSpec, parity: Parity) -> GateResult:
    """What was trained and what is served give the same greedy answer on at least gates.parity_min_agreement of the rows.

    Where a limit of the mean divergence per token is given, it must hold too; a comparison that itself says it did not pass
    fails here as well.
    """
    name, threshold, share = "merge_parity", spec.gates.parity_min_agreement, parity.same_greedy_share
    if not parity.rows or share is None:
        return _result(name, False, None, threshold, "What is served was not compared with what was trained.")
    words = kind_of(parity.kind)
    message = (
        f"{percent(share)} of {counted(parity.rows, 'answer')} are the same from {words.trained} and {words.served}; "
        f"{percent(threshold)} are asked for."
    )
    passed = share >= threshold and parity.passed is True
    if "mean_kl_limit" in parity.model_fields_set:
        kl, limit = parity.mean_kl, parity.mean_kl_limit
        if kl is None or limit is None:
            return _result(name, False, share, threshold, message + " Their divergence could not be measured.")
        passed = passed and kl <= limit
        message += f" Mean divergence {kl:.2g} nats a token, at most {limit:.2g} allowed."
    return _result(name, passed, share, threshold, message)


def no_failed_generation(spec: TaskSpec, evaluation: EvaluationResult) -> GateResult:
    """No prediction of any compared model ended in an error: a failed row would count against one side only."""
    name, scores = "no_failed_generation", evaluation.scores
    compared = evaluation.comparisons.get("champion") is not None or "champion" in scores
    models = ["base", "candidate"] + (["champion"] if compared else [])
    errors = {model: scores[model].statuses.get("error") if model in scores else None for model in models}
    if unknown := [model for model, count in errors.items() if count is None]:
        return _result(name, False, None, 0.0, f"Failed answers were not counted for {', '.join(unknown)}.")
    failed = {model: count for model, count in errors.items() if count}
    if not failed:
        return _result(name, True, 0, 0.0, f"Every answer was generated ({', '.join(models)}).")
    total = sum(failed.values())
    of_models = ", ".join(f"{model} {count}" for model, count in failed.items())
    return _result(name, False, total, 0.0, f"{counted(total, 'answer')} could not be generated: {of_models}.")


def sealed_test_openings(spec: TaskSpec, seal: Seal) -> GateResult:
    """The ledger knows of the opening this evaluation rests on; the message says how often the seal was broken, and
    what that leaves of the level."""
    name, count, candidates = "sealed_test_openings", seal.count, seal.candidates
    look, left, spent = seal.level.look, seal.level.level, seal.level.spent
    if not count or seal.recorded is not True or candidates is None or look is None or left is None:
        return _result(
            name,
            False,
            count,
            1.0,
            "No opening of the sealed test for this candidate is on record, so nobody knows how often it was looked at.",
        )
    message = (
        f"The sealed test was opened {'once' if count == 1 else f'{count} times'}, for "
        f"{counted(candidates, 'candidate')}; this is number {look}, judged by {100 * (1 - left):.4g}% intervals."
    )
    if look > 1 and spent is not None:
        message += (
            f" The chance that it or one before it was promoted without being better is at most {percent(spent)}."
        )
    if candidates > 1 and seal.optimism is not None and seal.optimism > 0:
        flattered = points(seal.optimism, sign=False)
        message += f" Choosing the best of them flatters its accuracy by up to {flattered} points."
    return _result(name, True, count, 1.0, message)


def table() -> list[dict[str, Any]]:
    """The gates of :func:`decide`, in its order, for the documentation and for whoever shows one check a gate.

    Each: name, needs, default, blocking (what it holds back), what_to_do (when it says no).
    """
    d = GatesSpec.model_validate({})
    to_do = {
        **_TO_DO,
        **{row[0]: row[4] for row in (*GAIN_GATES, *ROW_GATES, *BESIDES_GATES)},
    }
    rows = [
        *(row[:4] for row in (*GAIN_GATES, *ROW_GATES)),
        (
            "format_compliance",
            "the lower bound of the share of valid answers at or above gates.min_valid_share",
            f"{d.min_valid_share:g}, so at least {rows_needed_for_share(d.min_valid_share, d.confidence)} test rows",
            "champion",
        ),
        (
            "merge_parity",
            "what is served gives the answer of what was trained on gates.parity_min_agreement of the rows",
            f"{d.parity_min_agreement:g}",
            "everything after the merge",
        ),
        ("no_failed_generation", "no answer of any compared model ended in an error", "0", "champion"),
        (
            "sealed_test_openings",
            "the opening of the sealed test is on record; the number of openings is shown",
            "1 or more",
            "champion",
        ),
        *(row[:4] for row in BESIDES_GATES),
    ]
    return [
        {"name": name, "needs": needs, "default": default, "blocking": blocking, "what_to_do": to_do[name]}
        for name, needs, default, blocking in rows
    ]
