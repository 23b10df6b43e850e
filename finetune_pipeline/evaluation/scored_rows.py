"""The table of scored rows: one row per model and example, with everything judged of the answer.

Scores, comparisons, gates, failures and pages read it, so that an answer and its reference are parsed and judged once.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.evaluation.correctness import JsonRow, Row, answer_of, is_right, likelihood_row, read_json
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput


class ScoredRow(Mapping[str, object]):
    """A prediction row, which it reads like, with its judgements. Each is made when it is first read, and kept.

    Attributes:
        output: The declared output by which it is judged.
        scores: Score of each metric that was asked for, by the metric's name (see metrics.base.RowMetric).
    """

    def __init__(self, prediction: Row, output: AnyOutput) -> None:
        self._prediction, self.output = prediction, output
        self.scores: dict[str, float] = {}

    def __getitem__(self, column: str) -> Any:
        return self._prediction[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prediction)

    def __len__(self) -> int:
        return len(self._prediction)

    @cached_property
    def right(self) -> bool:
        """Whether the answer equals the reference (correctness.is_right)."""
        return self.json.right if isinstance(self.output, JsonOutput) else is_right(self._prediction, self.output)

    @cached_property
    def broken_rules(self) -> list[str]:
        """Rules of form that a finished answer breaks (answer_rules.form_problems), in their order."""
        return [rule for rule, _ in form_problems(self["text"], self.output)] if self["status"] == "ok" else []

    @property
    def valid(self) -> bool:
        """Whether the answer is finished and in the declared form."""
        return self["status"] == "ok" and not self.broken_rules

    @cached_property
    def label(self) -> str | None:
        """The label that it answers; None if it answers none. Only for labels."""
        assert isinstance(self.output, LabelsOutput)
        return answer_of(self._prediction, self.output.labels)

    @cached_property
    def json(self) -> JsonRow:
        """The parsed answer and reference. Only for JSON."""
        assert isinstance(self.output, JsonOutput)
        return read_json(self._prediction, self.output)

    @cached_property
    def likeliest(self) -> "ScoredRow":
        """The row with the most likely label as its answer. Only for labels."""
        assert isinstance(self.output, LabelsOutput)
        return ScoredRow(likelihood_row(self._prediction, self.output.labels), self.output)


def scored_row(row: Row, output: AnyOutput) -> ScoredRow:
    """The row itself if it is scored by this output, else a new one."""
    if isinstance(row, ScoredRow) and (row.output is output or row.output == output):
        return row
    return ScoredRow(row, output)


def scored(rows: Iterable[Row], output: AnyOutput) -> list[ScoredRow]:
    """The rows with their judgements, in their order. Rows that are scored by this output stay as they are."""
    return [scored_row(row, output) for row in rows]
