"""Runs the data stage on a Ray cluster: the same functions, which Ray Data maps over blocks of rows.

A step becomes one Ray job. Its driver runs the same step as locally, but the cluster's workers validate, scrub and sketch the
blocks. Only the comparison of all sketches (about 200 bytes per row) runs in the driver.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from finetune_pipeline.data.dedup.cleaning import Cleaned, clean
from finetune_pipeline.data.examples import EXAMPLES, examples_file
from finetune_pipeline.data.raw_files import BENCHMARKS, FILES
from finetune_pipeline.data.readers.encoding import Survey
from finetune_pipeline.data.validate.validation import Validated, validate
from finetune_pipeline.data.workers import Item, Result, spread_by
from finetune_pipeline.engine.files import digest_json, read_json, write_json
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers.ray import cluster_findings
from finetune_pipeline.trainers.ray_jobs import RayJob
from finetune_pipeline.trainers.storage import Storage

_BLOCKS_A_CPU = 4
_FACTS = "facts.json"


def validate_on_ray(
    raw: Path, spec: TaskSpec, out: Path, work: Path, version: str, surveys: Mapping[str, Survey]
) -> Validated:
    """Run :func:`validate` on a raw artifact's folder on the cluster of `training.ray`; version: identifies the rows."""
    return Validated.of(_run("validate", {FILES: raw / FILES}, spec, out, work, version, surveys=surveys))


def clean_on_ray(
    validated: Path, spec: TaskSpec, out: Path, work: Path, version: str, *, raw: Path, key: bytes
) -> Cleaned:
    """Run :func:`clean` on the cluster of `training.ray`; arguments as for :func:`validate_on_ray` and clean."""
    inputs = {EXAMPLES: examples_file(validated)}
    if (raw / BENCHMARKS).is_dir():
        inputs[BENCHMARKS] = raw / BENCHMARKS
    return Cleaned.of(_run("clean", inputs, spec, out, work, version, key))


def _run(
    action: Literal["validate", "clean"],
    inputs: Mapping[str, Path],
    spec: TaskSpec,
    out: Path,
    work: Path,
    version: str,
    key: bytes = b"",
    surveys: Mapping[str, Survey] | None = None,
) -> dict[str, object]:
    section = spec.training.ray
    if blocking := errors(cluster_findings(section)):
        raise FindingsError(blocking)
    settings = spec.model_dump(mode="json", exclude={"training": True})
    name = f"{spec.name}-{action}-{digest_json([version, settings])[:16]}"

    def bring_inputs(place: Storage) -> None:
        for input_name, path in inputs.items():
            if path.is_dir():
                place.put_folder(path, input_name)
            else:
                place.put(path, input_name)
        request = {"action": action, "spec": settings, "inputs": list(inputs), "key": key.hex()}
        request["surveys"] = msgspec.to_builtins(surveys or {})
        place.write_json("job.json", request)

    stage = {"validate": "validated_examples", "clean": "clean_examples"}[action]
    RayJob(name, section, stage, work).run(bring_inputs, out)
    facts: dict[str, object] = read_json(out / _FACTS)
    (out / _FACTS).unlink()
    return facts


# --- runs on the cluster


def make(place: Storage, request: Mapping[str, Any]) -> None:
    """Run a step in this process, the driver, with its blocks on the cluster's workers."""
    import ray

    ray.init()
    spec = TaskSpec.model_validate(request["spec"])
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        root, result_folder = Path(scratch), Path(scratch) / "out"
        for name in request["inputs"]:
            place.get(name, root / name)
        benchmarks = root / BENCHMARKS if BENCHMARKS in request["inputs"] else None
        bring = partial(_bring_benchmarks, place, benchmarks) if benchmarks else None
        with spread_by(partial(_map_blocks, bring)):
            facts: object
            if request["action"] == "validate":
                surveys = msgspec.convert(request["surveys"], dict[str, Survey])
                facts = validate(root, spec, result_folder, surveys)
            else:
                facts = clean(root, spec, result_folder, raw=root, key=bytes.fromhex(request["key"]))
        write_json(result_folder / _FACTS, msgspec.to_builtins(facts))
        place.put_folder(result_folder, "result")


def _map_blocks(
    bring: Callable[[], None] | None, function: Callable[[Item], Result], items: Iterable[Item], size: int
) -> Iterator[Result]:
    """Yield function(item) for every item, in order, computed by Ray Data. Processes a few blocks per CPU at a time, which
    bounds the driver's memory."""
    import ray.data
    from ray import cloudpickle

    def map_block(batch: dict[str, Any]) -> dict[str, Any]:
        if bring:
            bring()
        return {"number": batch["number"], "result": [cloudpickle.dumps(function(cloudpickle.loads(batch["item"][0])))]}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    remaining = iter(items)
    blocks_at_once = _BLOCKS_A_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    while blocks := [cloudpickle.dumps(item) for item in islice(remaining, blocks_at_once)]:
        rows = [{"number": number, "item": block} for number, block in enumerate(blocks)]
        mapped = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            map_block, batch_size=1, batch_format="numpy", zero_copy_batch=True
        )
        for row in sorted(mapped.iter_rows(), key=lambda row: int(row["number"])):
            yield cloudpickle.loads(row["result"])


def _bring_benchmarks(place: Storage, folder: Path) -> None:
    """Copy benchmark files to the driver's path on this worker's node."""
    if folder.is_dir():
        return
    arriving = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}")
    place.get(BENCHMARKS, arriving)
    with contextlib.suppress(OSError):  # another worker of this node was faster
        os.rename(arriving, folder)
    shutil.rmtree(arriving, ignore_errors=True)
