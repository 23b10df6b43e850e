"""Together's fine-tuning service, through its SDK."""

import math
import os
import re
import shutil
import tarfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.chat_file import FileRules
from finetune_pipeline.trainers.hosted import HostedTrainer
from finetune_pipeline.trainers.hosted_settings import low_rank
from finetune_pipeline.trainers.service import Estimate, Files, Job, JobLog, JobState, Refused, Service, without_version
from finetune_pipeline.training.history import LoggedLoss

ADDRESS = "https://api.together.ai"
ENDPOINT_PREFIX = "finetune-"
_STATES: dict[str, JobState] = {
    "completed": "succeeded",
    "error": "failed",
    "user_error": "failed",
    "cancelled": "cancelled",
}
_NANO = 1e9
"""Prices of jobs are in nano-dollars."""
_FILE_SECONDS = 900.0
"""Longest time for the service to check a file."""
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


class TogetherService(Service):
    """Together, for one task. The SDK must not repeat requests: a repeated order is a second job."""

    def __init__(self, trainer: HostedTrainer, spec: TaskSpec) -> None:
        section = spec.training.together
        super().__init__(trainer, spec, "Together", ADDRESS)
        self.url = without_version(self.url)  # the SDK adds it
        import together

        options = {"project_id": section.project, "default_headers": {"Connection": "close"}}
        self.client: together.Together = self.open_client(together.Together, together.DefaultHttpxClient, **options)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        training, lora = self.training, low_rank(self.training)
        targets = lora.target_modules
        return {
            "n_epochs": self.epochs,
            "n_evals": training.evals_per_epoch * self.epochs,
            "n_checkpoints": 1,
            "batch_size": training.batch_size,
            "learning_rate": training.learning_rate,
            "lr_scheduler_type": training.scheduler,
            "warmup_ratio": training.warmup_share,
            "weight_decay": training.weight_decay,
            "lora": True,
            "lora_r": lora.r,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_trainable_modules": targets if isinstance(targets, str) else ",".join(targets),
            "train_on_inputs": False,
            "random_seed": training.seed,
        }

    @cached_property
    def limits(self) -> Any:
        """The service's limits for the model, requested once. Raises Refused if the service does not tune the model."""
        with self.request(f"say what it allows for {self.model!r}"):
            limits = self.client.fine_tuning.model_limits(model_name=self.model)
            if not isinstance(limits.max_seq_length_sft, int) or not isinstance(limits.lora_training.max_rank, int):
                raise TypeError("limits without numbers")
            return limits

    def findings(self) -> list[Finding]:
        try:
            limits = self.limits
        except Refused as refusal:
            if refusal.status not in (400, 404, 422):
                raise
            message = f"{self.place} does not fine-tune {self.model!r}"
            fix = "choose a model from its list of fine-tuning models, or set training.trainer: local"
            return [self.trainer.finding("not_tunable", "model", message, fix)]
        with self.request(f"say what it allows for {self.model!r}"):
            training, lora_limits, rate = self.training, limits.lora_training, self.training.learning_rate
            evals = training.evals_per_epoch * self.epochs
            bounds = [
                ("rank", "lora.r", low_rank(training).r, 1, lora_limits.max_rank),
                ("limit", "batch_size", training.batch_size, lora_limits.min_batch_size, lora_limits.max_batch_size),
                ("limit", "epochs", self.epochs, 1, limits.max_num_epochs),
                ("learning_rate", "learning_rate", rate, limits.min_learning_rate, limits.max_learning_rate),
                ("limit", "evals_per_epoch", evals, 0, limits.max_num_evals),
            ]
            exceeded = [bound for bound in bounds if not bound[3] <= bound[2] <= bound[4]]
        findings = []
        for rule, key, value, minimum, maximum in exceeded:
            message = f"{value:g} is outside what {self.place} allows for {self.model}: {minimum:g} to {maximum:g}"
            fix = f"write {maximum if value > maximum else minimum:g} or {'less' if value > maximum else 'more'}"
            findings.append(self.trainer.finding(rule, f"training.{key}", message, fix))
        return findings

    def file_rules(self) -> FileRules:
        try:
            limits = self.limits
        except Refused:  # findings() reports it
            return FileRules(self.label, 1, 50 << 30)
        return FileRules(self.label, 1, 50 << 30, most_tokens=limits.max_seq_length_sft, tools=limits.supports_tools)

    def upload(self, path: Path) -> str:
        with self.request(f"take the file {path.name}"):
            file = self.client.files.upload(path, purpose="fine-tune", check=True).id
        deadline = time.monotonic() + _FILE_SECONDS
        while True:
            with self.request(f"look through the file {path.name}"):
                state = self.client.files.retrieve(file)
                status, report = str(state.processing_status), state.validation_report
            if status == "COMPLETED":
                return str(file)
            if status in ("FAILED", "INVALID_FORMAT"):
                message = f"{self.place} refuses the file: {getattr(report, 'error', None) or status}"
                place, fix = f"the uploaded {path.name}", "correct or remove the reported row"
                raise FindingsError([Finding("hosted.file_refused", "error", place, message, fix)])
            if time.monotonic() > deadline:
                raise OutsideError(f"{self.place} is still checking the file {path.name}", "run again later")
            time.sleep(min(self.training.together.poll_seconds, 5.0))

    def estimate(self, files: Files) -> Estimate:
        values = self.hyperparameters
        low = {"type": "Lora", "lora_r": values["lora_r"], "lora_alpha": values["lora_alpha"]}
        with self.request("estimate the price"):
            answer: Any = self.client.fine_tuning.estimate_price(
                training_file=files.train,
                validation_file=files.validation,
                model=self.model,
                n_epochs=values["n_epochs"],
                n_evals=values["n_evals"],
                training_type=low,  # type: ignore[arg-type]
                training_method={"method": "sft", "train_on_inputs": False},
            )
            if answer.estimation_available is False:
                return Estimate(None, f"{self.place} gives no estimate: {answer.unavailable_reason}")
            dollars = answer.estimated_total_price
            if answer.allowed_to_proceed is False:
                limit = "" if answer.user_limit is None else f" of ${answer.user_limit:g}"
                estimated = "" if dollars is None else f", estimated at ${dollars:,.4g}"
                raise Refused(
                    f"{self.place} does not allow the job{estimated}: it is over the limit{limit} of the account",
                    "raise the limit there, or train on less",
                )
        if not isinstance(dollars, int | float) or not math.isfinite(dollars):
            return Estimate(None, f"{self.place} names no price")
        return Estimate(float(dollars), f"{self.place} estimates ${dollars:,.4g}")

    def buy(self, name: str, files: Files) -> Job:
        with self.request("train"):
            uploaded = {"training_file": files.train, "validation_file": files.validation}
            values = {**uploaded, **self.hyperparameters}
            return self._job(self.client.fine_tuning.create(model=self.model, suffix=name, **values))

    def jobs_named(self, name: str) -> list[Job]:
        with self.request("list its jobs"):
            pattern = re.compile(rf"{re.escape(name)}(?!\d)")
            listed = self.client.fine_tuning.list().data or []
            matching = [j for j in listed if j.suffix == name or pattern.search(j.x_model_output_name or "")]
            return [self._job(job) for job in sorted(matching, key=lambda job: str(job.created_at))]

    def job(self, job: str) -> Job:
        with self.request(f"tell the state of {job}"):
            return self._job(self.client.fine_tuning.retrieve(job))

    def cancel(self, job: str) -> None:
        with self.request(f"cancel {job}"):
            self.client.fine_tuning.cancel(job)

    def log(self, job: str) -> JobLog:
        with self.request(f"tell how far {job} is"):
            events = {
                f"{e.created_at} {e.type} {e.step} {e.message}": str(e.message)
                for e in self.client.fine_tuning.list_events(job).data or []
            }
            losses = []
            for metrics in self.client.fine_tuning.list_metrics(job).metrics or []:
                numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
                step = next((value for key, value in numbers.items() if key.endswith("step")), None)
                for name, kind in (("loss", "train"), ("eval_loss", "eval")):
                    value = next((v for k, v in numbers.items() if k.startswith(kind) and k.endswith("loss")), None)
                    if step is not None and value is not None:
                        losses.append(LoggedLoss(step=int(step), **{name: float(value)}))
            return JobLog(events, sorted(losses, key=lambda logged: logged.step))

    def download(self, job: str, folder: Path) -> int | None:
        archive = folder / "download"
        with self.request(f"give the adapter of {job}"):
            checkpoints = self.client.fine_tuning.list_checkpoints(job).data or []
            steps = [c.step for c in checkpoints if c.checkpoint in ("adapter", None)]
            answers = self.client.fine_tuning.with_streaming_response
            with answers.content(ft_id=job, checkpoint="adapter") as answer:
                answer.stream_to_file(archive)
        try:
            _unpack(archive, folder)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # a full disk, say
                raise
            raise JobError(
                f"the download from {self.place} for the adapter of {job} is not an archive: {error}",
                "run again: it is downloaded again, and nothing is bought",
            ) from None
        finally:
            archive.unlink(missing_ok=True)
        return max(steps, default=None)

    def endpoint(self, job: Job) -> tuple[str, str]:
        project = self.training.together.project or os.environ.get("TOGETHER_PROJECT_ID", "")
        return f"{self.url}/v1", f"{project}/{ENDPOINT_PREFIX}{job.id}"

    def _job(self, job: Any) -> Job:
        """Convert a job of the SDK. Raises AttributeError or TypeError for an invalid one."""
        if not isinstance(job.id, str) or not job.id:
            raise TypeError("a job without an id")
        word = str(getattr(job.status, "value", job.status))
        model = getattr(job, "x_model_output_name", None) or getattr(job, "output_name", None) or ""
        problems = [e.message for e in getattr(job, "events", None) or [] if "error" in str(getattr(e, "type", ""))]
        reason = str(problems[-1]) if problems else ""
        price, tokens = (getattr(job, name, None) for name in ("total_price", "token_count"))
        dollars = None if price is None else price / _NANO
        return Job(job.id, _STATES.get(word, "running"), word, model, reason, tokens, dollars)


def _unpack(archive: Path, folder: Path) -> None:
    """Extract only the adapter's two files, from any folder of a tar archive (plain, gzip or zstd)."""
    with archive.open("rb") as start:
        zstandard = start.read(4) == _ZSTANDARD
    if zstandard:
        import pyarrow

        stream: Any = pyarrow.input_stream(str(archive), compression="zstd")
    else:
        stream = archive.open("rb")
    with stream, tarfile.open(fileobj=stream, mode="r|" if zstandard else "r|*") as members:
        for member in members:
            name = Path(member.name).name
            content = (
                members.extractfile(member) if member.isfile() and name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) else None
            )
            if content is not None:
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
