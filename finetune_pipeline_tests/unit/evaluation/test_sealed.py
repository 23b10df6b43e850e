"""The door to the sealed test: who went through is on record, nobody else gets in, and a used test stays used."""

import json
import os
import resource
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import SealedError, read_examples, seal, seal_key, write_examples
from finetune_pipeline.evaluation import sealed
from finetune_pipeline.evaluation.sealed import (
    LEDGER,
    TEST_SETS,
    Judgement,
    look_number,
    open_sealed,
    openings,
    seal_of,
)
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.training.sft import train
from finetune_pipeline.worker.process import EXIT_CONFIG
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.data.rows import example
from finetune_pipeline_tests.unit.evaluation.rows import spec
from finetune_pipeline_tests.unit.training.jobs import finish, start

KEY = seal_key(b"k" * 32)


def _sealed(folder: Path, ids: range) -> Path:
    path = folder / f"sealed-{ids.start}-{ids.stop}.jsonl"
    write_examples(path, [example(f"text number {i}", "yes") for i in ids])
    path.write_bytes(seal(path.read_bytes(), KEY))
    return path


def _opened(folder: Path, judgement: Judgement | str, ids: range, test: str = "t1", key: bytes = KEY) -> Any:
    judgement = _judged(judgement) if isinstance(judgement, str) else judgement
    return open_sealed(_sealed(folder, ids), folder, folder / "work", key, test=test, judgement=judgement, reason="why")


def _judged(candidate: str, metric: str = "accuracy", rules: str | None = "r1") -> Judgement:
    return Judgement(candidate, metric, rules)


def _open(folder: Path, candidate: str, ids: range = range(10), test: str = "t1") -> list[str]:
    with _opened(folder, candidate, ids, test) as rows:
        assert stat.S_IMODE(os.stat(rows).st_mode) == 0o600
        return [e.id for e in read_examples(rows)]


def test_an_opening_is_recorded_and_the_copy_is_gone_afterwards(tmp_path: Path) -> None:
    ids = _open(tmp_path, "c1")
    assert len(set(ids)) == 10
    assert list((tmp_path / "work").iterdir()) == []
    (row,) = openings(tmp_path, "t1")
    assert (row["candidate"], row["test"], row["reason"], row["shared"]) == ("c1", "t1", "why", 1.0)
    assert row["who"] and row["time"].endswith("+00:00") and "rows" not in row


def test_another_key_opens_nothing_and_records_nothing(tmp_path: Path) -> None:
    with pytest.raises(SealedError), _opened(tmp_path, "c", range(3), key=seal_key(b"x")):
        pass
    assert not (tmp_path / LEDGER).exists()


