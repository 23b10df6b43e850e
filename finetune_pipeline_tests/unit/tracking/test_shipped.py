"""Simple models and prompts in a real registry: loaded by MLflow they answer as served, and can be forgotten."""

import functools
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.engine.files import digest_file, digest_json
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.serving import loading
from finetune_pipeline.serving.prompted_model import ServedPrompt
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline.tracking import registration, registry
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model
from finetune_pipeline_tests.unit.tracking.test_registry import (
    PROMPT,
    killed_after,
    new_run,
    register,
    release_request,
    texts,
)

ROWS = ["my invoice is wrong", *(f"about {label.replace('_', ' ')} number 4" for label in LABELS)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "base")


def fitted(folder: Path) -> Path:
    """A linear model that tells the labels by their first words."""
    rows = [(f"{label.replace('_', ' ')} number {i}", label) for i in range(8) for label in LABELS]
    output = LabelsOutput(labels=LABELS)
    folder.mkdir(parents=True)
    fit_simple_models([t for t, _ in rows], [a for _, a in rows], output)["linear"].save(folder)
    return folder


def training_rows(file: Path) -> Path:
    rows = [
        Example(
            f"{i:016x}", [{"role": "user", "content": f"{label} case {i}"}, {"role": "assistant", "content": label}]
        )
        for i, label in enumerate(LABELS * 4)
    ]
    write_examples(file, rows)
    return file


def prompted(folder: Path, mode: str = "free", retrieved: int = 2) -> Path:
    turns = [{"role": "user", "content": "Mary Miller's invoice"}, {"role": "assistant", "content": LABELS[0]}]
    prompt = Prompt(retrieved=retrieved) if retrieved else Prompt(shots=1, ids=["0"], turns=turns)
    stored = StoredPrompt(name="shown", prompt=prompt, mode=mode, labels=LABELS)  # type: ignore[arg-type]
    folder.parent.mkdir()
    stored.write(folder, training_rows(folder.with_suffix(".jsonl")), folder)
    return folder


def register_shipped(tracking: Tracking, base: Path, kind: str, folder: Path, adapter: str = "aaaa") -> int:
    files = {path.name: digest_file(path) for path in folder.iterdir()}
    shipped: dict[str, Any] = {"winner_kind": kind, "shipped": folder, "files": files}
    request = release_request(base, adapter, adapter=base, merged=base, base=base, **shipped)
    tags = {"gates": "passed", "winner_kind": kind, "winner_name": "n", "files_digest": digest_json(files)}
    tags |= {"dataset_version": "d", "holds_rows": "true"}
    return registration.register(tracking, request, run_id=new_run(tracking), tags=tags)


def answers(served: loading.AnyServed) -> list[str]:
    loaded = loading.load(served)
    return [loaded.answer([{"role": "user", "content": row}], None, Event()).text.strip() for row in ROWS]


def test_a_registered_simple_model_answers_as_the_served_one_without_pickle(
    tracking: Tracking, base: Path, tmp_path: Path, load: Any
) -> None:
    folder = fitted(tmp_path / "simple" / "shipped")
    number = register_shipped(tracking, base, "simple", folder)
    expected = answers(ServedSimple("tickets", folder, PROMPT))
    assert len(set(expected)) > 1
    assert load(tracking, f"models:/tickets/{number}").predict(texts(*ROWS)) == expected
    import mlflow

    pipeline = mlflow.sklearn.load_model(f"models:/tickets/{number}")
    assert pipeline.predict(ROWS).tolist() == expected, "MLflow's own flavour"
    stored = [path for path in (tracking.place() / "artifacts").rglob("*") if path.is_file()]
    assert not [path for path in stored if path.suffix in (".pkl", ".pickle", ".safetensors")]
    packages = next(p for p in stored if p.name == "requirements.txt").read_text()
    assert "skops" in packages and "torch" not in packages
    (model,) = [path for path in stored if path.name == "model.skops"]
    model.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"other files than those that were registered: model\.skops"):
        load(tracking, f"models:/tickets/{number}")


@pytest.mark.parametrize(("mode", "retrieved"), [("free", 0), ("free", 2), ("restricted", 2)])
def test_a_registered_prompt_answers_as_the_served_one(
    tracking: Tracking, base: Path, tmp_path: Path, load: Any, mode: str, retrieved: int
) -> None:
    folder = prompted(tmp_path / "prompt" / "shipped", mode, retrieved)
    number = register_shipped(tracking, base, "prompt", folder)
    expected = answers(ServedPrompt("tickets", base, folder, PROMPT, 8))
    assert load(tracking, f"models:/tickets/{number}").predict(texts(*ROWS)) == expected
    if mode == "restricted":
        assert set(expected) <= set(LABELS)
    else:
        assert not set(expected) <= set(LABELS), "a random model writes anything"


