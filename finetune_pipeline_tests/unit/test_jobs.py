"""Jobs are the same in the child, and a wrong field fails where the job is made or read."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from finetune_pipeline.jobs import (
    BaseJob,
    KeptAnswers,
    ModelSet,
    Perturbed,
    PredictJob,
    Prompt,
    TrainJob,
    job_fields,
    job_of,
    read_job,
    write_job,
)
from finetune_pipeline.spec.training import TrainingSpec

FOLDER = Path("/place")
TRAINING: dict[str, Any] = {
    "out": FOLDER / "out", "work": FOLDER / "work", "base": FOLDER / "base", "train": FOLDER / "t.jsonl",
    "validation": FOLDER / "v.jsonl", "settings": TrainingSpec(method="lora"),
}  # fmt: skip


def predict_job(**changes: Any) -> PredictJob:
    base = ModelSet(name="base", model=FOLDER / "base", prompt=Prompt(shots=2))
    perturbed = base.on_perturbed(Perturbed(kind="courtesy", rows=7, seed=3))
    usual: dict[str, Any] = {"sets": [base, perturbed, base.on_file("production", FOLDER / "p.jsonl")]}
    usual |= {"answers": KeptAnswers(file=FOLDER / "answers.sqlite", limit_mib=8), "labels": ["yes", "no"]}
    usual |= {"examples": FOLDER / "e.jsonl", "max_new_tokens": 4, "batch_size": 2, "out": FOLDER / "out"}
    return PredictJob(**usual | changes)


def test_the_child_reads_the_job_that_was_written(tmp_path: Path) -> None:
    training = TrainJob(**TRAINING, steps_before=12)
    for job in (training, predict_job(), BaseJob(base_model="org/name", revision=None, out=FOLDER / "out")):
        write_job(tmp_path / "new" / "job.json", job)
        assert read_job(tmp_path / "new" / "job.json") == job == job_of(job_fields(job))
    assert [s.name for s in predict_job().sets] == ["base", "base:courtesy", "base:production"]
    assert [s.likelihoods for s in predict_job().sets] == [True, False, False]


def test_paths_are_absolute_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path / "job.json", TrainJob(**TRAINING | {"base": Path("base")}))
    job = read_job(tmp_path / "job.json")
    assert isinstance(job, TrainJob) and job.base == tmp_path / "base"


def test_missing_and_misspelt_fields_fail_where_they_are_written() -> None:
    with pytest.raises(TypeError, match="validation"):
        TrainJob(**{name: value for name, value in TRAINING.items() if name != "validation"})
    with pytest.raises(TypeError, match="validaton"):
        TrainJob(**TRAINING, validaton=FOLDER)
    with pytest.raises(ValueError, match="two sets have the same name: base, base"):
        predict_job(sets=[ModelSet(name="base", model=FOLDER)] * 2)


def test_what_json_cannot_hold_fails_where_the_job_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a job cannot contain <object"):
        write_job(tmp_path / "job.json", TrainJob(**TRAINING | {"classes": [object()]}))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_before": 3}, "unknown field `step_before`"),
        ({"steps_before": "3"}, r"Expected `int`, got `str` - at `\$\.steps_before`"),
        ({"action": "trian"}, "Invalid value 'trian'"),
        ({"work": None}, r"Expected a Path as text, got None - at `\$\.work`"),
        ({"start_from": 3}, r"Expected a Path as text, got 3 - at `\$\.start_from`"),
    ],
)
def test_a_job_file_with_a_wrong_field_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        job_of(job_fields(TrainJob(**TRAINING)) | changes)
