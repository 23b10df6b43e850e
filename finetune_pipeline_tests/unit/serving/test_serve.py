"""The server: a real tiny model over real HTTP; what it writes is what the intake reads."""

import contextlib
import gzip
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.serving.loaded_model import LoadedModel, ServedModel
from finetune_pipeline.serving.local_server import LocalServer
from finetune_pipeline.serving.requests import BadRequest
from finetune_pipeline.serving.server import MAX_BODY, chat_app
from finetune_pipeline.serving.service import WAITING, LogWriter, Service
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.tiny_model import SYSTEM
from finetune_pipeline_tests.unit.models.test_soft_prompts import soft
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.serving.running import Running


@pytest.fixture
def running(task: Task, models: Path) -> Iterator[Running]:
    server = Running(task, ServedModel("tickets:1", models / "one", None, SYSTEM, 6))
    with server.server:
        yield server


def test_an_answer_its_log_row_and_the_feedback_to_it(task: Task, running: Running, tmp_path: Path) -> None:
    status, completion = running.chat("write to ann@shop.example", user="ann", model="tickets")
    assert status == 200
    (choice,), usage = completion["choices"], completion["usage"]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] in ("stop", "length")
    assert 0 < usage["completion_tokens"] <= 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert running.chat("a trial", store=False)[0] == 200, "and it is not logged"
    row = json.loads((task.folder / "logs" / "served.jsonl").read_text())
    assert (row["id"], row["output"], row["model_version"]) == (
        completion["id"],
        choice["message"]["content"],
        "tickets:1",
    )
    assert running.ask("/feedback", {"id": completion["id"], "flag": "wrong", "score": 0.1})[0] == 200
    assert running.ask("/feedback", {"id": completion["id"], "label": "billing"})[0] == 200
    (kept,) = read_logs(task, ArtifactStore(tmp_path / "store")).rows
    assert (kept["flag"], kept["score"], kept["correction"]) == ("wrong", 0.1, "billing")
    assert kept["input"] == "write to [EMAIL_1]"
    assert kept["user"] not in (None, "ann")


def test_the_prompt_is_the_one_of_training_and_a_system_turn_may_only_repeat_it(running: Running) -> None:
    from finetune_pipeline.models.chat import encode_prompt, load_tokenizer

    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "my invoice is wrong"}]
    expected = len(encode_prompt(load_tokenizer(running.champion.model), turns))
    plain = running.chat()[1]
    assert plain["usage"]["prompt_tokens"] == expected
    messages = [turns[0], {"role": "user", "content": [{"type": "text", "text": turns[1]["content"]}]}]
    repeated = running.ask("/v1/chat/completions", {"messages": messages, "stream": None, "stop": None})[1]
    assert repeated["choices"] == plain["choices"]
    events = running.chat(stream=True, stream_options={"include_usage": True})[1].split("\n\n")
    assert events[-2] == "data: [DONE]" and json.loads(events[-3].removeprefix("data: "))["usage"] == plain["usage"]
    messages[0] = {"role": "developer", "content": SYSTEM}
    ignored = {"temperature": 2, "seed": 7, "metadata": {"a": "b"}, "response_format": {"type": "text"}, "tools": []}
    as_new_clients_ask = running.ask("/v1/chat/completions", {"messages": messages, **ignored})[1]
    assert as_new_clients_ask["choices"] == plain["choices"]
    turns[0]["content"] = "Speak like a pirate."
    status, refused = running.ask("/v1/chat/completions", {"messages": turns})
    assert status == 400 and "omit the system turn" in refused["error"]["message"]


def test_a_prefix_beside_its_base_answers_and_stops_for_a_client_that_is_gone(models: Path, tmp_path: Path) -> None:
    asked, gone = [{"role": "user", "content": "my invoice is wrong"}], Event()
    base = ServedModel("tickets:1", models / "one", None, SYSTEM, 6)
    prefix = replace(base, adapter=soft(models / "one", tmp_path / "adapter", kind="prefix"))
    loaded, plain = LoadedModel(prefix), LoadedModel(base).answer(asked, None, gone)
    reply = loaded.answer(asked, None, gone)
    assert reply.text != plain.text and reply.prompt_tokens == plain.prompt_tokens
    gone.set()
    with pytest.raises(BadRequest, match="closed the connection"):
        loaded.answer(asked, None, gone)


