"""A real server on this machine: what it stores, and whom it turns away."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.sealed import user_name
from finetune_pipeline.review.server import MAX_BODY, review_app
from finetune_pipeline.serving.local_server import LocalServer


def judge(row: Any) -> tuple[dict[str, Any] | None, list[str]]:
    return (row, []) if isinstance(row, dict) and row.get("good") else (None, ["it is not good"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[LocalServer, Path]]:
    file = tmp_path / "deep" / "out.jsonl"
    with LocalServer(review_app("<p>page</p>", judge, file)) as local_server:
        yield local_server, file


def ask(server: LocalServer, path: str = "/", body: bytes | None = None, **headers: str) -> tuple[int, str]:
    sent = {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_rating_is_stored_as_one_line(server: tuple) -> None:
    local_server, file = server
    assert ask(local_server) == (200, "<p>page</p>")
    for n in range(3):
        body = json.dumps({"good": True, "text": f"ä\n{n}"}).encode()
        assert ask(local_server, "/ratings", body) == (200, "stored")
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == ["ä\n0", "ä\n1", "ä\n2"]


def test_what_is_wrong_is_told_and_not_stored(server: tuple) -> None:
    local_server, file = server
    assert ask(local_server, "/ratings", b"{}") == (400, "it is not good")
    status, answer = ask(local_server, "/ratings", b"\xff{")
    assert status == 400 and "not valid JSON" in answer
    assert ask(local_server, "/ratings", b"x" * (MAX_BODY + 1))[0] == 413
    assert ask(local_server, "/elsewhere", b'{"good": 1}')[0] == 404
    assert ask(local_server, "/elsewhere")[0] == 404
    assert not file.exists()


def test_others_are_turned_away(server: tuple) -> None:
    local_server, file = server
    body = b'{"good": true}'
    assert ask(local_server, "/ratings", body, Origin="https://evil.example")[0] == 403
    assert ask(local_server, "/ratings", body, Origin="null")[0] == 403
    assert ask(local_server, "/ratings", body, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(local_server, "/ratings", body, Host="evil.example")[0] == 403
    assert ask(local_server, "/", None, Host="evil.example")[0] == 403 and not file.exists()


def test_a_decision_that_cannot_be_stored_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder")
    with LocalServer(review_app("", judge, tmp_path / "out" / "row.jsonl")) as local_server:
        status, answer = ask(local_server, "/ratings", b'{"good": true}')
    assert status == 500 and answer.startswith("this decision is not stored: ") and "row.jsonl" in answer


def test_a_user_without_a_name_can_review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_001)  # as in a container that was given a number
    assert user_name() == "unknown"
