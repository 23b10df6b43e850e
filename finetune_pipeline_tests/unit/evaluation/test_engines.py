"""Each engine of ``evaluation.engine``: the same table, its own faults as failed rows, and no model of another version."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.prediction_facts import Predicted
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import KeptAnswers, ModelSet, Perturbed, PredictJob
from finetune_pipeline.models.inference import generation
from finetune_pipeline.spec.rules import check_all
from finetune_pipeline_tests.openai_server import completion, openai_server
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.evaluation.rows import spec


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    make_tiny_model(root / "base", seed=3)
    write_tiny_examples(root / "rows.jsonl", range(7))
    return root


def run(models: Path, out: Path, endpoint: Any = None, sets: Any = None) -> tuple[Any, Any, list[Any]]:
    job = PredictJob(
        sets=sets or [ModelSet(name="candidate", model=models / "base")], examples=models / "rows.jsonl", labels=LABELS,
        max_new_tokens=4, batch_size=3, out=out, endpoint=endpoint,
        answers=KeptAnswers(file=out / "kept" / "answers.sqlite", limit_mib=8),
    )  # fmt: skip
    return *predict(job), read_predictions(out / "predictions.parquet")


def endpoint(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "base": "small", "candidate": "large", "timeout": 30.0, "concurrency": 2, "tries": 2, **more}


def served(models: Path, name: str, as_: str) -> ModelSet:
    return ModelSet(name=name, model=models / "base", served=as_)


def test_an_endpoint_answers_in_the_same_table_and_once(models: Path, tmp_path: Path) -> None:
    with openai_server(lambda body, seen: "billing" if body["model"] == "small" else "how_to") as server:
        sets = [served(models, "base", "small"), served(models, "candidate", "large")]
        facts, measured, rows = run(models, tmp_path, endpoint(server.url), sets)
        assert {r["text"] for r in of_model(rows, "base")} == {"billing"}
        assert {(r["text"], r["status"], *r["label_scores"]) for r in of_model(rows, "candidate")} == {("how_to", "ok")}
        assert facts.sets["candidate"].asked == "large at 127.0.0.1"
        assert measured["spent"]["base"]["prompt_tokens"] == 49 and measured["answers"] == {"known": 0, "asked": 14}
        sent = [r["messages"] for r in server.requests if r["model"] == "small"]
        examples = read_examples(models / "rows.jsonl")
        prompts = [[{"role": m["role"], "content": m["content"]} for m in e.prompt_messages] for e in examples]
        assert sorted(map(str, sent)) == sorted(map(str, prompts)) and len(server.requests) == 14
        _, second_facts, same = run(models, tmp_path, endpoint(server.url), sets)
        assert same == rows and len(server.requests) == 14, "nothing is paid twice"
        assert second_facts["answers"] == {"known": 14, "asked": 0} and second_facts["spent"]["base"]["requests"] == 0
        # what a name has answered stays with the name, whoever is measured under it
        swapped = [served(models, "base", "large"), served(models, "candidate", "small")]
        _, _, swapped_rows = run(models, tmp_path, endpoint(server.url), swapped)
        assert {r["text"] for r in of_model(swapped_rows, "candidate")} == {"billing"} and len(server.requests) == 14


def test_the_budget_is_that_of_all_sets_and_what_came_is_kept(models: Path, tmp_path: Path) -> None:
    candidate = served(models, "candidate", "large")
    sets = [candidate, candidate.on_perturbed(Perturbed(kind="courtesy", rows=7, seed=0))]
    with openai_server(lambda body, seen: completion("how_to", usage=(90, 10))) as server:
        with pytest.raises(JobError, match="max_tokens is spent, with . of 7 rows not sent\nfix: raise max_tokens"):
            run(models, tmp_path, endpoint(server.url, max_tokens=1200), sets)
        assert 7 <= len(server.requests) <= 12, "100 tokens each"
        _, _, rows = run(models, tmp_path, endpoint(server.url, max_tokens=5000), sets)
        assert len(server.requests) == 14 and {r["status"] for r in rows} == {"ok"}


def test_a_model_that_is_not_served_is_not_replaced_by_another(models: Path, tmp_path: Path) -> None:
    with openai_server(lambda body, seen: "billing") as server:
        with pytest.raises(JobError, match="fix: serve .*base under the name triage-v2"):
            run(models, tmp_path, endpoint(server.url), [served(models, "candidate", "triage-v2")])
        assert server.requests == []
    with pytest.raises(JobError, match="start the server"):
        run(models, tmp_path, endpoint(server.url, tries=1), [served(models, "candidate", "small")])


def test_a_raise_inside_the_model_is_one_failed_row(models, tmp_path, monkeypatch, capsys) -> None:
    _, _, undisturbed = run(models, tmp_path / "whole")
    longest, read = max(r["prompt_tokens"] for r in undisturbed), generation.Reader.read
    longest_rows = [i for i, r in enumerate(undisturbed) if r["prompt_tokens"] == longest]

    def fails(self: Any, prompts: Any) -> Any:
        if any(len(p) == longest for p in prompts):
            raise RuntimeError("planted")
        return read(self, prompts)

    monkeypatch.setattr(generation.Reader, "read", fails)
    facts, _, rows = run(models, tmp_path / "failed")
    assert 0 < len(longest_rows) < 7 and [i for i, r in enumerate(rows) if r["status"] == "error"] == longest_rows
    first = rows[longest_rows[0]]
    assert "planted" in first["error"] and first["label_scores"] == []
    assert Predicted.of(facts).failed == {"candidate": len(longest_rows)}, "which stop the evaluation"
    assert all(row["text"] == undisturbed[i]["text"] for i, row in enumerate(rows) if i not in longest_rows)
    assert "one by one" in capsys.readouterr().err
    monkeypatch.setattr(generation.Reader, "read", read)
    facts, measured, mended = run(models, tmp_path / "failed")
    assert measured["answers"] == {"known": 7 - len(longest_rows), "asked": len(longest_rows)}
    assert [r["text"] for r in mended] == [r["text"] for r in undisturbed] and Predicted.of(facts).failed == {
        "candidate": 0
    }


GOOD = {"url": "http://127.0.0.1:8000/v1", "base": "base", "candidate": "triage-{version}"}


@pytest.mark.parametrize(
    ("change", "method", "said"),
    [
        ({"endpoint": None}, "lora", "endpoint: {url, base, candidate} is missing"),
        ({"engine": "transformers"}, "lora", "engine is transformers, but the endpoint is unused"),
        ({"endpoint": {**GOOD, "url": "http://models.example/v1"}}, "lora", "sent unencrypted"),
        ({"endpoint": {**GOOD, "url": "https://u:p@models.example/v1"}}, "lora", "contains credentials"),
        ({"endpoint": {**GOOD, "candidate": "triage"}}, "lora", "same name for every version"),
        ({"endpoint": {**GOOD, "champion": "best"}}, "lora", "same name for every version"),
        ({}, "prefix", "cannot load a trained prefix"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_in_the_spec(tmp_path, change, method, said) -> None:
    settings = {"engine": "endpoint", "endpoint": GOOD, **change}
    findings = check_all(spec(evaluation=settings, training={"method": method}), tmp_path)
    assert [f for f in findings if f.severity == "error" and said in f.message], [str(f) for f in findings]