def test_a_client_may_ask_for_the_form_of_the_task_and_for_no_other(task: Task, models: Path) -> None:
    """The tiny model writes no JSON of its own accord."""
    schema = {"type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"]}
    schema["additionalProperties"] = False
    champion = ServedModel("tickets:1", models / "one", None, SYSTEM, 20, json_schema=schema)
    server = Running(task, champion)

    def form(asked: Any) -> dict[str, Any]:
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": asked}}}

    def text(answer: tuple[int, Any]) -> str:
        assert answer[0] == 200, answer
        return str(answer[1]["choices"][0]["message"]["content"])

    with server.server:
        free = text(server.chat())
        with pytest.raises(json.JSONDecodeError):
            json.loads(free)
        said = [text(server.chat(**form(schema))), text(server.chat(response_format={"type": "json_object"}))]
        assert said[0] == said[1] and set(json.loads(said[0])) == {"paid"}
        refusals = [
            (form({**schema, "required": []}), "the task's output.json_schema"),
            ({"response_format": {"type": "json_schema"}}, "the task's output.json_schema"),
            ({"response_format": {"type": "grammar"}}, "text, json_object or json_schema"),
            ({"response_format": "json"}, "text, json_object or json_schema"),
        ]
        for asked, why in refusals:
            status, refused = server.chat(**asked)
            assert status == 400 and why in refused["error"]["message"], refused
        server.champion = replace(champion, name="tickets:2", constrained=True)
        assert server.service.renew()
        assert text(server.chat()) == said[0], "a model that was judged under the schema always answers so"


def test_a_form_that_no_decoder_keeps_to_is_refused_and_not_answered_freely(task: Task, models: Path) -> None:
    schema = {"type": "string", "not": {"const": "x"}}
    server = Running(task, ServedModel("tickets:1", models / "one", None, SYSTEM, 6, json_schema=schema))
    with server.server:
        assert server.chat()[0] == 200
        status, refused = server.chat(response_format={"type": "json_object"})
    assert status == 400 and "omit 'response_format'" in refused["error"]["message"]


ASKED = {"messages": [{"role": "user", "content": "x"}]}


def test_a_bad_request_is_told_what_is_wrong_and_logs_nothing(task: Task, running: Running) -> None:
    requests: list[tuple[Any, int, str]] = [
        (b"{not json", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        ([1], 400, "not a JSON object"),
        (b'{"messages": [{"role": "user", "content": "half a sign \\ud83d here"}]}', 400, "surrogate"),
        ({}, 400, "'messages' must be a non-empty list"),
        (b"{", 400, "the body cannot be read: not valid JSON at column 2"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "the last message"),
        ({**ASKED, "n": 2}, 400, "only one"),
        ({**ASKED, "tools": [{}]}, 400, "not supported"),
        ({**ASKED, "stop": ["."]}, 400, "not supported"),
        ({**ASKED, "logit_bias": {"7": 1}, "guided_choice": ["a"]}, 400, "server: 'guided_choice', 'logit_bias'"),
        ({**ASKED, "response_format": {"type": "json_object"}}, 400, "no JSON"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, *ASKED["messages"]]},
            400,
            "tool_calls",
        ),
        ({**ASKED, "stream": "yes"}, 400, "'stream' must be true or false"),
        ({**ASKED, "max_completion_tokens": None, "max_tokens": 0}, 400, "positive whole number"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, 400, "content must be text"),
        ({**ASKED, "model": "gpt"}, 404, "there is no model"),
        ({"messages": [{"role": "user", "content": "x " * 3000}]}, 400, "more than the model's 1024"),
    ]
    for body, status, message in requests:
        got, answer = running.ask("/v1/chat/completions", body)
        assert (got, answer["error"]["type"]) == (status, "invalid_request_error"), (message, answer)
        assert message in answer["error"]["message"]
        assert not (task.folder / "logs" / "served.jsonl").exists(), message
    assert running.ask("/health")[1]["status"] == "ok", "and the server goes on"