def test_one_run_that_is_judged_again_may_ship_another_kind_but_what_was_promoted_stays(
    tracking: Tracking, base: Path, tmp_path: Path
) -> None:
    simple, prompt = fitted(tmp_path / "simple" / "shipped"), prompted(tmp_path / "prompt" / "shipped")
    assert register(tracking, base, gates="failed", adapter=base, merged=base, base=base) == 1
    assert register_shipped(tracking, base, "simple", simple) == 2, "the version of the trained model has other files"
    assert register_shipped(tracking, base, "simple", simple) == 2, "a rerun makes no new candidate"
    assert registry.version_of(tracking, "tickets", "aaaa") == 2
    registry.promote(tracking, "tickets", 2)
    assert register_shipped(tracking, base, "prompt", prompt) == 2, "what was promoted is decided"
    assert registry.version_of(tracking, "tickets", "aaaa") == 2
    assert register_shipped(tracking, base, "prompt", prompt, "bbbb") == 3
    assert registry.promote(tracking, "tickets", 3) == 2 and registry.rollback(tracking, "tickets") == 2


def stored(tracking: Tracking) -> list[str]:
    """The files of simple models and prompts in MLflow."""
    files = (p for p in (tracking.place() / "artifacts").rglob("*") if p.is_file())
    return sorted(p.name for p in files if p.parent.name == "shipped")


def test_the_files_of_models_with_forgotten_rows_are_removed_and_none_of_these_serves(
    tracking: Tracking, base: Path, tmp_path: Path
) -> None:
    for kind, adapter, make in (
        ("simple", "aaaa", fitted),
        ("prompt", "bbbb", lambda path: prompted(path, retrieved=0)),
    ):
        registry.promote(
            tracking, "tickets", register_shipped(tracking, base, kind, make(tmp_path / kind / "shipped"), adapter)
        )
    register_shipped(tracking, base, "simple", fitted(tmp_path / "other" / "shipped"), "cccc")
    tracking.client().set_model_version_tag("tickets", "3", "dataset_version", "clean")

    assert stored(tracking) == ["fitted.json", "fitted.json", "model.skops", "model.skops", "prompt.json"]
    assert registry.block_forgotten(tracking, "tickets", ["d"]) == [1, 2]
    assert registry.remove_forgotten(tracking, "tickets", ["d"]) == [1, 2]
    assert registry.aliases(tracking, "tickets") == {"candidate": 3}
    assert stored(tracking) == ["fitted.json", "model.skops"], "the other data were not forgotten"
    assert registry.remove_forgotten(tracking, "tickets", ["d"]) == [], "again: nothing is left"
    assert registry.promote(tracking, "tickets", 3) is None
    for number in (1, 2):
        with pytest.raises(ValueError, match="forgotten since"):
            registry.promote(tracking, "tickets", number)


def test_a_clean_champion_serves_on_when_the_one_before_it_is_removed(
    tracking: Tracking, base: Path, tmp_path: Path
) -> None:
    for adapter in ("aaaa", "bbbb"):
        folder = fitted(tmp_path / adapter / "shipped")
        number = register_shipped(tracking, base, "simple", folder, adapter)
        if adapter == "bbbb":
            tracking.client().set_model_version_tag("tickets", str(number), "dataset_version", "clean")
        registry.promote(tracking, "tickets", number)
    assert registry.remove_forgotten(tracking, "tickets", ["d"]) == [1]
    assert registry.aliases(tracking, "tickets") == {"candidate": 2, "champion": 2}


def test_a_removal_killed_at_any_write_is_completed_when_it_is_repeated(
    tracking: Tracking, base: Path, tmp_path: Path
) -> None:
    """From a simple champion and a prompt before it: with the registry as it was, and files that may be gone already."""
    for kind, adapter, make in (
        ("prompt", "aaaa", lambda path: prompted(path, retrieved=0)),
        ("simple", "bbbb", fitted),
    ):
        folder = make(tmp_path / kind / "shipped")
        registry.promote(tracking, "tickets", register_shipped(tracking, base, kind, folder, adapter))
    database = tracking.place() / "mlflow.db"
    before, counts = database.read_bytes(), []
    remove = functools.partial(registry.remove_forgotten, tracking, "tickets", ["d"])
    while killed_after(len(counts), remove):
        remove()
        assert (registry.aliases(tracking, "tickets"), stored(tracking)) == ({"candidate": 2}, []), len(counts)
        database.write_bytes(before)
        counts.append(len(counts))
    assert len(counts) == 4, "two aliases and two tags"
