"""Every method through the real graph on a tiny model, one after the other in one project, so that each candidate meets a
champion of another kind.

The run with qlora is that of ``finished``; its second phase and its merge are those of lora (lora alone: test_production.py).
"""

import itertools
import json
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
"""What the report says of a model's kind."""
RATES = {"prefix": 0.05, "prompt": 0.05, "full": 0.003}


@dataclass
class Chain:
    """A project that was run once with each chained method, and the run with qlora: folders and facts of the steps, and what
    the registered model said."""

    project: Project
    folders: dict[str, dict[str, Path]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: dict[str, dict[str, str]] = field(default_factory=dict)

    def answers(self, method: str, model: str) -> dict[str, str]:
        """The predictions table of a method's run, one model's answers by row."""
        rows = read_predictions(self.folders[method]["test_predictions"] / "predictions.parquet")
        return {r["example_id"]: r["text"] for r in rows if r["model"] == model}

    def number(self, method: str) -> int:
        return int(self.facts[method]["model_version"]["model_version"])


def training(method: str) -> dict[str, Any]:
    made = {"method": method, "epochs": 2, "learning_rate": RATES[method], "precision": "float32", "evals_per_epoch": 1}
    return made | ({method: {"tokens": 8}} if method in ("prefix", "prompt") else {})


@pytest.fixture(scope="module")
def chain(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    import mlflow
    import pandas

    folder = tmp_path_factory.mktemp("methods")
    project = Project.continued(finished[0], folder, "training_plan", gates={"min_valid_share": 0.0})
    tracking, made = project.tracking, Chain(project)
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS:
            place, summary = finished[0].tracking.uri(), finished[2]
            if method in CHAINED:
                project.write_spec(training=training(method))
                code, summary = project.run()
                assert code in (0, 2) and "steps" in summary, summary
                place = tracking.uri()
            folders = made.folders[method] = {name: Path(step["folder"]) for name, step in summary["steps"].items()}
            made.facts[method] = {n: json.loads((f / "artifact.json").read_text())["facts"] for n, f in folders.items()}
            number = made.number(method)
            texts = read_test_rows(folders["test_predictions"]).texts
            patch.setenv("MLFLOW_TRACKING_URI", place)
            patch.setenv("MLFLOW_REGISTRY_URI", place)
            model = mlflow.pyfunc.load_model(f"models:/colours/{number}")
            made.said[method] = dict(
                zip(texts, model.predict(pandas.DataFrame({"text": list(texts.values())})), strict=True)
            )
            if method in CHAINED:  # whatever the gates say of so small a model: the next candidate shall meet this one
                tracking.client().set_model_version_tag("colours", str(number), "gates", "passed")
                registry.promote(tracking, "colours", number)
        yield made


@pytest.mark.parametrize("method", METHODS)
def test_what_is_registered_answers_as_the_evaluated_model_did(chain: Chain, method: str) -> None:
    said = chain.said[method]
    assert said == {i: text.strip() for i, text in chain.answers(method, "candidate").items()}
    assert len(set(said.values())) > 1, "one and the same answer would show nothing"
    base = chain.answers(method, "base")
    assert sum(said[i] != base[i].strip() for i in said) > len(said) / 2, "the training shows in the answers"


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
        assert summary["champion"]["model_version"] == chain.number(before)
        # same rows, same way of asking: the champion answers now as it did when it was the candidate
        assert chain.answers(method, "champion") == chain.answers(before, "candidate")
        evaluation = json.loads((chain.folders[method]["evaluation_report"] / "evaluation.json").read_text())
        assert evaluation["comparisons"]["champion"]["n"] == summary["rows"]
        right = evaluation["models"]["champion"]["correct"]
        assert right == chain.facts[before]["evaluation_report"]["models"]["candidate"]["correct"]


def test_the_registry_tells_the_kinds_apart_and_keeps_the_weights_of_each(chain: Chain) -> None:
    for method in CHAINED:
        tags = registry.version_tags(chain.project.tracking, "colours", chain.number(method))
        assert (tags["method"], tags["kind"]) == (method, method)
        assert tags["merged_version"] == chain.folders[method]["merged_model"].name
    records = {}
    for path in (chain.project.home / "mlflow" / "artifacts").rglob("model.json"):
        summary = json.loads(path.read_text())
        place = "base" if summary["folder"] == chain.project.spec["base_model"] else Path(summary["folder"]).parts[-3]
        records[summary["kind"]] = place, len(list((path.parent / "adapter").glob("*.safetensors")))
    merged = "merged_model"
    assert records == {"prefix": ("base", 1), "prompt": (merged, 1), "full": (merged, 0)}