def test_the_record_is_written_before_the_rows_are_handed_out(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _opened(tmp_path, "c", range(5), "t") as rows:
        assert len(openings(tmp_path, "t")) == 1 and rows.exists()
        raise KeyboardInterrupt
    assert not rows.exists()
    _open(tmp_path, "c", range(5), "t")  # a rerun after a kill is the same look
    assert len(openings(tmp_path, "t")) == 1


def test_a_candidate_keeps_its_number_and_others_get_the_next(tmp_path: Path) -> None:
    for candidate in ("c1", "c2", "c1", "c3"):
        _open(tmp_path, candidate)
    listed = openings(tmp_path, "t1")
    assert [row["candidate"] for row in listed] == ["c1", "c2", "c3"]
    assert [look_number(listed, _judged(c)) for c in ("c1", "c2", "c3", "new")] == [1, 2, 3, 4]
    assert look_number([], _judged("c1")) == 1


def test_judging_a_candidate_by_another_metric_or_other_rules_is_another_look(tmp_path: Path) -> None:
    first, by_metric, by_rules = _judged("c1"), _judged("c1", "macro_f1"), _judged("c1", rules="r2")
    for judgement in (first, _judged("c2"), by_metric, first, by_rules, by_rules):
        with _opened(tmp_path, judgement, range(10)):
            pass
    listed = openings(tmp_path, "t1")
    assert [(row["candidate"], row["metric"], row["rules"]) for row in listed] == [
        ("c1", "accuracy", "r1"), ("c2", "accuracy", "r1"), ("c1", "macro_f1", "r1"), ("c1", "accuracy", "r2"),
    ]  # fmt: skip
    looks = (first, _judged("c2"), by_metric, by_rules, _judged("c2", rules="r2"))
    assert [look_number(listed, look) for look in looks] == [1, 2, 3, 4, 5]
    seal = seal_of(listed, 10, 0.5, by_metric, 0.95)
    assert (seal.count, seal.candidates, seal.level.look, seal.recorded) == (4, 2, 3, True)
    without_metric = [{"candidate": "c1"}]  # written by an earlier release
    assert [look_number(without_metric, look) for look in (first, by_metric, by_rules)] == [1, 1, 1]


def test_a_model_that_was_promoted_costs_no_further_look(tmp_path: Path) -> None:
    _open(tmp_path, "c1")
    _open(tmp_path, "c2")
    again = _judged("c1", "macro_f1", rules=None)
    with _opened(tmp_path, again, range(10)):
        pass
    listed = openings(tmp_path, "t1")
    assert [row["candidate"] for row in listed] == ["c1", "c2"] and look_number(listed, again) == 1
    seal = seal_of(listed, 10, 0.5, again, 0.95)
    assert (seal.count, seal.recorded, seal.level.look) == (2, True, 1)
    with _opened(tmp_path, _judged("c3", rules=None), range(10)):
        pass
    assert len(openings(tmp_path, "t1")) == 3, "an opening that nothing on record explains is recorded"


def test_a_few_new_rows_do_not_make_a_used_test_new(tmp_path: Path) -> None:
    for candidate, first, counted in (
        ("c1", 0, ["c1"]),
        ("c2", 2, ["c1", "c2"]),  # eight of ten rows were seen
        ("c3", 6, ["c2", "c3"]),  # six of ten with the second, four of ten with the first
        ("c4", 11, ["c4"]),  # half of its rows were seen by c3, which is not more than half
        ("c5", 100, ["c5"]),
    ):
        _open(tmp_path, candidate, range(first, first + 10), f"test of {candidate}")
        assert [r["candidate"] for r in openings(tmp_path, f"test of {candidate}")] == counted
    assert [r["shared"] for r in openings(tmp_path, "test of c2")] == [0.8, 1.0, 0.6]


def test_a_full_disk_leaves_no_half_of_an_opening(tmp_path: Path) -> None:
    _open(tmp_path, "c1")
    size = (tmp_path / LEDGER).stat().st_size
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))
        try:
            sealed.record_judgement(tmp_path, ["1"], test="t1", judgement=_judged("c2"), reason="why")
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert [row["candidate"] for row in openings(tmp_path, "t1")] == ["c1"]
    _open(tmp_path, "c2")
    assert [row["candidate"] for row in openings(tmp_path, "t1")] == ["c1", "c2"]


@pytest.mark.parametrize(
    "left", [b'{"test": "t1", "ca', b"[1]\n", b'"t1"\n', b'{"test": null}\n', b'{"a": 1}\n', b"", None]
)
@pytest.mark.parametrize("lost", [LEDGER, TEST_SETS])
def test_openings_are_not_guessed(tmp_path: Path, lost: str, left: bytes | None) -> None:
    _open(tmp_path, "c1")
    (path,) = (tmp_path / LEDGER,) if lost == LEDGER else (tmp_path / TEST_SETS).iterdir()
    if left is not None:
        path.write_bytes(left)
    elif lost == LEDGER:
        path.write_bytes(path.read_bytes()[:-9])
    else:
        shutil.rmtree(tmp_path / TEST_SETS)
    with pytest.raises(OutsideError, match=lost):
        openings(tmp_path, "t2", ["1"])


def test_training_that_is_given_the_sealed_test_fails(tmp_path: Path) -> None:
    """A real training job in a process of its own: it ends before anything is learned, and says why."""
    readable, hidden = tmp_path / "plain.jsonl", _sealed(tmp_path, range(4))
    write_examples(readable, [example(f"text {i}", "yes") for i in range(4)])
    settings = spec(training={"method": "lora", "precision": "float32"}).training
    base = make_tiny_model(tmp_path / "base")
    common = {"base": base, "out": tmp_path / "out", "work": tmp_path / "w", "settings": settings}
    with pytest.raises(SealedError):
        train(TrainJob(train=hidden, validation=readable, **common))
    code, _ = finish(start(TrainJob(train=readable, validation=hidden, **common), tmp_path))
    assert code == EXIT_CONFIG, "not a crash, which would be tried again"
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert "is the sealed test. Only test_predictions opens it" in error["message"], error
