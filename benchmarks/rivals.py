"""Every simple model on shipped tasks and public sets: right answers with intervals, CPU seconds to fit, milliseconds a call.

    python benchmarks/rivals.py PUBLIC BASE [NAME …]

PUBLIC: folder of the public sets (see public_sets.py). BASE: a model folder, or the artifact of a base model. Rows whose
near-duplicates share a cluster are on one side: ROWS of them train, the others up to TEST answer. Layers and strengths are
chosen on the training rows. `baseline.encoder` is bundled/minilm where its package is installed, else wordllama.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.example_sets import INTENTS, ExampleSet, example_set
from finetune_pipeline.data.examples import Example, hash_order
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.simple_models import Shared, SimpleModel, fit_simple_models
from finetune_pipeline.evaluation.simple_models.encoders import (
    BASE,
    ENCODER,
    MINILM,
    StoredEncoder,
    base_encoder,
    sentence_encoder,
)
from finetune_pipeline.models.loading import inference_dtype, pick_device

SETS = (
    "ticket_triage",
    "order_intake",
    "bitext-intent",
    "clinc150-domains",
    "snips",
    INTENTS,
    "llms-from-scratch-instr",
)
ROWS, TEST, CALLS = 800, 300, 15
"""Training rows, test rows, and timed calls of one text each."""


def halves(examples: ExampleSet) -> tuple[list[Example], list[Example]]:
    """Return training and test rows; whole clusters are on one side."""
    clusters = [examples.clusters.get(e.id, e.group or e.id) for e in examples.rows]
    sizes = dict.fromkeys(clusters, 0)
    for cluster in clusters:
        sizes[cluster] += 1
    share = TEST / min(ROWS + TEST, len(examples.rows))
    test_clusters, n = set(), 0
    for cluster in sorted(sizes, key=lambda cluster: hash_order(cluster, "rivals")):
        if n + sizes[cluster] <= share * len(examples.rows):
            test_clusters.add(cluster)
            n += sizes[cluster]
    ordered = sorted(zip(examples.rows, clusters, strict=True), key=lambda row: hash_order(row[0].id, "rivals"))
    train = [e for e, cluster in ordered if cluster not in test_clusters]
    test = [e for e, cluster in ordered if cluster in test_clusters]
    return train[:ROWS], test[:TEST]


def milliseconds(model: SimpleModel, texts: list[str], encoders: dict[str, StoredEncoder]) -> float:
    """Return the median time of a call with one text, without stored vectors."""
    sources = {encoding.source for encoding in model.encodings.values()}
    alone = replace(model, encoders={source: encoders[source].fresh for source in sources})
    times = []
    for text in texts[: CALLS + 1]:
        began = time.perf_counter()
        alone.predict([text])
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times[1:]))


def measured(name: str, public: Path, base: Path) -> Iterator[str]:
    """Yield a line for every simple model on a set."""
    examples = example_set(name, public)
    train, test = halves(examples)
    dtype = str(inference_dtype(base, "serving", pick_device())).removeprefix("torch.")
    encoders: dict[str, StoredEncoder] = {}
    if examples.spec.labels:
        try:
            encoders[ENCODER] = sentence_encoder(MINILM, "float32")
        except FileNotFoundError:
            encoders[ENCODER] = sentence_encoder("wordllama", "float32")
        encoders[BASE] = base_encoder(base, dtype)
    texts, answers = [e.user_text for e in train], [e.answer for e in train]
    metric = METRICS[examples.spec.metric]
    for model in fit_simple_models(texts, answers, examples.spec.output, 0, Shared(encoders)).values():
        asked = [e.user_text for e in test]
        rows = [
            {"example_id": e.id, "gold": e.answer, "text": text, "status": "ok", "label_scores": None}
            for e, text in zip(test, model.predict(asked), strict=True)
        ]
        clusters = [examples.clusters.get(e.id, e.group or e.id) for e in test]
        value = 100 * metric.score(rows, examples.spec.output)
        low, high = (100 * bound for bound in metric.interval(rows, examples.spec.output, 0.95, clusters) or (0, 0))
        layers = ", ".join(
            f"layer {encoding.layer}" for encoding in model.encodings.values() if encoding.source == BASE
        )
        yield (
            f"{name:24} {model.name:17} {value:5.1f}  ({low:4.1f} to {high:5.1f})  {model.fit_seconds or 0:6.1f} "
            f"{milliseconds(model, asked, encoders):8.1f}  {layers}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("public", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("names", nargs="*", default=SETS)
    given = parser.parse_args()
    print(
        f"At most {ROWS} training and {TEST} test rows; right answers in % with 95% intervals, in the metric that decides\n"
    )
    print(f"{'set':24} {'model':17} right  (interval)         fit CPU s  ms a call")
    for name in given.names:
        for line in measured(name, given.public, given.base):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
