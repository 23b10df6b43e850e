"""Says what it costs and saves that a model of one kind serves and not one of another."""

from finetune_pipeline.evaluation.costs import Cost
from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import dollars, in_words

KINDS = {
    "tuned": "a fine-tuned model",
    "classifier": "a fine-tuned classifier",
    "simple": "a simple model",
    "prompt": "a prompted base model",
}


def month_of(evaluation: EvaluationResult, kind: str | None, name: str | None = None) -> float | None:
    """Return the dollars a month of serving a model of this kind; None if unknown, as of a simple model that needs the base model.

    name: Of a simple model."""
    if kind == "simple" and (name not in SIMPLE_MODELS or "torch" in SIMPLE_MODELS[name].packages):
        return None
    months = evaluation.cost.month if evaluation.cost else {}
    return months.get("tuned" if kind == "classifier" else str(kind))


def costs_more(evaluation: EvaluationResult, winner: Winner) -> str:
    """Return ` and costs $438 a month more to serve` if the fine-tuned model does, compared with the winner; without prices, how
    many times as long it takes to answer; nothing if it costs no more, or the costs are unknown."""
    tuned, simpler = month_of(evaluation, "tuned"), month_of(evaluation, winner.kind, winner.name)
    if tuned is None or simpler is None:
        return _takes_longer(evaluation, winner)
    if tuned <= simpler:
        return ""
    if simpler and tuned >= 2 * simpler:
        return f" and costs {tuned / simpler:.0f} times as much to serve"
    return f" and costs {dollars(tuned - simpler)} a month more to serve"


def _takes_longer(evaluation: EvaluationResult, winner: Winner) -> str:
    """Return ` and takes 400 times as long to answer`, by what was measured on this machine: in batches of a language model, which
    flatters it, and of a simple model one call alone."""
    cost = evaluation.cost or Cost()
    times = cost.milliseconds
    simple = cost.simple.get(str(winner.name))
    simpler = times.get("base") if winner.kind != "simple" else simple.p50 if simple else None
    tuned = times.get("candidate")
    if not tuned or not simpler or tuned < 2 * simpler:
        return ""
    return f" and takes {tuned / simpler:,.0f} times as long to answer"


def change_of_kind(evaluation: EvaluationResult, winner: Winner) -> list[str]:
    """Return the sentences on a champion whose kind changes: from what to what, why, and the dollars a month of that."""
    before, after = evaluation.champion_kind, winner.kind
    if before is None or after is None or before == after or evaluation.promoted:
        return []
    surely = evaluation.gate_settings.get("champion") == "better" and not evaluation.champion_forgotten
    why = "is surely better on this test" if surely else "passes the gates against it"
    sentences = [f"The champion changes from {KINDS[before]} to {KINDS[after]}: {winner.title} {why}."]
    old = month_of(evaluation, before, evaluation.champion_name)
    new = month_of(evaluation, after, winner.name)
    if old is not None and new is not None:
        change = "costs nothing more"
        if old != new:
            change = f"saves {dollars(old - new)}" if new < old else f"costs {dollars(new - old)} more"
        sentences.append(f"By the price list that {change} a month ({dollars(old)} before, {dollars(new)} now).")
    else:
        missing = in_words([KINDS[kind] for kind, month in ((before, old), (after, new)) if month is None])
        sentences.append(
            f"What {missing} costs a month is unknown: it takes advise.calls_per_month, a machine in the price list, and a simple "
            "model that needs no language model."
        )
    return sentences
