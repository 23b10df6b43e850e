"""Fake server of Together's fine-tuning API and dedicated endpoints. Requests and answers are validated with the SDK's
types."""

import io
import json
import re
import tarfile
import time
from typing import Any

from pydantic import ValidationError
from together.lib.types.fine_tuning import FinetuneRequest
from together.types import Endpoint, EndpointDeployment, FinetuneResponse
from together.types.fine_tuning_model_limits_response import FineTuningModelLimitsResponse

from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer, refusal

STATES = ("pending", "queued", "running", "compressing", "uploading", "completed")
ENDED = ("completed", "error", "cancelled", "user_error")
DOLLARS_A_TOKEN = 0.48e-6
LIMITS: dict[str, Any] = {
    "default_gradient_accumulation_steps": 1,
    "lora_training": {
        "default_rank": 8, "max_batch_size": 64, "max_batch_size_dpo": 32, "max_rank": 64, "min_batch_size": 8,
        "target_modules": ["q_proj", "v_proj"],
    },
    "full_training": {"max_batch_size": 16, "max_batch_size_dpo": 8, "min_batch_size": 8},
    "max_learning_rate": 1e-3, "max_num_checkpoints": 10, "max_num_epochs": 20, "max_num_evals": 100,
    "max_seq_length_dpo": 8192, "max_seq_length_sft": 16384, "merge_output_lora": True, "min_learning_rate": 1e-8,
    "min_max_seq_length": 1024, "supports_full_training": True, "supports_reasoning": True, "supports_tools": True,
    "supports_vision": False,
}  # fmt: skip


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class TogetherServer(ServiceServer):
    """A job or deployment advances by one state each time it is retrieved.

    Attributes:
        models: Names of the models that can be fine-tuned.
        states: The states of a job, in order.
        archive: Tar archive that the adapter download returns.
        estimates: Whether price estimates are available.
        losses: (training loss, validation loss) per step.
        served: Names of the endpoints that got a deployment.
    """

    def __init__(self, adapter: dict[str, bytes] | None = None) -> None:
        super().__init__()
        self.models, self.states, self.estimates = {"org/tiny"}, STATES, True
        self.archive = adapter_archive(adapter or {})
        self.losses = [(2.0, 1.9), (1.2, 1.1)]
        self.files: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.served: list[str] = []

    def answer(self, request: Request) -> Reply:
        path, method = request.path, request.method
        if path.startswith("/put/"):
            self.files[path[5:]]["data"] = request.body
            return Reply({})
        if (method, path) == ("POST", "/v1/files"):
            return self._upload_file(request)
        if match := re.fullmatch(r"/v1/files/([^/]+)(/preprocess)?", path):
            return self._file(match[1])
        if path == "/v1/fine-tunes/models/limits":
            name = request.query["model_name"][0]
            if name not in self.models:
                return refusal(404, f"{name} cannot be fine-tuned")
            limits = {**LIMITS, "model_name": name}
            FineTuningModelLimitsResponse.model_validate(limits)
            return Reply(limits)
        if path == "/v1/fine-tunes/estimate-price":
            return self._estimate(request.json())
        if path == "/v1/fine-tunes":
            if method == "POST":
                return self._create(request)
            return Reply({"data": [self._job(job) for job in self.jobs.values()]})
        if match := re.fullmatch(r"/v1/fine-tunes/(ft-[^/]+)(/\w+)?", path):
            return self._job_route(self.jobs.get(match[1]), match[2])
        if path == "/v1/finetune/download":
            return Reply(self.archive)
        if match := re.fullmatch(r"/v2/projects/(\w+)/endpoints(?:/([^/]+))?(/deployments)?(?:/([^/]+))?", path):
            return self._endpoint_route(request, match[1], match[2], bool(match[3]), match[4])
        return refusal(404, f"no route {method} {path}")

    def _upload_file(self, request: Request) -> Reply:
        form = dict(re.findall(r'name="([^"]+)"\r\n\r\n(.*?)\r\n', request.body.decode(), re.S))
        for file_id, file in self.files.items():
            if file["checksum"] == form.get("checksum") and file["data"]:
                return Reply({"file_id": file_id}, 409)
        file_id = f"file-{len(self.files) + 1:08d}-0000-4000-8000-000000000000"
        self.files[file_id] = {"name": form["file_name"], "checksum": form.get("checksum"), "data": b""}
        return Reply({}, 302, {"Location": f"{self.address}/put/{file_id}", "X-Together-File-Id": file_id})

    def _file(self, file_id: str) -> Reply:
        if file_id not in self.files:
            return refusal(404, "file not found")
        file, report = self.files[file_id], self._validation_report(file_id)
        content = dict(
            id=file_id, object="file", bytes=len(file["data"]), created_at=1, filename=file["name"], FileType="jsonl",
            purpose="fine-tune", processing_status="COMPLETED" if report["valid"] else "INVALID_FORMAT",
            validation_report=report,
        )  # fmt: skip
        return Reply(content)

    def _validation_report(self, file_id: str) -> dict[str, Any]:
        for number, line in enumerate(self.files[file_id]["data"].splitlines(), 1):
            roles = [m["role"] for m in json.loads(line)["messages"]]
            turns = roles[1:] if roles[0] == "system" else roles
            if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
                return {"valid": False, "error_type": "INVALID_FORMAT", "error": f"line {number}: roles must alternate"}
        return {"valid": True, "dataset_format": "CONVERSATION"}

    def _tokens(self, body: dict[str, Any]) -> int:
        return len(self.files[body["training_file"]]["data"]) // 4 * int(body["n_epochs"])

    def _estimate(self, body: dict[str, Any]) -> Reply:
        if body["training_file"] not in self.files:
            return refusal(404, "file not found")
        if not self.estimates:
            return Reply({"estimation_available": False, "unavailable_reason": "train_file_not_validated"})
        tokens = self._tokens(body)
        content = dict(
            estimation_available=True, allowed_to_proceed=True, estimated_total_price=tokens * DOLLARS_A_TOKEN,
            estimated_train_token_count=tokens, estimated_eval_token_count=0, user_limit=100,
        )  # fmt: skip
        return Reply(content)

    def _create(self, request: Request) -> Reply:
        try:
            FinetuneRequest.model_validate_json(request.body)
        except ValidationError as error:
            return refusal(422, str(error))
        body = request.json()
        if not self._validation_report(body["training_file"])["valid"]:
            return refusal(400, "the training file is invalid")
        job_id = f"ft-{len(self.jobs) + 1:012d}"
        copied = ("training_file", "validation_file", "n_epochs", "n_evals", "n_checkpoints", "batch_size", "learning_rate",
                  "training_type", "training_method", "suffix", "model")  # fmt: skip
        self.jobs[job_id] = {
            "id": job_id, "user_id": "u1", "status": self.states[0], "created_at": now(), "updated_at": now(),
            "model_output_name": f"acme/tiny-{body['suffix']}-{job_id[-6:]}", "adapter_output_name": None,
            "events": [self._event("job_pending", "Job pending")], "_polls": 0, "_tokens": self._tokens(body),
            **{key: body.get(key) for key in copied},
        }  # fmt: skip
        return Reply(self._job(self.jobs[job_id]))

    def _event(self, kind: str, message: str) -> dict[str, Any]:
        return {"object": "fine-tune-event", "created_at": now(), "level": "info", "type": kind, "message": message}

    def _job(self, job: dict[str, Any]) -> dict[str, Any]:
        content = {key: value for key, value in job.items() if not key.startswith("_") and value is not None}
        if content["status"] in (*STATES, *ENDED[:-1], "cancel_requested"):
            FinetuneResponse.model_validate(content)
        return {"adapter_output_name": None, **content}

    def _job_route(self, job: dict[str, Any] | None, route: str | None) -> Reply:
        if job is None:
            return refusal(404, "no such job")
        if route == "/events":
            return Reply({"data": job["events"]})
        completed = job["status"] == "completed"
        if route == "/metrics":
            rows = [
                {"train/global_step": float(step), "train/loss": loss, "eval/loss": validation}
                for step, (loss, validation) in enumerate(self.losses, 1)
            ]
            return Reply({"metrics": rows if completed else rows[:1]})
        if route == "/checkpoints":
            content = {"checkpoint_type": "Final adapter", "checkpoint": "adapter", "step": 2, "path": "s3://x"}
            return Reply({"data": [{**content, "created_at": now()}] if completed else []})
        if route == "/cancel":
            if job["status"] in ENDED:
                return refusal(400, "it has ended")
            job |= {"status": "cancelled", "token_count": 100, "total_price": 1_500_000_000}
            return Reply(self._job(job))
        if job["status"] not in ENDED:
            job["_polls"] += 1
            job["status"] = self.states[min(job["_polls"], len(self.states) - 1)]
            if job["status"] == "completed":
                price = int(job["_tokens"] * DOLLARS_A_TOKEN * 1e9)
                job |= {"token_count": job["_tokens"], "total_price": price, "adapter_object_id": "ml_1"}
            if job["status"] == "error":
                job["events"].append(self._event("job_error", "the GPUs fell off the bus"))
        return Reply(self._job(job))

    def _endpoint_route(
        self, request: Request, project: str, endpoint_id: str | None, deployments: bool, deployment_id: str | None
    ) -> Reply:
        method, body = request.method, request.json() if request.body else {}
        if endpoint_id is None:
            if method == "GET":
                return Reply({"data": [self._endpoint(e) for e in self.endpoints.values()], "has_more": False})
            endpoint_id = f"ep_{len(self.endpoints) + 1}"
            endpoint = {"id": endpoint_id, "name": f"acme/{body['name']}", "deployments": {}, "split": []}
            self.endpoints[endpoint_id] = endpoint
            return Reply(self._endpoint(endpoint))
        if endpoint_id not in self.endpoints:
            return refusal(404, "no such endpoint")
        endpoint = self.endpoints[endpoint_id]
        if deployments and deployment_id is None:
            assert body["inactiveTimeout"] >= 30 and body["model"] == f"projects/{project}/models/ml_1"
            endpoint["deployments"]["dp_1"] = {"polls": 0, "replicas": body["autoscaling"]["minReplicas"]}
            self.served.append(endpoint["name"])
            return Reply(self._deployment(endpoint, "dp_1"))
        if deployment_id is not None:
            if method == "DELETE":
                del endpoint["deployments"][deployment_id]
                return Reply({})
            if method == "PATCH":
                endpoint["deployments"][deployment_id]["replicas"] = body["autoscaling"]["minReplicas"]
            else:
                endpoint["deployments"][deployment_id]["polls"] += 1
            return Reply(self._deployment(endpoint, deployment_id))
        if method == "DELETE":
            if endpoint["deployments"]:
                return refusal(409, "it has deployments")
            del self.endpoints[endpoint_id]
            return Reply({})
        endpoint["split"] = body.get("trafficSplit", [])
        return Reply(self._endpoint(endpoint))

    def _endpoint(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        deployments = [
            dict(id=deployment_id, autoscaling={}, createdAt=now(), estimatedEffectiveTrafficShare=0.0, model="m", modelId="m",
                 name=f"{endpoint['name']}/main", state="DEPLOYMENT_STATE_READY", trafficMode="TRAFFIC_MODE_LIVE")
            for deployment_id in endpoint["deployments"]
        ]  # fmt: skip
        content = dict(
            id=endpoint["id"], createdAt=now(), deployments=deployments, endpointType="ENDPOINT_TYPE_DEDICATED", etag="1",
            name=endpoint["name"], projectId="p1", trafficSplit=endpoint["split"], updatedAt=now(),
            visibility="VISIBILITY_PRIVATE",
        )  # fmt: skip
        Endpoint.model_validate(content)
        return content

    def _deployment(self, endpoint: dict[str, Any], deployment_id: str) -> dict[str, Any]:
        ready = endpoint["deployments"][deployment_id]["polls"] >= 2
        content = dict(
            id=deployment_id, autoscaling={}, config="c", configId="c", createdAt=now(), endpointId=endpoint["id"], etag="1",
            hardware="1xH100", model="m", modelId="m", modelRevisionId="r", name=f"{endpoint['name']}/main", projectId="p1",
            status={"message": "", "state": f"DEPLOYMENT_STATE_{'READY' if ready else 'PROVISIONING'}"},
            trafficMode="TRAFFIC_MODE_LIVE", updatedAt=now(),
        )  # fmt: skip
        EndpointDeployment.model_validate(content)
        return content


def adapter_archive(files: dict[str, bytes]) -> bytes:
    """The tar archive that the adapter download returns, with one file whose path escapes the target folder."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in {**files, "../../escaped.txt": b"x"}.items():
            entry = tarfile.TarInfo(name if name.startswith("..") else f"checkpoint/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()
