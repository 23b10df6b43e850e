"""Answers kept by content: the test's apart, safe under kills and many writers, bounded."""

import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation import answer_cache
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.steps.earlier_runs import answers_of

FILE = "answers.sqlite"
SECRET = "the customer's very own words"


def cache(folder: Path, limit: int = 8) -> AnswerCache:
    return AnswerCache(folder / FILE, limit)


def answer(text: str = SECRET, **more: object) -> Answer:
    return Answer(text, label_scores=[-0.1234567890123, -2.5], new_tokens=3, prompt_tokens=9, new_ids=[4, 5, 2], **more)  # type: ignore[arg-type]


def test_what_was_kept_is_found_bit_for_bit(tmp_path: Path) -> None:
    first = cache(tmp_path)
    keys = [first.key([n, "ü\ud800"]) for n in range(1200)]
    first.keep({k: answer(f"{n} 👍 \ud800") for n, k in enumerate(keys[:1100])})
    reopened = cache(tmp_path)
    answers = reopened.find([*keys, keys[0]])
    assert sorted(answers) == [*range(1100), 1200]
    assert answers[7] == answer("7 👍 \ud800") and answers[1200] == answers[0]
    assert (reopened.hits, reopened.misses) == (1101, 100)
    first.keep({first.key(1): Answer(status="error", error="no memory"), first.key(2): Answer(status="empty")})
    assert first.find([first.key(1), first.key(2)]) == {1: Answer(status="empty")}, "failed answers are tried again"


def test_answers_to_the_sealed_test_lie_in_a_file_that_no_other_step_is_given(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    sealed = AnswerCache.of(answers_of(store, "triage"))
    assert sealed is not None
    sealed.keep({sealed.key("what they asked"): answer()})
    assert sealed.find([sealed.key("what they asked")]) == {0: answer()}
    for other in (answers_of(store), answers_of(store, "orders")):
        others = AnswerCache.of(other)
        assert others is not None and others.find([others.key("what they asked")]) == {}
    (holding,) = [file for file in tmp_path.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert holding.name == "test_triage.sqlite" and stat.S_IMODE(holding.stat().st_mode) == 0o600
    assert b"what they asked" not in holding.read_bytes(), "no prompt is kept"


WRITER = """
import sys
from pathlib import Path
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.models.inference.generated import Answer
who, cache = sys.argv[2], AnswerCache(Path(sys.argv[1]) / "answers.sqlite", 8)
for batch in range(int(sys.argv[3])):
    cache.keep({cache.key([who, batch, n]): Answer(f"{who} {batch} {n}") for n in range(50)})
    print(batch, flush=True)
assert not cache.problem, cache.problem
"""


def _writer(folder: Path, name: str, batches: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(folder), name, str(batches)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_writers_at_the_same_time_lose_nothing_and_a_killed_one_leaves_whole_batches(tmp_path: Path) -> None:
    killed, other = _writer(tmp_path, "a", 100_000), _writer(tmp_path, "b", 12)
    for writer in (killed, other):
        for _ in range(5):
            writer.stdout.readline()  # type: ignore[union-attr]
    killed.kill()
    for writer in (killed, other):
        writer.communicate(timeout=120)
    assert other.returncode == 0
    reader = cache(tmp_path)

    def left(who: str, batches: int) -> list[int]:
        return [len(reader.find([reader.key([who, b, n]) for n in range(50)])) for b in range(batches)]

    assert left("b", 12) == [50] * 12
    batches = left("a", 400)
    assert set(batches) <= {0, 50} and batches[:5] == [50] * 5
    reader.keep({reader.key("after"): answer()})
    assert reader.find([reader.key("after")]) and not reader.problem


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    answers = cache(tmp_path)
    answers.keep({answers.key(1): answer()})
    (tmp_path / FILE).write_bytes(b"no database " * 400)
    reopened = cache(tmp_path)
    assert reopened.find([reopened.key(1)]) == {}
    reopened.keep({reopened.key(1): answer()})
    assert reopened.find([reopened.key(1)]) == {0: answer()} and not reopened.problem
    assert (tmp_path / f"{FILE}.damaged").exists()


def test_a_cache_that_cannot_be_used_is_told_and_loses_no_answer(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in the way")
    answers = cache(tmp_path / "folder")
    answers.keep({answers.key(1): answer()})
    assert answers.find([answers.key(1)]) == {} and "Error" in answers.problem
    answers.tidy()


def test_the_longest_unused_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, now = cache(tmp_path, limit=1), time.time()
    monkeypatch.setattr(answer_cache.time, "time", lambda: now)
    long = "x" * 10_000
    for n in range(150):  # 1.5 MB of 1 MiB
        now += 10
        answers.keep({answers.key(n): answer(long)})
    now += 10
    assert answers.find([answers.key(0)])  # used again
    answers.tidy()
    remaining = sorted(answers.find([answers.key(n) for n in range(150)]))
    assert remaining[0] == 0 and remaining[1:] == list(range(150 - len(remaining) + 1, 150))
    assert 0.7 * 2**20 < len(remaining) * 10_300 <= 0.85 * 2**20
    assert (tmp_path / FILE).stat().st_size < 1.2 * 2**20, "the file itself is smaller again"
    now += (answer_cache.UNUSED_DAYS + 1) * 86400
    answers.keep({answers.key("new"): answer()})
    answers.tidy()
    assert answers.find([answers.key("new"), answers.key(0)]) == {0: answer()}
