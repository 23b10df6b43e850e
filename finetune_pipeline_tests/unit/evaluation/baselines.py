"""Facts of a baseline for tests."""

from finetune_pipeline.evaluation.prediction_facts import SetFacts
from finetune_pipeline.evaluation.rivals import Baseline, ScoredBaselines


def baseline_of(scores: ScoredBaselines, details: dict[str, SetFacts] | None = None) -> Baseline:
    """Facts of a baseline with these scores. details: answers of its prompts."""
    facts = {"rows": scores.n, "passages": 0, "documents_left_out": [], "prompt_details": details or {}, "api": None}
    return Baseline.of({**scores.to_json(), **facts})


def tokens(prompt: float, answer: float = 4.0) -> SetFacts:
    """Facts of answers whose prompts have so many tokens."""
    return SetFacts(rows=1, statuses={}, mean_prompt_tokens=prompt, mean_new_tokens=answer)
