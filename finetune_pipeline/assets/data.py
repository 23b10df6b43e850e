"""DATA: from raw files to splits."""

from collections.abc import Iterator

import dagster as dg

from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.summary import markdown, summarise
from finetune_pipeline.orchestration.materialize import world_of
from finetune_pipeline.orchestration.metadata import as_metadata, numbers
from finetune_pipeline.orchestration.node import Node
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.progress import tell
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.tracking import Tracking

GROUP = "data"
VIEWS = ("train_split", "validation_split", "test_split")
NODES = [
    Node(
        "raw_examples",
        ["production_logs"],
        "Snapshot of the raw files and of corrected production rows, with digests.",
        ["jsonl"],
        GROUP,
    ),
    Node(
        "validated_examples",
        ["raw_examples"],
        "Canonical examples, one JSON object a line; every bad row in quarantine with file, line, rule and fix.",
        ["jsonl", "python"],
        GROUP,
    ),
    Node(
        "clean_examples",
        ["validated_examples"],
        "Scrubbed of personal data and secrets, de-duplicated, contradictions set aside.",
        ["jsonl", "python"],
        GROUP,
    ),
    Node("reviewed_examples", ["clean_examples"], "People's decisions from `reviews/` applied.", ["jsonl"], GROUP),
    Node(
        "splits",
        ["reviewed_examples"],
        "Train, validation and sealed test by duplicate cluster, stratified by label; old rows never move.",
        ["jsonl"],
        GROUP,
    ),
    Node(
        "data_quality",
        ["splits", "base_model"],
        "What no single row shows: size, balance, one format, label noise, synthetic rows, tokens, price.",
        ["html", "python"],
        GROUP,
    ),
]


def split_views(task: Task) -> dg.AssetsDefinition:
    """The three splits as assets of their own, so that the graph shows who may use which."""
    texts = {
        "train_split": ("train", "What the adapter and the in-context examples are made from."),
        "validation_split": ("validation", "Decides when training stops and which baseline prompt is best."),
        "test_split": ("test", "Sealed: only `test_predictions` opens it, and every opening is recorded."),
    }

    @dg.multi_asset(
        name=f"{task.name}__split_views",
        specs=[
            dg.AssetSpec(
                dg.AssetKey([task.name, name]),
                deps=[dg.AssetKey([task.name, "splits"])],
                description=text,
                group_name=GROUP,
                kinds={"jsonl"},
                owners=[task.spec.owner],
            )
            for name, (_, text) in texts.items()
        ],
    )
    def views(context: dg.AssetExecutionContext, store: Store, tracking: Tracking) -> Iterator[dg.MaterializeResult]:
        world = world_of(context, task, store, tracking)
        splits = PIPELINE.run("splits", task, world, store.artifacts())
        for name, (split, _) in texts.items():
            tell(name, "begins")
            facts = {"rows": splits.facts["counts"][split], "per_label": splits.facts["labels"][split]}
            with tracking.step(context, task.name, name, splits.version, reused=splits.reused) as run:
                run.log_metrics(numbers(facts))
                if split != "test":
                    facts["summary_markdown"] = markdown(summarise(read_examples(examples_of(splits.folder, split))))
                metadata = as_metadata({**facts, "mlflow": run.url})
            tell(name, "done")
            yield dg.MaterializeResult(
                asset_key=dg.AssetKey([task.name, name]), metadata=metadata, data_version=dg.DataVersion(splits.version)
            )

    return views
