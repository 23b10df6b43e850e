"""Runs Dagster's web server behind our own guard: ``python -m finetune_pipeline.orchestration.web_server dev …``.

Dagster accepts any Host, and mutations from any Origin, so a web page open in a browser on this machine could start runs
and read everything, or show it in a frame. Here `dagster dev` starts its web server through this module, which adds the guard.
"""

import sys
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from finetune_pipeline.orchestration.dagster_internals import dev_with
from finetune_pipeline.serving.local_server import CLOSE, host_guard

PAGES = (
    "/|/(assets|asset-groups|automation|backfills|deployment|guess|health|jobs|locations|overview|runs|snapshots)"
    r"(/(?!\.\.?(/|$))[^/]+)*/?"
)
"""Paths of Dagster's pages. Those of queries, logs and reports are other ones."""


def refuse(status: int, message: str) -> Response:
    """Return the guard's response, in plain text."""
    return PlainTextResponse(message, status, headers=CLOSE)


def main() -> None:
    """Run `dagster dev` for `dev`; otherwise run `dagster-webserver` with the guard."""
    if sys.argv[1:2] == ["dev"]:
        dev_with("finetune_pipeline.orchestration.web_server")
        return
    from dagster_webserver import cli
    from dagster_webserver.webserver import DagsterWebserver

    inner = DagsterWebserver.build_middleware

    def build_middleware(self: Any) -> list[Middleware]:
        return [host_guard(refuse, PAGES), *inner(self)]

    DagsterWebserver.build_middleware = build_middleware  # type: ignore[method-assign]
    cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
