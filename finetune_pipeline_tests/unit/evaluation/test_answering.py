"""A model asked through the cache: a rerun asks nothing; whatever an answer follows from, when it changes, is asked anew."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.evaluation import answering
from finetune_pipeline.evaluation.answer_cache import AnswerCache, cache_file
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.jobs import KeptAnswers, ModelSet, PredictJob, Prompt
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.test_soft_prompts import soft


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("answering")
    make_tiny_model(root / "base")
    make_tiny_model(root / "tuned", seed=5)
    write_tiny_examples(root / "rows.jsonl", range(9))
    write_tiny_examples(root / "more.jsonl", range(12))
    return root


def run(models: Path, root: Path, **changed: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """({known, asked}, rows)."""
    settings = {
        "sets": [ModelSet(name="base", model=models / "base"), ModelSet(name="candidate", model=models / "tuned")],
        "examples": models / "rows.jsonl", "labels": LABELS, "max_new_tokens": 4, "batch_size": 4,
        "answers": KeptAnswers(file=cache_file(root / "kept"), limit_mib=8),
        **changed,
    }  # fmt: skip
    _, measured = predict(PredictJob(out=root / "out", **settings))
    return measured["answers"], read_predictions(root / "out" / "predictions.parquet")


def test_a_rerun_loads_no_model_and_new_rows_alone_are_asked(models, tmp_path, monkeypatch) -> None:
    facts, rows = run(models, tmp_path)
    assert facts == {"known": 0, "asked": 18}
    assert len({tuple(r["label_scores"]) for r in rows}) == 18, "base and candidate answer apart"
    first = (tmp_path / "out" / "predictions.parquet").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(answering, "load_for_prediction", None)
        assert run(models, tmp_path) == ({"known": 18, "asked": 0}, rows)
    assert (tmp_path / "out" / "predictions.parquet").read_bytes() == first
    facts, after = run(models, tmp_path, examples=models / "more.jsonl")
    assert facts == {"known": 18, "asked": 6}
    known_pairs = {(r["model"], r["example_id"]) for r in rows}
    assert [r for r in after if (r["model"], r["example_id"]) in known_pairs] == rows
    _, uncached = run(models, tmp_path, examples=models / "more.jsonl", answers=None)  # new rows equal uncached ones
    for cached_row, uncached_row in zip(after, uncached, strict=True):
        assert cached_row["text"] == uncached_row["text"]
        assert cached_row["label_scores"] == pytest.approx(uncached_row["label_scores"], abs=1e-4)


def test_what_changes_an_answer_is_no_hit(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(shutil.copytree(models / "base", tmp_path / "base"))
    base_only = {"sets": [ModelSet(name="base", model=base)]}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "billing"}]
    prefix = soft(models / "base", tmp_path / "prefix", "prefix", size=1.0)
    of_test = KeptAnswers(file=cache_file(tmp_path / "kept", test_of="t"), limit_mib=8)

    def known(**changed: Any) -> int:
        facts, _ = run(models, tmp_path, **{**base_only, **changed})
        assert facts["known"] + facts["asked"] == 9
        return facts["known"]

    assert (known(), known()) == (0, 9)
    for changed in (
        {"labels": [*LABELS, "other"]},
        {"labels": LABELS[::-1]},
        {"max_new_tokens": 5},
        {"answers": of_test},
        {"sets": [ModelSet(name="base", model=base, prompt=Prompt(turns=turns))]},
        {"sets": [ModelSet(name="base", model=base, adapter=prefix)]},
    ):
        assert known(**changed) == 0, changed
    assert (known(sets=[ModelSet(name="base", model=base, adapter=prefix)]), known()) == (9, 9)
    for name, changed_function in (("version", lambda _: "9.9"), ("_device_name", lambda: "another accelerator")):
        with monkeypatch.context() as patch:
            patch.setattr(answering.importlib.metadata if name == "version" else answering, name, changed_function)
            assert known() == 0, name
    weights, template = base / "model.safetensors", base / "chat_template.jinja"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # one number of one tensor, the file's size as it was
    assert known() == 0
    template.write_text("\n" + template.read_text())
    assert known() == 0


def test_a_run_cut_off_goes_on_to_the_same_bits(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, undisturbed = run(models, tmp_path, answers=None)
    original_keep = AnswerCache.keep
    times: list[int] = []

    def die(self: AnswerCache, answers: Any) -> None:
        times.append(len(answers))
        original_keep(self, answers)
        if len(times) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(AnswerCache, "keep", die)
    with pytest.raises(KeyboardInterrupt):
        run(models, tmp_path)
    monkeypatch.setattr(AnswerCache, "keep", original_keep)
    facts, resumed = run(models, tmp_path)
    assert facts == {"known": sum(times), "asked": 18 - sum(times)} and sum(times) == 8
    assert resumed == undisturbed
