"""The job server of a Ray cluster over real sockets, with faults on order: for schedules that a cluster is too slow for.

Only states and answers are made here; the client is Ray's own, and checks them by its own types.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["none", "error before", "error after", "lost before", "lost after"]
"""What happens to a request: an error or a lost connection, before or after the server has done what was asked."""


@dataclass
class RayJobsServer:
    """Jobs by submission id, in the order in which they came. A job runs until `finish` is called for it.

    fault: asked for every request, with its method and path.
    """

    fault: Callable[[str, str], Fault] = lambda method, path: "none"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> RayJobsServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with outer._lock:
                    outer.requests.append(f"{self.command} {self.path}")
                    fault = outer.fault(self.command, self.path)
                    status, answer = (
                        (500, "a fault before") if "before" in fault else outer.answer(self.command, self.path, body)
                    )
                if "lost" in fault:
                    self.close_connection = True
                    self.connection.close()
                    return
                text = b"a fault" if fault != "none" else json.dumps(answer).encode()
                self.send_response(500 if fault != "none" else status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = handle_any

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def finish(self, submission: str, status: str) -> None:
        self.jobs[submission]["status"] = status

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job["status"] == "RUNNING"]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """What the server does and answers, as Ray 2.60's dashboard does."""
        name = path.removeprefix("/api/jobs/").removesuffix("/stop")
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"}
        if path.startswith("/api/packages/"):
            return 200, {}
        if path == "/api/jobs/" and method == "GET":
            return 200, list(self.jobs.values())
        if path == "/api/jobs/":
            request = json.loads(body)
            if request["submission_id"] in self.jobs:
                return 500, f"Job with submission_id {request['submission_id']} already exists"
            kept = {key: request[key] for key in ("submission_id", "entrypoint", "runtime_env", "metadata")}
            self.jobs[request["submission_id"]] = {"type": "SUBMISSION", "status": "RUNNING", **kept}
            return 200, {"job_id": request["submission_id"], "submission_id": request["submission_id"]}
        if name not in self.jobs:
            return 404, f"Job {name} does not exist"
        if path.endswith("/stop"):
            self.finish(name, "STOPPED")
            return 200, {"stopped": True}
        return 200, self.jobs[name]
