"""Helper: a store that holds one trained model of a task, made without running the graph."""

from __future__ import annotations

from pathlib import Path

import yaml

from finetune_pipeline.data.examples import SPLIT_FILES
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore, Builder, write_json
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.merging import merge_and_compare
from finetune_pipeline.worker.jobs import merge_job
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, write_tiny_examples
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation

TASK = "demo"


def make_store(root: Path, base: Path, adapter: Path, method: str = "lora") -> ArtifactStore:
    """root/data/demo/task.yaml, and root/home/artifacts with base_model, adapter, splits and merged_model of that
    task."""
    folder = root / "data" / TASK
    (folder / "raw").mkdir(parents=True)
    spec = {
        "name": TASK,
        "description": "Sorts *tickets* <by> queue.",
        "base_model": str(base),
        "system_prompt": SYSTEM,
        "output": {"kind": "labels", "labels": LABELS},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    store = ArtifactStore(root / "home" / "artifacts")
    rows = write_tiny_examples(root / "e.jsonl", range(12))

    def bring(builder: Builder) -> None:
        builder.facts.update(prepare_base(str(base), None, builder.folder))

    def keep(builder: Builder) -> None:
        (builder.folder / "adapter").mkdir()
        for path in adapter.iterdir():
            (builder.folder / "adapter" / path.name).write_bytes(path.read_bytes())

    based = store.build(SHARED, "base_model", code_version="1", inputs={}, settings=None, make=bring)
    settings = {"method": method, "epochs": 1.0, "lora": {"r": 4}}
    inputs = {"base_model": based.version, "train_split": "0123456789abcdef"}
    trained = store.build(TASK, "adapter", code_version="1", inputs=inputs, settings=settings, make=keep)

    def merge(builder: Builder) -> None:
        builder.facts.update(
            merge_and_compare(
                merge_job(
                    base=based.folder,
                    adapter=trained.path("adapter"),
                    examples=rows,
                    labels=LABELS,
                    max_new_tokens=6,
                    batch_size=4,
                    out=builder.folder,
                )
            )
        )

    def split(builder: Builder) -> None:
        path = builder.folder / SPLIT_FILES["validation"]
        path.parent.mkdir()
        write_tiny_examples(path, range(40))

    held = store.build(TASK, "splits", code_version="1", inputs={}, settings=None, make=split)
    inputs = {"adapter": trained.version, "base_model": based.version, "validation_split": held.version}
    store.build(TASK, "merged_model", code_version="1", inputs=inputs, settings=None, make=merge)
    return store


def add_report(store: ArtifactStore, passed: bool) -> None:
    """An evaluation of the merged model, and its registration as version 3."""
    merged = store.all_versions(TASK, "merged_model")[-1]
    result = evaluation()
    gates = [
        GateResult(
            "beats_baseline",
            "passed" if passed else "failed",
            0.2,
            0.0,
            "It wins by 27.5 points.",
            "" if passed else "Train on more rows.",
        )
    ]

    def write(builder: Builder) -> None:
        write_json(builder.folder / "evaluation.json", result.to_json())
        write_json(builder.folder / "gates.json", [g.to_dict() for g in gates])
        builder.facts.update(
            {
                "passed": passed,
                "verdict": "Better by 27.5 points.",
                "gates": [g.to_dict() for g in gates],
                "models": result.to_json()["models"],
            }
        )

    inputs = {"merged_model": merged.version}
    store.build(TASK, "evaluation_report", code_version="1", inputs=inputs, settings=passed, make=write)
    store.build(
        TASK,
        "model_version",
        code_version="1",
        inputs=inputs,
        settings=passed,
        make=lambda b: b.facts.update({"model_version": 3}),
    )
