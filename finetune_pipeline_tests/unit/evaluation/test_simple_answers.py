"""Simple models that read the base model's hidden states: fitted by the baseline, read by the test, each text once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.predict import baseline, predict
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.simple_models import FITTED, load_simple_model
from finetune_pipeline.evaluation.simple_models.encoders import base_encoder, sentence_encoder
from finetune_pipeline.evaluation.simple_models.hidden import HiddenStates
from finetune_pipeline.evaluation.simple_models.text_encoder import MAX_TOKENS, open_text_encoder, open_tokenizer
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import BaselineJob, ModelSet, PredictJob, SimpleSettings
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, make_tiny_tokenizer, write_tiny_examples

TEXTS = ["my invoice is wrong", "a", "", "the app crashes when I save, and how do I add a user <|im_end|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simple_answers")
    make_tiny_model(root / "base", layers=6)
    make_tiny_model(root / "other", layers=6, seed=9)
    write_tiny_examples(root / "train.jsonl", range(45))
    write_tiny_examples(root / "validation.jsonl", range(45, 60))
    return root


def no_model() -> NoReturn:
    raise AssertionError("every vector is stored: no model is needed")


def test_a_vector_is_the_mean_of_a_layers_states_however_texts_are_batched(folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    vectors = open_text_encoder(folder / "base", "float32").vectors(TEXTS, [2, 4])
    model, tokenizer = AutoModel.from_pretrained(folder / "base"), AutoTokenizer.from_pretrained(folder / "base")
    for text, of_text in zip(TEXTS[:2], vectors, strict=False):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        for layer, vector in zip((2, 4), of_text, strict=True):
            np.testing.assert_allclose(vector, states[layer][0].mean(0).numpy(), atol=1e-5)
    assert not vectors[2].any() and vectors[3].any(), "a text without tokens has no vector"


def test_each_text_is_read_once(folder: Path, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite", 8)
    first = base_encoder(folder / "base", "float32", cache=cache).vectors(TEXTS, [2, 4])
    known = base_encoder(folder / "base", "float32", no_model, cache)
    np.testing.assert_array_equal(known.vectors(TEXTS[::-1], [4]), first[::-1, 1:])
    for texts, model, dtype in ((["new"], "base", "float32"), (TEXTS, "other", "float32"), (TEXTS, "base", "bfloat16")):
        with pytest.raises(AssertionError):
            base_encoder(folder / model, dtype, no_model, cache).vectors(texts, [4])
    assert known.cut([*TEXTS, "x " * 2 * MAX_TOKENS]) == 1


def test_the_test_is_answered_by_the_models_that_the_baseline_fitted(folder: Path, tmp_path: Path) -> None:
    output = {"kind": "labels", "labels": LABELS}
    common = {"labels": LABELS, "max_new_tokens": 2, "batch_size": 8, "train": folder / "train.jsonl"}
    encoder = str(folder / "other")  # any transformer
    settings = SimpleSettings(output=output, seed=0, base=folder / "base", encoder=encoder)
    examples = folder / "validation.jsonl"
    facts, measured = baseline(
        BaselineJob(base=folder / "base", shots=[0], seed=0, out=tmp_path, examples=examples, simple=settings, **common)
    )
    (tmp_path / "test").mkdir()
    fitted = SimpleSettings(output=output, seed=0, base=folder / "base", encoder=encoder, fitted=tmp_path / FITTED)
    candidate = [ModelSet(name="candidate", model=folder / "other")]
    predict(PredictJob(sets=candidate, out=tmp_path / "test", examples=examples, simple=fitted, **common))
    validation, test = (read_predictions(path / "predictions.parquet") for path in (tmp_path, tmp_path / "test"))
    gold = [e.label for e in read_examples(examples)]
    for name in ("linear", "embeddings", "hidden", "stack"):
        rows = of_model(validation, f"simple_{name}")
        assert rows == of_model(test, f"simple_{name}") and [row["gold"] for row in rows] == gold
        cost = measured["simple"][name]
        assert cost["fit_seconds"] > 0 and cost["p95"] >= cost["p50"] > 0 and cost["megabytes"] > 0
    assert sum(row["text"] == row["gold"] for row in of_model(test, "simple_hidden")) >= 12, "the tickets repeat"
    vectors = facts.vectors
    assert {source: (of["training_rows"], of["cut"]) for source, of in vectors.items()} == dict.fromkeys(
        vectors, (45, 0)
    )
    assert set(vectors) == {"base", "encoder"} and vectors["encoder"]["name"] == encoder


def test_a_sentence_encoder_is_a_transformer_or_a_table_and_is_said_to_be_missing(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    make_tiny_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # as model2vec writes one
    table = np.arange(4000, dtype=np.float32).reshape(400, 10)
    save_file({"embeddings": table}, tmp_path / "model.safetensors")
    static, transformer = (sentence_encoder(str(path), "float32") for path in (tmp_path, folder / "base"))
    assert (static.identity["dtype"], static.depth) == ("static", 1)
    assert (transformer.identity["dtype"], transformer.depth) == ("float32", 6)
    ids = open_tokenizer(tmp_path).encode("my invoice").ids
    np.testing.assert_allclose(static.vectors(["my invoice"], [1])[0, 0], table[ids].mean(axis=0), rtol=1e-6)
    with pytest.raises(FileNotFoundError, match="nowhere has no tokenizer.json"):
        sentence_encoder(str(tmp_path / "nowhere"), "float32")


def test_a_saved_model_finds_the_base_it_was_fitted_with_and_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_pipeline.evaluation.simple_models import Shared
    from finetune_pipeline.spec.outputs import LabelsOutput

    encoders = {"base": base_encoder(folder / "base", "float32")}
    train = read_examples(folder / "train.jsonl")
    texts, labels = [e.user_text for e in train], [str(e.label) for e in train]
    model = HiddenStates().fit(texts, labels, LabelsOutput(labels=LABELS), 0, Shared(encoders))
    model.save(tmp_path)
    loaded = load_simple_model(tmp_path, encoders)
    assert loaded.predict(texts) == model.predict(texts) and loaded.probabilities(texts) == model.probabilities(texts)
    assert _most_likely(loaded.probabilities(texts) or []) == loaded.predict(texts)
    other = load_simple_model(tmp_path, {"base": base_encoder(folder / "other", "float32")})
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    with pytest.raises(
        OutsideError, match="reads vectors of base with the digest .* which is not in .*/home/artifacts"
    ):
        other.predict(texts)
    for name in ("other", "base"):
        monkeypatch.setenv("BASE_FOLDER", str(folder / name))
        if name == "other":
            with pytest.raises(OutsideError, match="BASE_FOLDER"):
                other.predict(texts)
    assert other.predict(texts) == model.predict(texts)
    assert json.loads((tmp_path / "fitted.json").read_text())["encodings"]["hidden"]["layer"] in (2, 3, 4)


def _most_likely(rows: Sequence[dict[str, float]]) -> list[str]:
    return [max(row, key=lambda label: row[label]) for row in rows]
