"""Code that runs on the cluster: the driver of a Ray job, and the workers of Ray Train's TorchTrainer.

Folder of a job in the storage::

    job.json                        the request: {action, spec, base {folder, record}}
    train.jsonl, validation.jsonl   the rows; of a second stage preferences.jsonl
    history.jsonl, said.json        losses so far; {worker, lines}: log messages of the current workers
    checkpoints/PHASE/              Ray Train's checkpoints: the newest and the best one
    trained/…                       results of finished phases, and the adapter that a second stage starts from
    result/                         result of the training, once the job has succeeded
    error.json                      {code, kind, message} of the error that ended it
"""

import contextlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from finetune_pipeline import __version__
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.jobs import RefineJob, TrainJob, job_fields, job_of
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import MODEL_FILE
from finetune_pipeline.planning.memory import weight_bytes
from finetune_pipeline.planning.planner import compute_width
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.reporting import listen, mute, say
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import RaySection
from finetune_pipeline.spec.training import RefineSpec, TrainingSpec
from finetune_pipeline.trainers import ray_data
from finetune_pipeline.trainers.base import TrainingOrder
from finetune_pipeline.trainers.local import train_locally
from finetune_pipeline.trainers.ray import FIRST_STAGE, ROWS, uneven_batches
from finetune_pipeline.trainers.storage import Storage
from finetune_pipeline.training.processes import STRATEGY
from finetune_pipeline.worker.process import EXIT_CONFIG, NO_RETRY

Trained = TypeVar("Trained", bound=TrainJob | RefineJob)
_PATHS = ("base", "train", "validation", "rows", "out", "work", "start_from")
_NO_ROOT = Path("/scratch")
"""Stands for the scratch folder in a job that is sent to workers."""
_ROOM = 0.8
"""Share of a GPU's memory that training may use; the rest is for fragmentation and the driver."""


def main() -> None:
    """Run as the driver of a job: train, and upload the result or the error to the storage."""
    storage, name = sys.argv[1:]
    place = Storage(storage).below(name)
    try:
        request = place.read_json("job.json")
        if request["action"] == "train":
            train(storage, place, request)
        elif request["action"] == "refine":
            refine(storage, place, request)
        else:
            ray_data.make(place, request)
    except Exception as error:  # noqa: BLE001 - error.json reports any error
        failure = place.read_json("error.json") or _driver_error(error)
        place.write_json("error.json", failure)
        sys.exit(f"{failure['message']}\n")


def _driver_error(error: Exception) -> dict[str, object]:
    """Return the content of error.json if no worker has written it."""
    if isinstance(error, FindingsError | JobError):
        return {"code": EXIT_CONFIG, "kind": "job", "message": str(error)}
    last_line = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
    return {"code": 1, "kind": "error", "message": f"{type(error).__name__}: {last_line.strip()}"}


def train(storage: str, place: Storage, request: Mapping[str, Any]) -> None:
    """Train each phase in a TorchTrainer, as on one machine, and upload the result of all phases."""
    spec = TaskSpec.model_validate(request["spec"])
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        root = Path(scratch)
        base, rows, validation = (root / name for name in ("base", "train.jsonl", "validation.jsonl"))

        def launch(job: TrainJob) -> dict[str, object]:
            phase = job.out.relative_to(root).as_posix()
            if not place.has_folder(f"trained/{phase}"):
                _fit(_moved(job, root, _NO_ROOT), request["base"], phase, storage, place, spec.training.ray)
            place.get(f"trained/{phase}", job.out)
            return dict(read_json(job.out / "result.json"))

        order = TrainingOrder(spec, base, rows, validation, root / "out", root / "work", launch)
        train_locally(order)
        place.put_folder(order.out, "result")


def refine(storage: str, place: Storage, request: Mapping[str, Any]) -> None:
    """Train a second stage in one worker, and upload its result."""
    section = TaskSpec.model_validate(request["spec"]).training.ray.model_copy(update={"workers": 1})
    job = RefineJob(
        stage="refined_adapter",
        base=_NO_ROOT / "base",
        start_from=_NO_ROOT / FIRST_STAGE,
        rows=_NO_ROOT / ROWS,
        settings=TrainingSpec.model_validate(request["settings"]),
        refine=RefineSpec.model_validate(request["refine"]),
        out=_NO_ROOT / "refined",
        work=_NO_ROOT / "work",
    )
    _fit(job, request["base"], "refined", storage, place, section)
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        place.get("trained/refined", Path(scratch))
        place.put_folder(Path(scratch), "result")