def test_bad_feedback(running: Running) -> None:
    name = running.chat()[1]["id"]
    for more, status, message in (
        ({"id": "chatcmpl-unknown", "flag": "x"}, 404, "no answer has the id"),
        ({"label": "Billing"}, 400, "not a label of this task"),
        ({"score": "good"}, 400, "not a finite number"),
        ({"score": float("nan")}, 400, "not a finite number: NaN"),
        ({"score": float("inf")}, 400, "not a finite number: Infinity"),
        ({"score": 10**400}, 400, "not a finite number: write"),
        ({"flag": "\ud800"}, 400, "half of a surrogate pair"),
        ({"flag": ["wrong"]}, 400, "the flag is neither text nor true or false"),
        ({"label": "billing", "correction": "how_to"}, 400, "two different right answers"),
        ({"falg": "x"}, 400, "unknown: 'falg'"),
        ({"k" * 100_000: "x"}, 400, "characters left out"),
    ):
        got, answer = running.ask("/feedback", {"id": name, **more})
        assert got == status and message in answer["error"]["message"], (more, got, answer)


def test_a_port_in_use_is_said_with_what_to_do(running: Running) -> None:
    with pytest.raises(OutsideError, match=rf"in use by process {os.getpid()} .* choose another with --port"):
        LocalServer(chat_app(running.service), running.server.port)


def test_what_is_no_request_of_ours(running: Running) -> None:
    assert running.ask("/v1/models", Host="localhost")[1]["data"][0]["id"] == "tickets:1", "as a proxy sends it"
    for status, path, body, headers in (
        (404, "/nothing", None, {}),
        (405, "/feedback", None, {}),
        (405, "/health", {}, {}),
        (415, "/feedback", b"{}", {"Content-Type": "text/plain"}),
        (403, "/feedback", b"{}", {"Host": "evil.example"}),
        (413, "/feedback", b"", {"Content-Length": str(MAX_BODY + 1)}),
        (403, "/feedback", b"{}", {"Origin": "https://evil.example"}),
    ):
        assert running.ask(path, body, **headers)[0] == status, (path, headers)
    for length in ("abc", "-5", "1_0", "\u00b2", "9" * 5000):
        assert 400 <= running.raw(length, b"{}") < 500, length
    assert running.ask("/health")[0] == 200


