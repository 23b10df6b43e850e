"""Reads the files of an evaluation_report artifact, which an earlier release may have written."""

import contextlib
from collections.abc import Iterator

from pydantic import ValidationError

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.faults import OutsideError

SHOWN_ROWS = "rows.json"


def read_evaluation(report: Artifact) -> tuple[EvaluationResult, list[GateResult]]:
    """The evaluation and its gates. Raises OutsideError if another release wrote them with other fields."""
    with _of_this_release(report):
        gates = [GateResult.from_dict(gate) for gate in read_json(report.path("gates.json"))]
        return EvaluationResult.model_validate(read_json(report.path("evaluation.json"))), gates


def read_shown_rows(report: Artifact) -> ShownRows:
    """The texts the report shows. Raises OutsideError if another release wrote them with other fields, or not at all."""
    with _of_this_release(report):
        return ShownRows.model_validate_json(report.path(SHOWN_ROWS).read_bytes())


@contextlib.contextmanager
def _of_this_release(report: Artifact) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, TypeError, ValidationError) as error:
        raise OutsideError(
            f"{report.folder} was written by another release of finetune_pipeline, and this one cannot read it\n"
            f"fix: `finetune run {report.task}` evaluates again; report.html in that folder still shows the old page"
        ) from error
