"""An API model among the baselines: the same prompts, paid for once, failures told, never more than the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_answers import ask_endpoint
from finetune_pipeline.evaluation.prompts import Prompt
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.baseline import ApiModelSpec
from finetune_pipeline_tests.openai_server import openai_server
from finetune_pipeline_tests.unit.evaluation.rows import spec
from finetune_pipeline_tests.unit.evaluation.test_prompts import TRAIN, example

ASKED = [example(f"v{i}", f"the invoice of customer {i} is wrong", "billing") for i in range(20)]
GOLD = {e.id: e.answer for e in ASKED}
PROMPTS = {"api_zero_shot": Prompt(api=True).to_dict(), "api_2_nearest": Prompt(retrieved=2, api=True).to_dict()}


def ask(url: str, cache: AnswerCache | None = None, **limits: Any) -> tuple[list[dict], dict]:
    model_spec = ApiModelSpec(url=url, model="large", concurrency=2, **limits)
    return ask_endpoint(model_spec, PROMPTS, ASKED, TRAIN, 8, GOLD, cache=cache, stage="few_shot_baseline")


def knows(body: dict[str, Any], seen: int) -> str:
    """Right only where the nearest examples are shown."""
    return "billing" if len(body["messages"]) > 2 else "It is about billing."


def test_the_same_prompts_are_asked_and_scored_beside_the_base_models() -> None:
    with openai_server(knows) as server:
        rows, facts = ask(server.url)
        sent = [r["messages"] for r in server.requests]
    assert {len(messages) for messages in sent} == {2, 6} and len(sent) == 40
    assert all(m[0]["content"] == "Sort it." and m[-1]["content"].startswith("the invoice of") for m in sent)
    by_prompt = {name: [r for r in rows if r["model"] == name] for name in PROMPTS}
    scores = score_baselines(spec(), by_prompt)
    assert scores["best"] == "api_2_nearest" and scores["prompts"]["api_2_nearest"]["accuracy"] == 1.0
    assert scores["prompts"]["api_zero_shot"]["valid_share"] == 0.0
    assert facts["prompts"]["api_2_nearest"]["mean_prompt_tokens"] == 7 and facts["spent"]["requests"] == 40


def test_a_few_failed_rows_are_wrong_and_many_stop_with_what_came_kept(tmp_path: Path) -> None:
    def one_fails(body: dict[str, Any], seen: int) -> Any:
        return (
            (500, {}, b"no") if body["messages"][-1]["content"].startswith("the invoice of customer 3 ") else "billing"
        )

    with openai_server(one_fails) as server:
        rows, facts = ask(server.url)
    failed = [r for r in rows if r["status"] == "error"]
    assert len(failed) == 2 and failed[0]["text"] == "" and "refused: 500" in failed[0]["error"]
    assert facts["prompts"]["api_zero_shot"]["statuses"]["error"] == 1

    def half_fail(body: dict[str, Any], seen: int) -> Any:
        return (500, {}, b"no") if len(body["messages"]) > 2 else "billing"

    cache = AnswerCache(tmp_path, b"k" * 32, "open", 10)
    with openai_server(half_fail) as server, pytest.raises(FindingsError, match="20 of 40 rows failed"):
        ask(server.url, cache)
    with openai_server(
        knows
    ) as server:  # another address is another model: nothing of the first one is taken for its own
        assert ask(server.url, cache)[1]["known"] == 0


def test_limits_hold_and_a_missing_key_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server(knows) as server:
        with pytest.raises(FindingsError, match="40 rows are to be asked of large at 127.0.0.1, and 39 are allowed"):
            ask(server.url, max_requests=39)
        with pytest.raises(FindingsError, match="budget"):
            ask(server.url, max_tokens=100)
        monkeypatch.delenv("ADVISE_TEST_KEY", raising=False)
        with pytest.raises(FindingsError, match="ADVISE_TEST_KEY is not set"):
            ask(server.url, key_variable="ADVISE_TEST_KEY")
        assert server.requests == []
