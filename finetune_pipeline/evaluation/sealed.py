"""Opens the sealed test set, and keeps a ledger of every opening.

An opening counts against today's test if it showed more than half of today's rows. So a few new rows (or a new training row,
which changes the splits' version too) do not make a used test new. See :func:`.multiple_testing.level_left`.
"""

import contextlib
import getpass
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_pipeline.data.examples import decode_examples, unseal
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.files import (
    DamagedFile,
    digest_json,
    hold,
    read_json,
    replace_text,
    sync_folder,
    write_json,
)
from finetune_pipeline.evaluation.deciding import level_of
from finetune_pipeline.evaluation.result import Opening, Seal
from finetune_pipeline.evaluation.statistics.multiple_testing import selection_optimism
from finetune_pipeline.faults import OutsideError

LEDGER = "test_openings.jsonl"
TEST_SETS = "test_sets"
SAME_TEST = 0.5
"""An opening counts when it showed more than this share of today's rows."""


@dataclass(frozen=True)
class Judgement:
    """A judgement by the sealed test: every distinct one is a further chance to be promoted, and counts.

    Attributes:
        candidate: What was trained: the version of its adapter. How the model is asked does not matter.
        metric: The metric that decides.
        rules: Digest of what the candidate must reach and beat: thresholds, level, rivals. None if nothing is decided, since
            the model was promoted before: then any judgement of it that is on record stands for this one.
    """

    candidate: str
    metric: str
    rules: str | None

    def is_recorded_by(self, entry: Opening) -> bool:
        """Whether this entry of the ledger records this judgement."""
        if entry["candidate"] != self.candidate:
            return False
        same_rules = entry.get("metric") in (None, self.metric) and entry.get("rules") in (None, self.rules)
        return self.rules is None or same_rules


def openings(state: Path, test: str, rows: Iterable[str] | None = None) -> list[Opening]:
    """The recorded openings that count against the test set of this version, oldest first.

    rows: ids of today's test rows, by default those in the ledger. Each entry is as recorded (test, candidate, metric, reason,
    who, time), with `shared`: the share of today's rows it showed.
    """
    recorded = _all_openings(state)
    if rows is None:
        set_names = [entry["rows"] for entry in recorded if entry["test"] == test and "rows" in entry]
        rows = _test_ids(state, set_names[-1]) if set_names else ()
    today_ids = frozenset(rows)
    counted = []
    for entry in recorded:
        shared = 0.0
        if entry["test"] == test:
            shared = 1.0
        elif today_ids and "rows" in entry:
            shared = len(today_ids & _test_ids(state, entry["rows"])) / len(today_ids)
        if shared > SAME_TEST:
            opening: Opening = {**entry, "shared": round(shared, 4)}
            opening.pop("rows", None)
            counted.append(opening)
    return counted


def _all_openings(state: Path) -> list[Opening]:
    """Every entry of the ledger. Raises DamagedFile for a damaged one: openings must not be guessed."""
    path = state / LEDGER
    if not path.exists():
        return []
    if entries := read_rows(path, Opening):
        return entries
    raise DamagedFile(f"{path} is damaged: it holds no opening\nfix: put back a copy of it")


def _test_ids(state: Path, set_name: str) -> frozenset[str]:
    """Ids of the test rows of an opening. Raises OutsideError if they are missing: the opening would not count."""
    path = state / TEST_SETS / f"{set_name}.json"
    if not path.exists():
        raise OutsideError(
            f"{path} is missing: it lists the rows that an opening of the sealed test showed\nfix: put it back"
        )
    return frozenset(read_json(path, list[str]))


def look_number(counted: Sequence[Opening], judgement: Judgement) -> int:
    """The number of this judgement among all on the test, from 1. One that is not recorded comes last."""
    looks: dict[tuple[str | None, ...], Opening] = {}
    for entry in counted:
        looks.setdefault((entry["candidate"], entry.get("metric"), entry.get("rules")), entry)
    recorded = [judgement.is_recorded_by(entry) for entry in looks.values()]
    return recorded.index(True) + 1 if True in recorded else len(looks) + 1


@contextlib.contextmanager
def open_sealed(
    sealed: Path, state: Path, work: Path, key: bytes, *, test: str, judgement: Judgement, reason: str
) -> Iterator[Path]:
    """Record an opening of the test set for a judgement, durably, and only then provide a readable copy of its rows.

    Opening for the same judgement again adds no entry. Raises SealedError if the file was not sealed with `key`.

    Args:
        work: Folder of the copy, which only its owner can read and the end of the block removes.
        test: Version of the test set.
    """
    rows = unseal(sealed.read_bytes(), key)
    ids = sorted(example.id for example in decode_examples(rows, sealed.name))
    record_judgement(state, ids, test=test, judgement=judgement, reason=reason)
    work.mkdir(parents=True, exist_ok=True)
    copy = work / "test.jsonl"
    copy.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(rows)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def record_judgement(state: Path, ids: Sequence[str], *, test: str, judgement: Judgement, reason: str) -> None:
    """Record a judgement by these test rows in the ledger, durably. One that is on record adds no entry."""
    with hold(state / ".test_openings.lock"):
        if any(map(judgement.is_recorded_by, openings(state, test, ids))):
            return
        set_name = digest_json(list(ids))[:16]
        path = state / TEST_SETS / f"{set_name}.json"
        if not path.exists():
            write_json(path, list(ids))
        entry: Opening = {
            "test": test,
            "rows": set_name,
            "candidate": judgement.candidate,
            "metric": judgement.metric,
            "reason": reason,
            "who": user_name(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if judgement.rules is not None:
            entry["rules"] = judgement.rules
        replace_text(state / LEDGER, "".join(json.dumps(row) + "\n" for row in [*_all_openings(state), entry]))
        sync_folder(state)


def user_name() -> str:
    """The user the process runs as; `unknown` if the system has no name for it."""
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return "unknown"


def seal_of(
    openings: Sequence[Opening],
    n: int,
    accuracy: float | None,
    judgement: Judgement,
    confidence: float,
) -> Seal:
    """Summarise the openings of the sealed test: how many candidates it has judged, and the level left for this judgement."""
    names = {entry["candidate"] for entry in openings}
    return Seal(
        openings=list(openings),
        count=len(openings),
        candidates=len(names),
        recorded=any(map(judgement.is_recorded_by, openings)),
        optimism=None if accuracy is None else selection_optimism(n, accuracy, len(names)),
        level=level_of(look_number(openings, judgement), confidence),
    )
