"""Few perturbed rows cannot hold a candidate back, and the spec is told so before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import check_all
from finetune_pipeline_tests.unit.evaluation.rows import spec


def findings(of: TaskSpec) -> list[Any]:
    return [f for f in check_all(of, Path(of.name)) if f.rule == "spec.robustness_rows"]


@pytest.mark.parametrize("rows", [1, 59])
def test_too_few_rows_to_block_are_a_warning(rows: int) -> None:
    (finding,) = findings(spec(robustness={"rows": rows}))
    assert finding.severity == "warning" and finding.place == "task.yaml: robustness.rows"
    assert f"{rows} perturbed rows are too few" in finding.message and "robustness.rows: 60" in finding.fix


@pytest.mark.parametrize("robustness", [{}, {"rows": 0}, {"rows": 60}, {"rows": 24, "action": "warn"}])
def test_enough_rows_none_or_a_warning_alone_are_fine(robustness: dict[str, Any]) -> None:
    assert findings(spec(robustness=robustness)) == []
