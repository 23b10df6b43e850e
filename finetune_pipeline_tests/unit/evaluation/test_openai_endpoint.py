"""An API model's answers over real HTTP: what fails is a failed row, what may have cost is not sent twice."""

import json
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_answers import ask_endpoint
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, models_of
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.evaluation.prediction_facts import ApiUsage
from finetune_pipeline.evaluation.prompts import Prompt
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.baseline import ApiModelSpec
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.unit.evaluation.test_prompts import TRAIN, example

KEY = "sk-test-do-not-tell"


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Sort."}, {"role": "user", "content": text, "weight": 1}]


def last(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)


def test_answers_come_in_order_greedily_and_with_what_they_cost() -> None:
    with openai_server(lambda body, seen: last(body).upper()) as server:
        endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", concurrency=3)
        result = ask(endpoint, [*(asked(f"t{n}") for n in range(12)), asked("t0")], 9)
        assert [a.text for a in result.answers] == [*(f"T{n}" for n in range(12)), "T0"]
        assert {(a.status, a.prompt_tokens, a.new_tokens, *a.label_scores) for a in result.answers} == {("ok", 7, 3)}
        spent = {"requests": 12, "repeated": 0, "prompt_tokens": 84, "new_tokens": 36, "untold": 0}
        assert asdict(result.spent) == spent
        sent = server.requests[0]
        assert (sent["path"], sent["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
        assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("small", 9, 0)
        assert sent["messages"][0] == {"role": "system", "content": "Sort."}
        assert set(sent["messages"][1]) == {"role", "content"}
        assert server.most_at_once <= 3
        assert models_of(endpoint) == ["large", "small"]


CALLED = {"function": {"name": "f", "arguments": "{}"}}
FAULTS: dict[str, tuple[Any, str, str]] = {
    "server": ((500, {}, b'{"error": "oops, your key is ' + KEY.encode() + b'"}'), "error", "refused: 500"),
    "bad": ((400, {}, b"too long"), "error", "refused: 400: too long"),
    "moved": (
        (307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, b""),
        "error",
        "refused: 307: Temporary Redirect",
    ),
    "garbage": ((200, {}, b"<html>login</html>"), "error", "garbled"),
    "no choices": ({"choices": []}, "error", "garbled"),
    "list": ((200, {}, b"[1]"), "error", "garbled"),
    "map": ({"choices": {"first": {}}}, "error", "garbled"),
    "half an emoji": (completion("how \ud83d"), "ok", ""),
    "number": (completion(3), "error", "garbled"),  # type: ignore[arg-type]
    "silence": (4.0, "error", "timeout"),
    "drip": ([b"HTTP/1.0 200 OK\r\n\r\n", *[b" "] * 60], "error", "timeout"),
    "half": ((200, {"Content-Length": "900"}, b'{"choices": [{"message": {"content": "how'), "error", "unreachable"),
    "filter": (completion("how_to", "content_filter"), "error", "filtered"),
    "call": (completion(None, "tool_calls", tool_calls=[CALLED]), "error", "called_tool"),
    "empty": (completion("  "), "empty", ""),
    "null": (completion(None), "empty", ""),
    "long": (completion("how_to and", "length"), "truncated", ""),
    "declines": (completion(None, refusal="I cannot."), "ok", ""),
}
"""By the text asked: the reply, and the status and the beginning of the error of its row."""


def test_every_fault_is_a_failed_row_and_no_paid_request_is_sent_twice() -> None:
    names = ["fine", *FAULTS, "fine too"]
    with openai_server(lambda body, seen: FAULTS.get(last(body), ("how_to",))[0]) as server:
        endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", timeout=2, concurrency=2)
        result = ask(endpoint, [asked(n) for n in names], 9)
        assert sorted(last(r) for r in server.requests) == sorted(names)  # each once
    by_name: dict[str, Answer] = dict(zip(names, result.answers, strict=True))
    assert by_name["fine"].text == by_name["fine too"].text == "how_to"
    for name, (_, status, error) in FAULTS.items():
        assert (by_name[name].status, by_name[name].error[: len(error)]) == (status, error), name
        assert not (status == "error" and by_name[name].text)
    assert KEY not in json.dumps([a.error for a in result.answers]) and "[key]" in by_name["server"].error
    assert by_name["declines"].text == "I cannot."
    assert by_name["half an emoji"].text == "how ?", "what the predictions file can hold"
    # what a failed request cost, nobody knows: 500, 307, garbage, no choices, list, map, silence, drip, half
    assert (result.spent.requests, result.spent.repeated, result.spent.untold) == (20, 0, 9)


def test_busy_endpoints_and_broken_connections_are_tried_again() -> None:
    def mind(body: dict[str, Any], seen: int) -> Any:
        if last(body) == "busy" and seen < 2:
            return 429 if seen else 503, {"Retry-After": "0.01"}, b"slow down"
        if last(body) == "always busy":
            return 429, {"Retry-After": "0"}, b"no"
        return "how_to"

    with openai_server(mind) as server:
        endpoint = Endpoint(server.url, "small", concurrency=1)
        result = ask(endpoint, [asked("busy"), asked("always busy"), asked("x")], 9)
        assert [(a.text, a.status) for a in result.answers] == [("how_to", "ok"), ("", "error"), ("how_to", "ok")]
        assert result.answers[1].error.startswith("refused: 429")
        assert (result.spent.requests, result.spent.repeated, result.spent.prompt_tokens) == (3 + 4 + 1, 5, 14)
        server.failing_lists = 2
        assert models_of(Endpoint(server.url, "small", timeout=5)) == ["large", "small"]  # free, hence after a 500, too
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = Endpoint(f"http://127.0.0.1:{free.getsockname()[1]}/v1", "small", tries=1)
        result = ask(gone, [asked("x")], 9)
        assert result.answers[0].error.startswith("unreachable") and result.spent.tokens == 0
        with pytest.raises(EndpointError, match="unreachable"):
            models_of(gone)


def test_the_environment_changes_neither_the_way_nor_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-service")
    with openai_server(lambda body, seen: "a") as server:
        fields = {"max_tokens": None, "temperature": None, "max_completion_tokens": 5}
        asking = Endpoint(server.url, "small", body=fields)
        assert ask(asking, [asked("x")], 9, tools=[[{"type": "function"}]]).answers[0].text == "a"
        sent = server.requests[0]
        assert sent["key"] == "Bearer none" and "another-service" not in str(server.headers)
        assert {"max_tokens", "temperature"}.isdisjoint(sent), "the spec's own fields replace the usual ones"
        assert (sent["max_completion_tokens"], sent["tools"]) == (5, [{"type": "function"}])


def test_known_answers_are_not_paid_again_and_those_that_came_before_the_end_are_known(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite", 8)
    rows = [asked(f"t{n}") for n in range(6)]
    with openai_server(lambda body, seen: (401, {}, b"no") if last(body) == "t3" else "a") as server:
        endpoint = Endpoint(server.url, "small", concurrency=1)
        with pytest.raises(EndpointError, match="401"):
            ask(endpoint, rows, 9, cache=cache)
        result = ask(endpoint, rows[:3], 9, cache=cache)
        assert (result.known, result.spent.requests, len(server.requests)) == (3, 0, 4)
        assert ask(endpoint, rows[:3], 8, cache=cache).known == 0, "a shorter answer is another one"


def test_what_no_row_can_survive_stops_at_once() -> None:
    for reply, message in (
        ((401, {}, b"Incorrect API key provided: " + KEY.encode()), "401: Incorrect API key provided: \\[key\\]"),
        ((404, {}, b"no such model"), "404: no such model"),
        ((429, {}, b'{"error": {"code": "insufficient_quota"}}'), "insufficient_quota"),
        ((500, {}, b"down"), "500: down"),
    ):
        with openai_server(lambda body, seen, reply=reply: reply) as server:
            endpoint = Endpoint(server.url, "small", "ENDPOINT_KEY", concurrency=2)
            with pytest.raises(EndpointError, match=message) as caught:
                ask(endpoint, [asked(f"t{n}") for n in range(60)], 9)
            assert KEY not in str(caught.value) and len(server.requests) <= 8


def test_the_budget_of_tokens_is_never_exceeded() -> None:
    rows = [asked(f"t{n}") for n in range(20)]
    with openai_server(lambda body, _: completion("a", usage=(90, 3) if last(body) != "t1" else None)) as server:
        endpoint = Endpoint(server.url, "small", concurrency=2)
        result = ask(endpoint, rows, 9, max_requests=20, max_tokens=1000)
        answered = [a for a in result.answers if a.status == "ok"]
        assert 5 <= len(answered) == len(server.requests) < 20
        assert result.spent.tokens <= 1000 and result.spent.untold == 1
        assert {a.error.partition(":")[0] for a in result.answers if a.status == "error"} == {"budget"}


QUESTIONS = [example(f"v{i}", f"the invoice of customer {i} is wrong", "billing") for i in range(20)]
GOLD = {e.id: e.answer for e in QUESTIONS}
PROMPTS = {"api_zero_shot": Prompt(api=True), "api_2_nearest": Prompt(retrieved=2, api=True)}


def ask_all(url: str, cache: AnswerCache | None = None, **limits: Any) -> tuple[list[dict], ApiUsage]:
    model_spec = ApiModelSpec(url=url, model="large", concurrency=2, **limits)
    return ask_endpoint(model_spec, PROMPTS, QUESTIONS, TRAIN, 8, GOLD, cache=cache, stage="few_shot_baseline")


def test_a_few_failed_rows_are_wrong_and_many_stop_with_what_came_kept(tmp_path: Path) -> None:
    no = (500, {}, b"no")
    with openai_server(lambda body, _: no if "customer 3 " in body["messages"][-1]["content"] else "billing") as server:
        rows, facts = ask_all(server.url)
    failed = [r for r in rows if r["status"] == "error"]
    assert len(failed) == 2 and failed[0]["text"] == "" and "refused: 500" in failed[0]["error"]
    assert facts.prompts["api_zero_shot"].statuses["error"] == 1

    cache = AnswerCache(tmp_path / "answers.sqlite", 10)
    half = openai_server(lambda body, _: no if len(body["messages"]) > 2 else "billing")
    with half as server, pytest.raises(FindingsError, match="20 of 40 rows failed"):
        ask_all(server.url, cache)
    with openai_server(lambda body, seen: "billing") as server:
        assert ask_all(server.url, cache)[1].known == 0, "another address is another model"


def test_limits_hold_and_a_missing_key_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_server(lambda body, seen: "billing") as server:
        with pytest.raises(FindingsError, match="40 rows would be sent to large at 127.0.0.1, and 39 are allowed"):
            ask_all(server.url, max_requests=39)
        with pytest.raises(FindingsError, match="budget"):
            ask_all(server.url, max_tokens=100)
        monkeypatch.delenv("ADVISE_TEST_KEY", raising=False)
        with pytest.raises(FindingsError, match="ADVISE_TEST_KEY is not set"):
            ask_all(server.url, key_variable="ADVISE_TEST_KEY")
        assert server.requests == []
    for url in ("http://example.com/v1", "ftp://example.com", "example.com", "https://me:secret@example.com/v1"):
        with pytest.raises(ValueError):
            Endpoint(url, "small")
