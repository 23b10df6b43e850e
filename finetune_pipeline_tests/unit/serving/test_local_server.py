"""Whom the guard of all servers lets in: a browser's requests from its own pages, from other sites' pages, and by a link."""

from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from finetune_pipeline.orchestration.web_server import PAGES, refuse
from finetune_pipeline.serving.local_server import LocalServer, host_guard

LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.fixture
def server() -> Iterator[LocalServer]:
    async def show(_: Request) -> Response:
        return PlainTextResponse("page", headers={"Content-Security-Policy": "script-src 'none'"})

    routes = [Route("/{path:path}", show, methods=["GET", "POST"])]
    with LocalServer(Starlette(routes=routes, middleware=[host_guard(refuse, PAGES)])) as local_server:
        yield local_server


def ask(server: LocalServer, path: str, method: str = "GET", **headers: str) -> HTTPResponse:
    """Send a request whose path nothing has tidied up."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def test_a_foreign_link_opens_pages_and_nothing_else(server: LocalServer) -> None:
    for path in (
        "/",
        "/runs",
        "/runs/0a1b",
        "/assets/tickets/adapter",
        "/locations/finetune_pipeline/jobs/tickets__all/",
    ):
        assert ask(server, path, **LINK).status == 200, path
    for path in (
        "/graphql?query=x",
        "//graphql?query=x",
        "/GRAPHQL?query=x",
        "/%67raphql?query=x",
        "/./graphql",
        "/runs//graphql",
        "/runs/../graphql",
        "/runs%2f..%2fgraphql",
        "//runs",
        "/logs/run/step/out",
        "/download_debug/run",
        "/report_asset_materialization/tickets/adapter",
    ):
        assert ask(server, path, **LINK).status == 403, path
        assert ask(server, path).status == 200, "typed into the address bar, or a program's"


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "object"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Origin": "https://evil.example"},
        {"Host": "rebound.example"},
    ],
    ids=str,
)
def test_what_is_not_a_link_is_refused(server: LocalServer, changed: dict[str, str]) -> None:
    assert ask(server, "/runs", **{**LINK, **changed}).status == 403
    assert ask(server, "/runs", "POST", **LINK).status == 403


def test_nothing_can_be_shown_in_a_foreign_frame(server: LocalServer) -> None:
    no_headers: dict[str, str] = {}
    for headers in (no_headers, {"Host": "rebound.example"}):
        answer = ask(server, "/runs", **headers)
        assert answer.getheader("X-Frame-Options") == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in answer.getheader("Content-Security-Policy", "").split(", ")
    policies = ask(server, "/runs").getheader("Content-Security-Policy", "").split(", ")
    assert "script-src 'none'" in policies, "the application's own policy holds, too"
