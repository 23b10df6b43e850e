"""Section of task.yaml on a teacher: a larger model whose answers to unlabelled rows become training rows."""

from pydantic import Field

from finetune_pipeline.spec.baseline import ChatEndpointSpec
from finetune_pipeline.spec.outputs import Section

TEACHER_GENERATOR = "teacher "
"""Start of the generator of rows that a teacher answered; its model's name follows."""
PEOPLE_FILE = "people.jsonl"
"""Name of the file of rows that people answered, among the raw files."""


class TeacherEndpointSpec(ChatEndpointSpec):
    """The teacher's OpenAI-style endpoint. It costs money, and receives the scrubbed texts of `data.unlabelled`."""

    model: str = Field(
        min_length=1, description="Name at the endpoint; its price is the line of this name in prices.yaml."
    )


class TeacherSpec(Section):
    """A teacher, whose answers are training rows of origin `synthetic`, and never in validation or test.

    It is asked at an endpoint, or has answered in the production logs.
    """

    endpoint: TeacherEndpointSpec | None = Field(None, description="Where it is asked. Required without from_logs.")
    from_logs: bool = Field(
        False,
        description="Its answers are those in the production logs that no person has corrected; nothing is asked.",
    )
    models: list[str] = Field(
        [], description="With from_logs: the teacher's names in the logs (`model_version`, or `answered_by`)."
    )
    allowed: bool = Field(
        False,
        description="You have read the provider's terms, and they allow training a model on its answers. Required.",
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="Largest cost of all answers so far, in dollars. An estimate above it is refused before any call. Required "
        "with an endpoint.",
    )
    rows: int = Field(2000, ge=1, description="Rows to ask, chosen to differ as much as possible.")
    answers: int = Field(
        3, ge=1, le=9, description="Answers per row: the first at temperature 0, further ones at temperature 1."
    )
    min_agreement: float = Field(
        0.6, gt=0, le=1, description="Least share of a row's answers that are the same; other rows are left out."
    )
    prompt: str | None = Field(None, min_length=1, description="System prompt of the teacher. Unset: system_prompt.")

    @property
    def name(self) -> str:
        """The teacher's name: that of its model at the endpoint, or those in the logs."""
        return self.endpoint.model if self.endpoint else " and ".join(self.models)
