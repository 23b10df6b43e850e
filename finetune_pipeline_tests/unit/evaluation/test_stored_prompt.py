"""A champion that is a simple model or a prompt answers the test as it did when it was shipped, from its own files."""

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.evaluation.correctness import likelihood_row
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.stored_prompt import PROMPT, StoredPrompt, read_stored_prompt
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import FittedSet, ModelSet, PredictJob, Prompt
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples

SCHEMA = {"type": "object", "properties": {"label": {"enum": LABELS}}, "required": ["label"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stored")
    make_tiny_model(root / "base")
    write_tiny_examples(root / "train.jsonl", range(30))
    write_tiny_examples(root / "other_rows.jsonl", range(60, 90))
    write_tiny_examples(root / "validation.jsonl", range(30, 37))
    return root


def predicted(folder: Path, out: Path, *sets: ModelSet, **more: Any) -> dict[str, list[dict[str, Any]]]:
    usual = {"examples": folder / "validation.jsonl", "labels": LABELS, "max_new_tokens": 12, "batch_size": 3}
    predict(PredictJob(sets=list(sets), out=out, **usual | more))
    rows = read_predictions(out / "predictions.parquet")
    return {name: of_model(rows, name) for name in dict.fromkeys(row["model"] for row in rows)}


def texts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def test_a_prompt_answers_from_its_own_rows_and_not_from_those_of_the_next_run(folder: Path, tmp_path: Path) -> None:
    stored = StoredPrompt(name="2_nearest", prompt=Prompt(retrieved=2), labels=LABELS)
    stored.write(tmp_path / "shipped", folder / "train.jsonl", folder)
    base = ModelSet(name="base", model=folder / "base", prompt=Prompt(retrieved=2))
    champion = ModelSet(name="champion", model=folder / "base", stored=tmp_path / "shipped")
    then = predicted(folder, tmp_path / "then", base, train=folder / "train.jsonl")
    now = predicted(folder, tmp_path / "now", base, champion, train=folder / "other_rows.jsonl")
    assert texts(now["champion"]) == texts(then["base"]) != texts(now["base"])
    assert [row["prompt_tokens"] for row in now["champion"]] == [row["prompt_tokens"] for row in then["base"]]
    assert list(now) == ["base", "champion"] and stored.holds_rows


def test_a_prompt_with_restricted_labels_answers_the_likeliest_of_its_own_labels(folder: Path, tmp_path: Path) -> None:
    stored = StoredPrompt(name="zero_shot", prompt=Prompt(), mode="restricted", labels=LABELS)
    stored.write(tmp_path / "shipped", folder, folder)
    assert not stored.holds_rows and [p.name for p in (tmp_path / "shipped").iterdir()] == [PROMPT]
    base = ModelSet(name="base", model=folder / "base")
    champion = ModelSet(name="champion", model=folder / "base", stored=tmp_path / "shipped")
    on_file = champion.on_file("production", folder / "other_rows.jsonl")
    rows = predicted(folder, tmp_path / "out", base, champion, on_file)
    expected = [likelihood_row(row, LABELS)["text"] for row in rows["base"]]
    assert texts(rows["champion"]) == expected and set(expected) <= set(LABELS)
    assert set(texts(rows["champion:production"])) <= set(LABELS) and len(rows["champion:production"]) == 30
    later = predicted(folder, tmp_path / "later", champion, labels=["new", *LABELS])
    assert texts(later["champion"]) == expected, "a label that was added since is none of its own"


def test_a_prompt_with_restricted_json_answers_as_its_restricted_rows_did(folder: Path, tmp_path: Path) -> None:
    stored = StoredPrompt(name="zero_shot", prompt=Prompt(), mode="restricted", json_schema=SCHEMA)
    stored.write(tmp_path / "shipped", folder, folder)
    base = ModelSet(name="base", model=folder / "base", restricted=SCHEMA)
    champion = ModelSet(name="champion", model=folder / "base", stored=tmp_path / "shipped")
    rows = predicted(folder, tmp_path / "out", base, champion, labels=[], max_new_tokens=40)
    assert list(rows) == ["base", "base_restricted", "champion"]
    assert texts(rows["champion"]) == texts(rows["base_restricted"]) != texts(rows["base"])


def test_restricted_answers_that_cannot_be_had_stop_the_comparison(folder: Path, tmp_path: Path) -> None:
    schema = {"type": "string", "not": {"const": "x"}}
    stored = StoredPrompt(name="zero_shot", prompt=Prompt(), mode="restricted", json_schema=schema)
    stored.write(tmp_path / "shipped", folder, folder)
    champion = ModelSet(name="champion", model=folder / "base", stored=tmp_path / "shipped")
    with pytest.raises(JobError, match="the prompt in service answers restricted to the allowed forms"):
        predicted(folder, tmp_path / "out", champion, labels=[])


def test_a_fitted_model_answers_the_test_and_other_rows(folder: Path, tmp_path: Path) -> None:
    train = read_examples(folder / "train.jsonl")
    output = LabelsOutput(labels=LABELS)
    model = fit_simple_models([e.user_text for e in train], [e.answer for e in train], output)["nearest"]
    model.save(tmp_path / "nearest")
    champion = FittedSet(name="champion", folder=tmp_path / "nearest")
    fitted = [champion, champion.on_file("production", folder / "train.jsonl")]
    rows = predicted(folder, tmp_path / "out", ModelSet(name="base", model=folder / "base"), fitted=fitted)
    expected = model.predict([e.user_text for e in read_examples(folder / "validation.jsonl")])
    assert texts(rows["champion"]) == expected
    assert texts(rows["champion:production"]) == [e.answer for e in train]


def test_a_damaged_prompt_is_told(tmp_path: Path) -> None:
    StoredPrompt(name="zero_shot", prompt=Prompt()).write(tmp_path / "shipped", tmp_path, tmp_path)
    (tmp_path / "shipped" / PROMPT).write_text('{"name": 3}')
    with pytest.raises(DamagedFile, match=r"prompt\.json"):
        read_stored_prompt(tmp_path / "shipped")
