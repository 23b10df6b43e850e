"""What a candidate and its answers cost."""

from __future__ import annotations

import pytest

from finetune_pipeline.evaluation.predictions import costs


def test_tokens_and_time_are_summed_and_compared() -> None:
    rows = [
        {"model": model, "prompt_tokens": prompt, "new_tokens": new}
        for model, prompt, new in (("base", 90, 10), ("base", 110, 10), ("candidate", 40, 4), ("candidate", 60, 6))
    ]
    told = costs(
        rows,
        {"adapter": {"seconds": 60.0, "cpu_seconds": 50.0, "train_seconds": 9.0}, "base_ability": {}},
        {"seconds": {"low": 1}},
    )
    assert told["tokens"] == {"base": {"prompt": 100, "answer": 10}, "candidate": {"prompt": 50, "answer": 5}}
    assert told["saved_share"] == pytest.approx(0.5)
    assert told["steps"] == {
        "adapter": {"seconds": 60.0, "cpu_seconds": 50.0, "train_seconds": 9.0, "peak_memory_mib": None}
    }
    assert told["seconds"] == 60.0
    assert told["planned"] == {"low": 1}
