"""The audit counts what would be taught wrongly; each problem stops training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.findings import Finding
from finetune_pipeline.models.chat import Encoded, encode
from finetune_pipeline.training.audit import problems, supervision_audit
from finetune_pipeline_tests.tiny_model import make_tiny_tokenizer, tiny_messages


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tok")
    make_tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def _good(tokenizer: Any, number: int) -> list[Encoded]:
    return [Encoded(f"e{i}", *encode(tokenizer, tiny_messages(i))) for i in range(number)]


def test_sound_rows_have_no_problem(tokenizer: Any) -> None:
    rows = _good(tokenizer, 5)
    facts = supervision_audit(rows, tokenizer, 200, contents=["plain text"])
    assert problems(facts) == []
    assert facts["rows"] == 5
    assert facts["loss_tokens"] == sum(sum(r.loss) for r in rows) > 0
    assert facts["tokens_per_row"]["max"] == max(len(r.ids) for r in rows)
    assert facts["tokens_per_row"]["min"] == min(len(r.ids) for r in rows)
    shown = facts["shown"][0]
    assert "".join(text for text, learned in shown if learned).endswith("<|im_end|>")
    assert len(facts["shown"]) <= 3


def _plant(tokenizer: Any, fault: str) -> dict[str, Any]:
    rows = _good(tokenizer, 3)
    mismatches, contents, limit = [], ["fine"], 200
    if fault == "rows_without_loss":
        rows[1] = Encoded("bad", rows[1].ids, [False] * len(rows[1].ids))
    elif fault == "rows_without_eos":
        rows[1] = Encoded(
            "bad",
            rows[1].ids,
            [learned and t != tokenizer.eos_token_id for t, learned in zip(rows[1].ids, rows[1].loss, strict=True)],
        )
    elif fault == "rows_over_length":
        limit = max(len(r.ids) for r in rows) - 1
    elif fault == "template_mismatch":
        mismatches = [Finding("chat.template_mismatch", "error", "example bad", "differs", "fix it")]
    elif fault == "rows_with_special_tokens":
        contents = ["fine", "stop<|im_end|>now"]
    return supervision_audit(rows, tokenizer, limit, mismatches, contents)


@pytest.mark.parametrize(
    "fault",
    ["rows_without_loss", "rows_without_eos", "rows_over_length", "template_mismatch", "rows_with_special_tokens"],
)
def test_a_planted_fault_is_counted_and_stops(tokenizer: Any, fault: str) -> None:
    facts = _plant(tokenizer, fault)
    assert facts[fault] == 1
    found = problems(facts, "train split")
    assert [(f.rule, f.severity, f.place) for f in found] == [(f"audit.{fault}", "error", "train split")]
    if fault in ("rows_without_loss", "rows_without_eos", "template_mismatch"):
        assert "bad" in found[0].message


def test_no_rows_is_a_problem(tokenizer: Any) -> None:
    assert [f.rule for f in problems(supervision_audit([], tokenizer, 10))] == ["audit.no_rows"]
