"""The prompts that are tried: what a row is shown, and that it is never shown its own answer."""

import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.evaluation.predict import baseline
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.preferences.embeddings import embed
from finetune_pipeline.evaluation.prompts import (
    WITHOUT_LABELS,
    Neighbours,
    Prompt,
    Retriever,
    TrainingRow,
    build_shots,
    conversations,
    prompt_without_labels,
    prompts_to_try,
)
from finetune_pipeline.jobs import BaselineJob
from finetune_pipeline.spec.outputs import TextOutput
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, spec

TEXTS = {
    "bug": ["the map crashes on zoom", "export crashes with an error", "a crash after the update"],
    "billing": ["the invoice shows a wrong sum", "invoice for may is missing", "charged twice on my invoice"],
    "other": ["where are your offices", "do you hire students", "your offices are lovely"],
}


def example(name: str, text: str, answer: str, system: str = "Sort it.") -> Example:
    turns = [("system", system), ("user", text), ("assistant", answer)]
    return Example(name, [{"role": r, "content": c} for r, c in turns], label=answer)


TRAIN = [example(f"{label}{i}", text, label) for label, texts in TEXTS.items() for i, text in enumerate(texts)]
ASKED = example("v1", "it crashes when I zoom the map", "bug")


def contents(messages: list[dict]) -> list[str]:
    return [m["content"] for m in messages]


def test_each_way_of_the_spec_is_tried_under_a_name_of_its_own() -> None:
    more = {"labels": LABELS, "seed": 0, "system_prompt": "Sort it.", "others": ["Be brief."]}
    prompts = prompts_to_try(TRAIN, shots=[0, 2], retrieved=3, **more)
    assert list(prompts) == ["zero_shot", "2_shot", "3_nearest", "prompt_2_zero_shot", "prompt_2_2_shot"]
    assert prompts["prompt_2_2_shot"].turns == prompts["2_shot"].turns != []
    assert "3_nearest" not in prompts_to_try(TRAIN, shots=[0], retrieved=0, labels=LABELS, seed=0)


def test_a_prompt_without_the_list_of_labels_is_tried_where_the_own_prompt_has_one() -> None:
    listing = spec(description="Sort\n tickets.", system_prompt=f"One of {', '.join(LABELS)}.")
    text = prompt_without_labels(listing)
    assert text == "Sort tickets.\nAnswer with the right label and nothing else."
    prompts = prompts_to_try(
        TRAIN, shots=[0, 2], retrieved=0, labels=LABELS, seed=0, system_prompt="Sort it.", without_labels=text
    )
    assert list(prompts) == ["zero_shot", "2_shot", WITHOUT_LABELS]
    ((turns,),) = conversations([ASKED], prompts[WITHOUT_LABELS], None)
    assert contents(turns) == [text, ASKED.user_text]
    for clean in (spec(system_prompt="Sort it."), listing.model_copy(update={"output": TextOutput()})):
        assert prompt_without_labels(clean) == ""


def test_the_nearest_training_examples_are_shown_the_likest_last() -> None:
    (choices,) = conversations([ASKED], Prompt(retrieved=2), Retriever(TRAIN))
    assert [len(c) for c in choices] == [6, 4, 2]
    assert contents(choices[0])[0] == "Sort it." and contents(choices[0])[-1] == ASKED.user_text
    assert contents(choices[0])[-3:-1] == ["the map crashes on zoom", "bug"]
    assert choices[1] == [choices[0][0], *choices[0][3:]]  # with one fewer, the least like row goes


def test_embeddings_find_examples_besides_tfidf() -> None:
    prompts = prompts_to_try(TRAIN, shots=[0], retrieved=2, labels=LABELS, seed=0, embeddings="hashed")
    assert list(prompts) == ["zero_shot", "2_nearest", "2_nearest_embedded"]
    (choices,) = conversations([ASKED], prompts["2_nearest_embedded"], Retriever(TRAIN))
    assert contents(choices[0])[-3:-1] == ["the map crashes on zoom", "bug"]


def test_a_row_is_never_shown_its_own_answer() -> None:
    twin = example("twin", ASKED.user_text, "bug")
    (choices,) = conversations([ASKED], Prompt(retrieved=3), Retriever([*TRAIN, twin]))
    assert contents(choices[0]).count(ASKED.user_text) == 1
    with pytest.raises(ValueError, match="needs the training examples"):
        conversations([ASKED], Prompt(retrieved=3), None)


def test_many_rows_with_its_own_text_do_not_hide_the_others() -> None:
    repeated = [example(f"same{i}", ASKED.user_text, "bug") for i in range(12)]
    (nearest,) = Retriever([*repeated, *TRAIN]).nearest([ASKED], 1)
    assert [shown.user_text for shown in nearest] == ["the map crashes on zoom"]


