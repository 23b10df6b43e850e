"""What the command line says of a gate."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_pipeline.cli.project import gate_line


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"status": "passed"}, "  yes  robust: m"),
        ({"status": "failed"}, "  NO   robust: m"),
        ({"status": "warned"}, "  warn robust: m"),
        ({"status": "not_asked"}, "  –    robust: m"),
    ],
)
def test_a_gate_that_only_warns_does_not_say_yes(gate: dict[str, Any], said: str) -> None:
    assert gate_line({"name": "robust", "message": "m", **gate}) == said