def _moved(job: Trained, source: Path, target: Path) -> Trained:
    """Return the job with its paths below another folder: the scratch folder has a different path on every worker."""
    paths = {name: getattr(job, name, None) for name in _PATHS}
    return replace(job, **{name: target / path.relative_to(source) for name, path in paths.items() if path})


def _fit(
    job: TrainJob | RefineJob,
    base: Mapping[str, object],
    phase: str,
    storage: str,
    place: Storage,
    section: RaySection,
) -> None:
    """Train one phase with several workers. base: of the request.

    If workers fail, new ones resume from the last checkpoint, which Ray Train finds by the run's name. Ray's own retries
    (FailureConfig) would also repeat refused jobs.
    """
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "job": job_fields(job),
            "base": base,
            "phase": phase,
            "storage": storage,
            "place": place.address,
        },
        scaling_config=ScalingConfig(
            num_workers=section.workers,
            use_gpu=bool(section.resources.get("GPU")),
            resources_per_worker=dict(section.resources),
        ),
        run_config=RunConfig(
            name=phase.replace("/", "-"),
            storage_path=place.path("checkpoints"),
            storage_filesystem=PyFileSystem(FSSpecHandler(place.fs)),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    for failures in range(section.max_failures + 1):
        place.delete("error.json")
        try:
            trainer.fit()
            return
        except TrainingFailedError as error:
            failure = place.read_json("error.json") or _driver_error(error)
            if failure["code"] in NO_RETRY or failures == section.max_failures:
                raise
            say(f"{job.stage}: the workers failed and are restarted: {failure['message']}")


def train_worker(config: dict[str, Any]) -> None:
    """Run as one of the workers: download the inputs, train with the other workers, and upload the result."""
    import ray.train
    import torch.distributed

    from finetune_pipeline.worker import entry

    context, place = ray.train.get_context(), Storage(config["place"])
    is_first, is_first_on_node = context.get_world_rank() == 0, context.get_local_rank() == 0
    scratch = _broadcast(lambda: f"finetune-{uuid.uuid4().hex}")
    root = Path(tempfile.gettempdir()) / scratch
    job = job_of(config["job"])
    assert isinstance(job, TrainJob | RefineJob)
    job = _moved(job, _NO_ROOT, root)
    if is_first:
        listen(_listener(place, scratch, job.work / "history.jsonl"))
    else:
        mute()
    try:
        if is_first_on_node:
            _bring_inputs(job, config, place, root)
        torch.distributed.barrier()
        os.environ[STRATEGY] = _broadcast(lambda: _strategy(job, context.get_world_size()))
        entry.do_job(job, lambda: _report(job.work, root / "reported", is_first_on_node))
        if is_first:
            place.put_folder(job.out, f"trained/{config['phase']}")
        torch.distributed.barrier()  # all workers have finished reading
    except Exception as error:
        code, kind, message = entry.classify_error(error, job)
        if code in NO_RETRY or place.read_json("error.json") is None:
            place.write_json("error.json", {"code": code, "kind": kind, "message": message + _install_fix(error)})
        raise
    finally:
        if is_first_on_node:
            shutil.rmtree(root, ignore_errors=True)


def _broadcast(choose: Callable[[], Any]) -> Any:
    """Return the first worker's choice in all workers."""
    import torch.distributed

    chosen = [choose() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(chosen)
    return chosen[0]


def _listener(place: Storage, worker: str, history: Path) -> Callable[[str], None]:
    """Return a listener that uploads every log line, and the history so far, for those who follow the job. If the storage is
    unreachable, training continues, and the next line's upload includes all earlier lines."""
    lines: list[str] = []

    def upload(line: str) -> None:
        lines.append(line)
        with contextlib.suppress(OSError, OutsideError):
            if history.exists():
                place.put(history, "history.jsonl")
            place.write_json("said.json", {"worker": worker, "lines": lines})

    return upload


def _strategy(job: TrainJob | RefineJob, workers: int) -> str:
    """Choose how the workers share the training, and say why."""
    import torch

    if workers == 1:
        return "ddp"
    gpu_bytes = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    assert isinstance(job, TrainJob)
    chosen, reason = choose_strategy(job, workers, gpu_bytes)
    say(f"{job.stage}: {workers} workers, {chosen}: {reason}")
    return chosen


def choose_strategy(job: TrainJob, workers: int, gpu_bytes: int | None) -> tuple[str, str]:
    """Choose ``ddp`` or ``fsdp2`` for several workers. Returns (strategy, reason).

    ``ddp`` (distributed data parallel): every worker has a copy of the model and takes its part of each batch. ``fsdp2``
    (fully sharded data parallel): weights, gradients and optimiser states are split over the workers and fetched layer by
    layer (Zhao et al. 2023, arXiv:2304.11277). gpu_bytes: memory of a worker's GPU; None: it has none. Raises FindingsError
    if the workers cannot share the job.
    """
    settings = job.settings
    findings = uneven_batches(settings.batch_size, workers)
    strategy, reason = "ddp", "the CPU shares whole models only"
    if gpu_bytes is not None:
        method, shape = METHODS[settings.method], model_shape(model_folder(job.base))
        weights = weight_bytes(shape, method, compute_width(settings.precision, "cuda"))
        needed = weights + 12 * method.trainable(settings, shape)  # without activations
        fits = needed <= _ROOM * gpu_bytes
        strategy, verb = ("ddp", "fits") if fits else ("fsdp2", "does not fit")
        reason = f"it {verb} on one GPU ({needed / 2**30:.1f} GiB of {gpu_bytes / 2**30:.1f} GiB)"
        if not fits and method.holds == "four_bit":
            message = "4-bit weights cannot be split over GPUs: their quantization constants belong to complete tensors"
            fix = "set training.method: lora, which is sharded in 16 bits, or use GPUs with more memory"
            findings.append(Finding("training.four_bit_sharded", "error", "task.yaml: training.method", message, fix))
    if findings:
        raise FindingsError(findings)
    return strategy, reason


def _install_fix(error: BaseException) -> str:
    """Return the fix for a library that workers lack, or an empty string."""
    wheel = f"finetune_pipeline-{__version__}-py3-none-any.whl"
    fix = "install the wheel in the cluster's image, or let Ray install it: training.ray.runtime_env: {working_dir: FOLDER OF "
    fix += f"THE WHEEL, pip: ['${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{wheel}[ray]']}}"
    return f"\nfix: {fix}" if isinstance(error, ModuleNotFoundError) else ""


def _bring_inputs(job: TrainJob | RefineJob, config: Mapping[str, Any], place: Storage, root: Path) -> None:
    """Download rows, base model, the adapter to start from, and the last checkpoint into a new folder."""
    import ray.train

    root.mkdir(mode=0o700)
    for path in (job.train, job.validation) if isinstance(job, TrainJob) else (job.rows,):
        place.get(path.name, path)
    folder, record = config["base"]["folder"], config["base"]["record"]
    Storage(config["storage"]).get(folder, root / "base" / "model" if record else root / "base")
    if record:
        write_json(root / "base" / MODEL_FILE, {**record, "path": str(root / "base" / "model")})
    if job.start_from:
        place.get(f"trained/{job.start_from.relative_to(root).as_posix()}", job.start_from)
    if checkpoint := ray.train.get_checkpoint():
        checkpoint.to_directory(str(job.work))


def _report(work: Path, folder: Path, is_first_on_node: bool) -> None:
    """Report a checkpoint to Ray Train: the node's files of the newest and the best one. Reports only checkpoints, since every
    report waits for Ray's controller."""
    import ray.train

    checkpoint = None
    if is_first_on_node:
        shutil.rmtree(folder, ignore_errors=True)
        saved = sorted((work / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
        mark = saved[-1] / "complete.json"
        best = read_json(mark)["best"] if mark.is_file() else None
        for name in {saved[-1].name, best or saved[-1].name}:
            shutil.copytree(work / "checkpoints" / name, folder / "checkpoints" / name, copy_function=os.link)
        checkpoint = ray.train.Checkpoint.from_directory(str(folder))
    ray.train.report({}, checkpoint=checkpoint)
