"""Every method in the real graph on a tiny model, run in turn in one project, so that each candidate is compared with a
champion of another kind.

The qlora run is that of ``finished``; it covers lora's training and merge in its second phase (lora alone: test_production.py).
"""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation.predictions import read_predictions, read_test_rows
from finetune_pipeline.tracking import registry
from finetune_pipeline_tests.graph.project import Finished, Project

METHODS = ["qlora", "prefix", "prompt", "full"]
CHAINED = METHODS[1:]
WORDS = dict(zip(METHODS, ("merged model", "base with the prefix", "added tokens", "stored model"), strict=True))
"""The report's words for the kind of model."""
LEARNING_RATES = {"prefix": 0.05, "prompt": 0.05, "full": 0.003}


@dataclass
class Chain:
    """Results of the qlora run and of a project run once with each chained method: by method, the steps' folders and facts,
    and the registered model's answers."""

    project: Project
    folders: dict[str, dict[str, Path]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    registered: dict[str, dict[str, str]] = field(default_factory=dict)

    def answers(self, method: str, model: str) -> dict[str, str]:
        """A model's test predictions in a method's run, by example id."""
        rows = read_predictions(self.folders[method]["test_predictions"] / "predictions.parquet")
        return {row["example_id"]: row["text"] for row in rows if row["model"] == model}

    def version(self, method: str) -> int:
        return int(self.facts[method]["model_version"]["model_version"])


def training(method: str) -> dict[str, Any]:
    settings = {"method": method, "learning_rate": LEARNING_RATES[method]}
    settings |= {"epochs": 2, "precision": "float32", "evals_per_epoch": 1}
    return settings | ({method: {"tokens": 8}} if method in ("prefix", "prompt") else {})


@pytest.fixture(scope="module")
def chain(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    import mlflow
    import pandas

    folder = tmp_path_factory.mktemp("methods")
    project = Project.continued(finished.project, folder, "training_plan", gates={"min_valid_share": 0.0})
    tracking, chain = project.tracking, Chain(project)
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS:
            uri, summary = finished.project.tracking.uri(), finished.output
            if method in CHAINED:
                project.write_spec(training=training(method))
                code, summary = project.run()
                assert code in (0, 2) and "steps" in summary, summary
                uri = tracking.uri()
            folders = {name: Path(step["folder"]) for name, step in summary["steps"].items()}
            chain.folders[method] = folders
            chain.facts[method] = {
                n: json.loads((f / "artifact.json").read_text())["facts"] for n, f in folders.items()
            }
            version = chain.version(method)
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setenv("MLFLOW_REGISTRY_URI", uri)
            model = mlflow.pyfunc.load_model(f"models:/colours/{version}")
            texts = read_test_rows(folders["test_predictions"]).texts
            answers = model.predict(pandas.DataFrame({"text": list(texts.values())}))
            chain.registered[method] = dict(zip(texts, answers, strict=True))
            if method in CHAINED:  # promote it whatever its gates, to be the next candidate's champion
                tracking.client().set_model_version_tag("colours", str(version), "gates", "passed")
                registry.promote(tracking, "colours", version)
        yield chain


@pytest.mark.parametrize("method", METHODS)
def test_what_is_registered_answers_as_the_evaluated_model_did(chain: Chain, method: str) -> None:
    answers, base = chain.registered[method], chain.answers(method, "base")
    assert answers == {i: text.strip() for i, text in chain.answers(method, "candidate").items()}
    assert len(set(answers.values())) > 1, "identical answers would prove nothing"
    assert sum(answers[i] != base[i].strip() for i in answers) > len(answers) / 2, "training must change the answers"


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_of_its_kind_and_passes_the_parity_of_its_kind(chain: Chain, method: str) -> None:
    facts = chain.facts[method]
    merged, folder = facts["merged_model"], chain.folders[method]["merged_model"]
    assert merged["kind"] == merged["parity"]["kind"] == method.removeprefix("q") and merged["parity"]["passed"]
    assert merged["parity"]["same_greedy_share"] == 1.0
    assert (folder / "model" / "model.safetensors").exists() is (method != "prefix")
    assert (folder / "adapter" / "adapter_model.safetensors").exists() is (method == "prefix")
    tensors = facts["adapter"]["adapter_tensors"]
    if method in ("prefix", "prompt"):
        assert tensors == ["prompt_embeddings"] and facts["adapter"]["begun"]["virtual_tokens"] == 8
    else:
        assert merged["merged_tensors"] == {"qlora": 14, "full": 0}[method]
    if method == "prompt":
        sets = facts["test_predictions"]["sets"]
        assert sets["candidate"]["shared_prefix_tokens"] == sets["champion"]["shared_prefix_tokens"] + 8
    report = (chain.folders[method]["evaluation_report"] / "report.md").read_text("utf-8")
    assert f"Fine-tuned ({method})" in report and [m for m in METHODS if WORDS[m] in report] == [method]


def test_each_candidate_is_compared_with_a_champion_of_another_kind(chain: Chain) -> None:
    assert "champion" not in chain.facts["prefix"]["test_predictions"]["kinds"]
    for before, method in itertools.pairwise(CHAINED):
        summary = chain.facts[method]["test_predictions"]
        assert summary["kinds"] == {"candidate": method, "champion": before}
        assert summary["champion"]["model_version"] == chain.version(before)
        # same rows, same prompts and decoding
        assert chain.answers(method, "champion") == chain.answers(before, "candidate")
        evaluation = json.loads((chain.folders[method]["evaluation_report"] / "report.json").read_text())
        assert evaluation["comparisons"]["champion"]["n"] == summary["rows"]
        right = evaluation["models"]["champion"]["correct"]
        assert right == chain.facts[before]["evaluation_report"]["models"]["candidate"]["correct"]


def test_the_registry_tells_the_kinds_apart_and_keeps_the_weights_of_each(chain: Chain) -> None:
    for method in CHAINED:
        tags = registry.version_tags(chain.project.tracking, "colours", chain.version(method))
        assert (tags["method"], tags["kind"]) == (method, method)
        assert tags["merged_version"] == chain.folders[method]["merged_model"].name
    weights = {}
    for path in (chain.project.home / "mlflow" / "artifacts").rglob("model.json"):
        model = json.loads(path.read_text())
        folder = os.path.normpath(Path(model["home"]) / model["folder"])
        source = "base" if folder == chain.project.spec["base_model"] else Path(folder).parts[-3]
        weights[model["kind"]] = source, len(list((path.parent / "adapter").glob("*.safetensors")))
    assert weights == {"prefix": ("base", 1), "prompt": ("merged_model", 1), "full": ("merged_model", 0)}