def test_many_texts_are_compared_with_many_rows_in_little_memory() -> None:
    neighbours = Neighbours([TrainingRow(f"r{i}", f"row number {i}", "x") for i in range(1000)])
    texts = [f"text number {i}" for i in range(4000)]
    tracemalloc.start()
    counts, nearest = neighbours.counts(texts), neighbours.nearest(["row number 7"], 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(counts) == len(texts) and nearest[0].id == "r7"
    assert peak < len(texts) * len(neighbours.rows) * 8 / 2, "not every pair at once"


def test_another_system_prompt_takes_the_place_of_the_tasks_own_and_of_no_other() -> None:
    prompt = Prompt(system="Be brief.", instead_of="Sort it.")
    own_prompt = example("v2", "hello", "other", system="You are a pirate.")
    (replaced,), (unchanged,) = conversations([ASKED, own_prompt], prompt, None)
    assert contents(replaced) == ["Be brief.", ASKED.user_text]
    assert contents(unchanged) == ["You are a pirate.", "hello"]


def test_rows_too_long_for_the_model_are_shown_fewer_and_are_counted(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")  # it reads 1024 tokens, about a byte each
    questions = [example("a", "long story", "bug"), example("b", "tale " * 150, "bug")]
    write_examples(tmp_path / "train.jsonl", [example(f"t{i}", f"{'long story ' * 30}{i}", "bug") for i in range(9)])
    write_examples(tmp_path / "validation.jsonl", questions)
    job = BaselineJob(
        base=base, train=tmp_path / "train.jsonl", examples=tmp_path / "validation.jsonl", shots=[0], retrieved=8, seed=0,
        labels=LABELS, max_new_tokens=3, batch_size=2, out=tmp_path,
    )  # fmt: skip
    facts, _ = baseline(job)
    rows = [r for r in read_predictions(tmp_path / "predictions.parquet") if r["model"] == "8_nearest"]
    assert all(r["status"] != "error" and 300 < r["prompt_tokens"] <= 1021 for r in rows)
    assert facts.prompts["8_nearest"].rows_shown_fewer == 2 and facts.prompts["8_nearest"].retrieved == 8
    assert facts.prompts["zero_shot"].rows_shown_fewer == 0


LABELLED = [SimpleNamespace(id=f"{label}{i}", label=label) for label in LABELS for i in range(20)]
LABEL_OF = {e.id: e.label for e in LABELLED}


def test_shots_are_spread_over_the_labels_and_depend_on_the_seed_alone():
    for k in (0, 3, 7, 8, 30):
        counts = Counter(LABEL_OF[i] for i in build_shots(LABELLED, k, LABELS, 0))
        assert sum(counts.values()) == k and max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
    assert build_shots(LABELLED, 9, LABELS, 1) == build_shots(LABELLED[::-1], 9, LABELS, 1)
    assert build_shots(LABELLED, 9, LABELS, 1) != build_shots(LABELLED, 9, LABELS, 2)
    few = [e for e in LABELLED if e.label != "bug" or e.id == "bug0"]  # the others make up for a rare label
    chosen = build_shots(few, 9, LABELS, 0)
    assert Counter(LABEL_OF[i] for i in chosen) == {"bug": 1, "billing": 4, "other": 4} and len(set(chosen)) == 9
    unlabelled = [SimpleNamespace(id=e.id, label=None) for e in LABELLED]
    assert len(set(build_shots(unlabelled, 8, [], 0))) == 8
    with pytest.raises(ValueError, match="61 shots asked for, but only 60"):
        build_shots(LABELLED, 61, LABELS, 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with embeddings of five words, of which `car` and `auto` point the same way."""
    words = {"[UNK]": 0, "car": 1, "auto": 2, "tree": 3, "red": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vectors = np.array([[0, 0, 0], [1, 0.1, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    save_file({"embeddings": vectors}, tmp_path / "model.safetensors")
    return tmp_path


def test_hashed_texts_of_the_same_words_are_nearer_than_others() -> None:
    vectors = embed(["the invoice shows the wrong total", "wrong total the invoice shows", "reset my password", ""])
    likeness = vectors @ vectors[0]
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0])
    assert likeness[1] > 0.6 and likeness[2] < 0.2


def test_a_folder_with_static_embeddings(model: Path) -> None:
    texts = ["red car", "tree", "red auto", "nothing known", ""]
    vectors = embed(texts, str(model))
    assert vectors.shape == (5, 3) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1, 1, 0, 0])
    assert vectors[0] @ vectors[2] > 0.85 > vectors[0] @ vectors[1]


def test_missing_models_say_what_to_do(tmp_path: Path, model: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json or no \.safetensors.*hashed"):
        embed(["a"], str(tmp_path / "nowhere"))
    (model / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        embed(["a"], str(model))
    save_file({"bias": np.zeros(3, np.float32)}, model / "model.safetensors")
    with pytest.raises(ValueError, match="no table of embeddings"):
        embed(["a"], str(model))
