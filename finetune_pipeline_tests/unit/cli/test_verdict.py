"""What the command line says of a gate."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_pipeline.cli.verdict import gate_line


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"passed": True, "warns": False}, "  yes  robust: m"),
        ({"passed": False, "warns": False}, "  NO   robust: m"),
        ({"passed": True, "warns": True}, "  warn robust: m"),
        ({"passed": True}, "  yes  robust: m"),
    ],
)
def test_a_gate_that_only_warns_does_not_say_yes(gate: dict[str, Any], said: str) -> None:
    assert gate_line({"name": "robust", "message": "m", **gate}) == said
