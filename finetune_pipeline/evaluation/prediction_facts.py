"""Facts of predictions: counts of answers, by model or prompt."""

from collections.abc import Sequence
from typing import Any, Self

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.openai_endpoint import Spent
from finetune_pipeline.evaluation.predictions import count_statuses, is_test_set
from finetune_pipeline.models.inference.generated import Answer


class RestrictedFacts(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Answers restricted to the allowed forms. asked: those generated again; why: they are not available."""

    asked: int
    available: bool
    why: str
    statuses: dict[str, int]


class SetFacts(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Answers of one model with one prompt.

    Attributes:
        statuses: Rows by generation status.
        mean_prompt_tokens, mean_new_tokens: Zero without rows.
        shared_prefix_tokens: Beginning that all prompts share.
        rows_shown_fewer: Rows whose prompt had to be shortened to fit into the context.
        asked: The endpoint; None if the model ran here.
        restricted: None if they are not asked for.
    """

    rows: int
    statuses: dict[str, int]
    mean_prompt_tokens: float = 0.0
    mean_new_tokens: float = 0.0
    shared_prefix_tokens: int = 0
    rows_shown_fewer: int = 0
    asked: str | None = None
    restricted: RestrictedFacts | None = None

    @classmethod
    def over(cls, answers: Sequence[Answer], prefix: int = 0, shown_fewer: int = 0) -> Self:
        """Return the facts of these answers."""
        rows = len(answers)
        return cls(
            rows=rows,
            statuses=count_statuses(answer.status for answer in answers),
            mean_prompt_tokens=round(sum(answer.prompt_tokens for answer in answers) / max(1, rows), 2),
            mean_new_tokens=round(sum(answer.new_tokens for answer in answers) / max(1, rows), 2),
            shared_prefix_tokens=prefix,
            rows_shown_fewer=shown_fewer,
        )

    @property
    def failed(self) -> int:
        """Rows without an answer, free or restricted."""
        return self.statuses["error"] + (self.restricted.statuses.get("error", 0) if self.restricted else 0)


class Predicted(Facts, frozen=True, kw_only=True):
    """Facts of a job that asks models. `vectors` and `left_out` of the simple models as in simple_answers.SimpleAnswers."""

    rows: int
    sets: dict[str, SetFacts]
    vectors: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}

    @property
    def failed(self) -> dict[str, int]:
        """Test rows without an answer, by model. Perturbed and production rows are not part of the test."""
        return {name: answers.failed for name, answers in self.sets.items() if is_test_set(name)}


class PromptFacts(SetFacts, frozen=True, kw_only=True, omit_defaults=False):
    """Answers of the base model with one prompt (prompts.Prompt)."""

    shots: int
    retrieved: int
    embeddings: str | None
    documents: int
    ids: list[str]
    system: str | None


class AnsweredPrompts(Facts, frozen=True, kw_only=True):
    """Facts of a job that tries prompts. passages: of the documents; documents_left_out: files that cannot be read."""

    rows: int
    prompts: dict[str, PromptFacts]
    passages: int
    documents_left_out: list[str]
    vectors: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}


class ApiUsage(Facts, frozen=True, kw_only=True):
    """What was asked of the API model. known: answers from the cache; prompt: the one it was asked with on the test."""

    endpoint: str
    known: int
    spent: Spent
    prompts: dict[str, SetFacts]
    prompt: str | None = None
