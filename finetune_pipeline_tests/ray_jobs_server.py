"""Fake job server of a Ray cluster with injected faults, for schedules too numerous to run on a real cluster.

The client under test is Ray's own and validates the answers.
"""

from typing import Any

from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer

FAULTS = ("refuse", "fail after", "drop", "drop after")
"""An error or a lost connection, before or after the server has acted."""


class RayJobsServer(ServiceServer):
    """Holds jobs by submission id, in submission order. A job runs until `finish` ends it."""

    key = None

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}

    def finish(self, submission: str, status: str) -> None:
        self.jobs[submission]["status"] = status

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job["status"] == "RUNNING"]

    def answer(self, request: Request) -> Reply:
        """Answer as the dashboard of Ray 2.60 does."""
        path, job_id = request.path, request.path.removeprefix("/api/jobs/").removesuffix("/stop")
        if path == "/api/version":
            return Reply({"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"})
        if path.startswith("/api/packages/"):
            return Reply({})
        if path == "/api/jobs/" and request.method == "GET":
            return Reply(list(self.jobs.values()))
        if path == "/api/jobs/":
            job = request.json()
            job_id = job["submission_id"]
            if job_id in self.jobs:
                return Reply(f"Job with submission_id {job_id} already exists", 500)
            fields = {key: job[key] for key in ("submission_id", "entrypoint", "runtime_env", "metadata")}
            self.jobs[job_id] = {"type": "SUBMISSION", "status": "RUNNING", **fields}
            return Reply({"job_id": job_id, "submission_id": job_id})
        if job_id not in self.jobs:
            return Reply(f"Job {job_id} does not exist", 404)
        if path.endswith("/stop"):
            self.finish(job_id, "STOPPED")
            return Reply({"stopped": True})
        return Reply(self.jobs[job_id])