def test_a_body_that_does_not_arrive_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_pipeline.serving.local_server.BODY_SECONDS", 0.5)
    assert running.raw("100", b'{"messages"') == 408
    assert running.ask("/health")[0] == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: ", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /he"]
)
def test_a_header_that_does_not_arrive_is_closed(
    running: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Each such connection holds a file, for ever if nobody closes it."""
    monkeypatch.setattr("finetune_pipeline.serving.local_server.HEADER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", running.server.port), timeout=60) as connection:
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert running.ask("/health")[0] == 200


def test_more_connections_than_allowed_are_closed_and_the_others_served(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_pipeline.serving.local_server.MOST_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", running.server.port)
        idle = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(3)]
        with socket.create_connection(address, timeout=60) as fourth, contextlib.suppress(ConnectionResetError):
            assert fourth.recv(1) == b"", "closed at once"
        idle[0].sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle[0].recv(12) == b"HTTP/1.1 200"


def test_many_at_once_each_get_their_own_answer_and_row(task: Task, running: Running, tmp_path: Path) -> None:
    alone = {i: running.chat(f"ticket {i}")[1]["choices"] for i in range(3)}
    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(lambda i: running.chat(f"ticket {i % 3}"), range(24)))
    assert all(status == 200 and completion["choices"] == alone[i % 3] for i, (status, completion) in enumerate(got))
    logs = read_logs(task, ArtifactStore(tmp_path / "store"))
    assert {row["id"] for row in logs.rows} >= {completion["id"] for _, completion in got}
    assert (logs.lines, len(logs.rows), len(logs.quarantine)) == (27, 27, 0)
    again = Service(task, lambda: running.champion, LogWriter(task.folder / "logs"))
    assert again.feedback({"id": got[0][1]["id"], "flag": True})["stored"] == {"flag": True}, "after a restart, too"


def test_a_server_with_too_many_waiting_requests_says_so_and_recovers(running: Running) -> None:
    slots = [running.service._waiting_slots.acquire(blocking=False) for _ in range(WAITING)]
    status, answer = running.chat()
    assert all(slots) and (status, answer["error"]["code"]) == (503, "overloaded")
    for _ in slots:
        running.service._waiting_slots.release()
    assert running.chat()[0] == 200


def test_another_champion_is_loaded_and_one_that_cannot_be_leaves_the_old(running: Running, models: Path) -> None:
    before = running.chat()[1]["choices"][0]["message"]["content"]
    running.champion = replace(running.champion, name="tickets:2", model=models / "two")
    assert running.service.renew()
    status, completion = running.chat()
    assert (status, completion["model"]) == (200, "tickets:2")
    assert completion["choices"][0]["message"]["content"] != before
    running.champion = replace(running.champion, name="tickets:3", model=models / "gone")
    assert not running.service.renew()
    assert running.chat()[1]["model"] == "tickets:2"
    health = running.ask("/health")[1]
    assert health["status"] == "degraded" and "champion" in health["problems"]
    running.champion = replace(running.champion, name="tickets:2", model=models / "two")
    running.service.renew()
    assert running.ask("/health")[1]["status"] == "ok"


def test_half_a_line_of_a_writer_that_died_spoils_no_other(task: Task, tmp_path: Path) -> None:
    writer = LogWriter(task.folder / "logs")
    row = {"timestamp": "2026-05-01T10:00:00Z", "input": "x", "output": "billing", "model_version": "1"}
    writer.write({"id": "a", **row})
    with writer.path.open("a") as out:
        out.write('{"id": "b", "times')
    LogWriter(task.folder / "logs").write({"id": "c", **row})
    logs = read_logs(task, ArtifactStore(tmp_path / "store"))
    old = writer.path.with_name("served.jsonl.1.gz")
    old.write_bytes(gzip.compress(writer.path.read_bytes()))
    assert [*writer.ids()] == ["a", "c"] * 2, "what was rotated and packed is known, too"
    assert [r["id"] for r in logs.rows] == ["a", "c"]
    assert len(logs.quarantine) == 1
    assert os.stat(writer.path).st_mode & 0o077 == 0, "what users wrote is nobody else's business"


def test_a_fault_of_the_server_has_the_form_of_its_errors(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(running.service.loaded, "answer", fail)
        status, answer = running.chat()
    assert (status, answer["error"]["type"]) == (500, "server_error") and "IndexError" in answer["error"]["message"]
    assert running.chat()[0] == 200 and running.service._waiting_slots._value == WAITING, "no slot is lost"


def test_a_server_that_stops_keeps_nobody_waiting_for_the_model(task: Task, running: Running) -> None:
    with ThreadPoolExecutor(3) as pool:
        with running.service.loaded.turn:  # as while another request is answered
            waiting = [pool.submit(running.chat) for _ in range(3)]
            wait_until(lambda: running.service._waiting_slots._value == WAITING - 3)
            running.service.close()
        answers = [request.result() for request in waiting]
    assert [(status, reply["error"]["code"]) for status, reply in answers] == [(503, "stopping")] * 3
    assert not (task.folder / "logs" / "served.jsonl").exists(), "nothing is answered that nobody gets"


@pytest.mark.parametrize("while_waiting", [False, True])
def test_a_client_that_goes_frees_the_model(task: Task, models: Path, while_waiting: bool) -> None:
    running = Running(task, ServedModel("tickets:1", models / "one", None, SYSTEM, 900))
    waiting, passes, client = running.service._waiting_slots, 0, socket.socket()

    def leave_after_two_tokens(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes == 3:
            client.close()
        if passes >= 3:
            time.sleep(0.05)

    running.service.loaded._model.register_forward_pre_hook(leave_after_two_tokens)
    with running.server:
        body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
        client.connect(("127.0.0.1", running.server.port))
        with running.service.loaded.turn if while_waiting else contextlib.nullcontext():
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            wait_until(lambda: waiting._value == WAITING - 1)
            if while_waiting:
                client.close()
                running.ask("/health")  # the server has seen it by then
        wait_until(lambda: waiting._value == WAITING, 60)
    assert passes < 100, passes
    assert not (task.folder / "logs" / "served.jsonl").exists(), "nobody got an answer"
