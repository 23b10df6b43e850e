"""An artifact store with a trained model, made without running the graph."""

import shutil
from pathlib import Path

import yaml

from finetune_pipeline.data.examples import SPLIT_FILES
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.merging import merge_and_compare
from finetune_pipeline.report.stored import Report
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, write_tiny_examples
from finetune_pipeline_tests.unit.evaluation.fake_run import evaluation, refusal, report_facts
from finetune_pipeline_tests.unit.production.releases import released_facts

TASK = "demo"


def make_store(root: Path, base: Path, adapter: Path, method: str = "lora") -> ArtifactStore:
    """Write root/data/demo/task.yaml, and a store in root/home/artifacts with base_model, adapter, splits and merged_model."""
    folder = root / "data" / TASK
    (folder / "raw").mkdir(parents=True)
    spec = {
        "name": TASK, "description": "Sorts *tickets* <by> queue.", "base_model": str(base), "system_prompt": SYSTEM,
    }  # fmt: skip
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": {"kind": "labels", "labels": LABELS}}))
    store = ArtifactStore(root / "home" / "artifacts")
    rows = write_tiny_examples(root / "e.jsonl", range(12))

    def merge(builder: Builder) -> None:
        job = MergeJob(
            base=base_model.folder, adapter=trained.path("adapter"), examples=rows, labels=LABELS, max_new_tokens=6,
            batch_size=4, out=builder.folder,
        )  # fmt: skip
        builder.facts.update(merge_and_compare(job).to_json())

    def split(builder: Builder) -> None:
        path = builder.folder / SPLIT_FILES["validation"]
        path.parent.mkdir()
        write_tiny_examples(path, range(30))

    def build(task: str, step: str, inputs: dict[str, str], make: object, settings: object = None) -> Artifact:
        return store.build(task, step, code_version="1", inputs=inputs, settings=settings, make=make)

    base_model = build(
        SHARED, "base_model", {}, lambda b: b.facts.update(prepare_base(str(base), None, b.folder).to_json())
    )
    settings = {"method": method, "epochs": 1.0, "lora": {"r": 4}}
    inputs = {"base_model": base_model.version, "train_split": "0123456789abcdef"}
    trained = build(TASK, "adapter", inputs, lambda b: shutil.copytree(adapter, b.folder / "adapter"), settings)
    splits = build(TASK, "splits", {}, split)
    inputs = {"adapter": trained.version, "base_model": base_model.version, "validation_split": splits.version}
    build(TASK, "merged_model", inputs, merge)
    return store


def add_refusal(store: ArtifactStore) -> None:
    """Store an evaluation that refuses the merged model, and its registration as version 3."""
    inputs = {"merged_model": store.all_versions(TASK, "merged_model")[-1].version}
    result = Report.of(evaluation(), [refusal()]).to_json()
    facts = report_facts(decision="ship_simple", passed=True, verdict="Better by 27.5 points.", gates=result["gates"])

    def write(builder: Builder) -> None:
        write_json(builder.folder / "report.json", result)
        builder.facts.update(facts)

    store.build(TASK, "evaluation_report", code_version="1", inputs=inputs, settings=None, make=write)

    def register(builder: Builder) -> None:
        builder.facts.update(released_facts(3))
        write_json(builder.folder / "model_version.json", {"json_schema": None, "constrained_decoding": False})

    store.build(TASK, "model_version", code_version="1", inputs=inputs, settings=None, make=register)
