"""A model asked through the cache: a rerun asks nothing; whatever an answer follows from, when it changes, is asked anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation import answering
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.worker.jobs import kept_answers, predict_job, prompt_set
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answering")
    make_tiny_model(root / "base")
    make_tiny_model(root / "tuned", seed=5)
    write_tiny_examples(root / "rows.jsonl", range(9))
    write_tiny_examples(root / "more.jsonl", range(12))
    return root


def settings(made: Path, root: Path, **changed: Any) -> dict[str, Any]:
    return {
        "sets": [prompt_set(name="base", model=made / "base"), prompt_set(name="candidate", model=made / "tuned")],
        "examples": made / "rows.jsonl",
        "labels": LABELS,
        "max_new_tokens": 4,
        "batch_size": 4,
        "answers": kept_answers(folder=root / "kept", key_file=root / "key", scope="open", limit_mib=8),
        **changed,
    }


def run(made: Path, root: Path, **changed: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """({known, asked}, rows)."""
    _, measured = predict(predict_job(out=root / "out", **settings(made, root, **changed)))
    return measured["answers"], read_predictions(root / "out" / "predictions.parquet")


def test_a_rerun_loads_no_model_and_gives_the_same_table(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, rows = run(made, tmp_path)
    assert told == {"known": 0, "asked": 18}
    first = (tmp_path / "out" / "predictions.parquet").read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(answering, "load_for_prediction", never)
    told, again = run(made, tmp_path)
    assert told == {"known": 18, "asked": 0}
    assert again == rows and (tmp_path / "out" / "predictions.parquet").read_bytes() == first
    assert len({tuple(r["label_scores"]) for r in rows}) == 18, "base and candidate answer apart"


def changed_weights(root: Path) -> None:
    """One number of one tensor, the file's size and everything else as it was."""
    path = root / "base" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def changed_template(root: Path) -> None:
    path = root / "base" / "chat_template.jinja"
    path.write_text("\n" + path.read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [*LABELS, "other"]},
        {"labels": LABELS[::-1]},
        {"max_new_tokens": 5},
        {"scope": "the test of t"},
        {"prompt": {"turns": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "billing"}]}},
        changed_weights,
        changed_template,
        "versions",
        "device",
    ],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_what_changes_an_answer_is_no_hit(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    for name in ("base", "tuned"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copy(made / "rows.jsonl", tmp_path / "rows.jsonl")
    only = {"sets": [prompt_set(name="base", model=tmp_path / "base")]}
    assert run(tmp_path, tmp_path, **only)[0] == {"known": 0, "asked": 9}
    assert run(tmp_path, tmp_path, **only)[0] == {"known": 9, "asked": 0}
    if callable(change):
        change(tmp_path)
    elif change == "versions":
        monkeypatch.setattr(answering.importlib.metadata, "version", lambda name: "9.9")
    elif change == "device":
        monkeypatch.setattr(answering, "_device_name", lambda: "another accelerator")
    elif "prompt" in change:
        only = {"sets": [prompt_set(name="base", model=tmp_path / "base", **change)]}
    elif "scope" in change:
        only["answers"] = kept_answers(folder=tmp_path / "kept", key_file=tmp_path / "key", limit_mib=8, **change)  # type: ignore[assignment]
    else:
        only |= change
    assert run(tmp_path, tmp_path, **only)[0] == {"known": 0, "asked": 9}


def test_a_prefix_in_front_is_another_model(made: Path, tmp_path: Path) -> None:
    from finetune_pipeline_tests.unit.models.test_soft_prompts import soft

    prefix = soft(made / "base", tmp_path / "prefix", "prefix", size=1.0)
    plain = {"sets": [prompt_set(name="base", model=made / "base")]}
    fronted = {"sets": [prompt_set(name="base", model=made / "base", adapter=prefix)]}
    assert run(made, tmp_path, **plain)[0]["known"] == 0
    assert run(made, tmp_path, **fronted)[0]["known"] == 0
    assert run(made, tmp_path, **fronted)[0]["asked"] == 0


def test_new_rows_alone_are_asked(made: Path, tmp_path: Path) -> None:
    _, before = run(made, tmp_path)
    told, after = run(made, tmp_path, examples=made / "more.jsonl")
    assert told == {"known": 18, "asked": 6}
    known = {(r["model"], r["example_id"]): r for r in before}
    assert [r for r in after if (r["model"], r["example_id"]) in known] == before
    # and what is new is what it would have been without a cache
    _, plain = run(made, tmp_path, examples=made / "more.jsonl", answers=None)
    for mine, other in zip(after, plain, strict=True):
        assert mine["text"] == other["text"]
        assert mine["label_scores"] == pytest.approx(other["label_scores"], abs=1e-4)


def test_a_run_cut_off_goes_on_to_the_same_bits(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = run(made, tmp_path, answers=None)
    kept = AnswerCache.keep
    times: list[int] = []

    def die(self: AnswerCache, answers: Any) -> None:
        times.append(len(answers))
        kept(self, answers)
        if len(times) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(AnswerCache, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path)
    monkeypatch.setattr(AnswerCache, "keep", kept)
    told, again = run(made, tmp_path)
    assert told == {"known": sum(times), "asked": 18 - sum(times)} and sum(times) == 8
    assert again == whole
