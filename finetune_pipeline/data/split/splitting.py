"""The splitting step: train, validation and sealed test, with the leakage certificate."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.cleaning import BOILERPLATE
from finetune_pipeline.data.dedup.row_table import ALL_ROWS, KEPT, RowTable, count_values, load_rows, save_rows
from finetune_pipeline.data.examples import (
    ORIGINS,
    SPLIT_FILES,
    Example,
    decode_examples,
    examples_file,
    examples_of,
    stream_examples,
)
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.losses import Losses
from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.scrub import finder_of
from finetune_pipeline.data.scrub.rows import quarantine_row
from finetune_pipeline.data.split.alike import alike_rows
from finetune_pipeline.data.split.leakage import LEAKAGE, Leak, Search, certify
from finetune_pipeline.data.split.ledger import ENTRY, SPLITS, read_ledger, split_of
from finetune_pipeline.data.split.placement import (
    BRIDGE,
    HUMAN,
    LEFT,
    LIKE_TEST,
    NOT_HUMAN,
    SEVERAL,
    homes,
    place,
    seal_from_models,
    shares_of,
)
from finetune_pipeline.data.split.time_order import TimeOrder, place_by_time, time_order
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_file, write_json
from finetune_pipeline.findings import Finding, FindingsError, count_by_rule
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

PLACED_FILE = "placed.npy"
RESTART = (
    "set split.restart: true, which splits all rows anew: a new test, so that earlier scores and the champion's can no longer "
    "be compared"
)


class NamedTest(Facts, frozen=True, kw_only=True):
    """Rows of the files that split.test names which the ledger keeps elsewhere, other rows that it keeps in the test, and rows
    that left training because they are like test rows."""

    elsewhere: int
    others: int
    like_test: int


class SplitFacts(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of splits: rows in all and by split.

    Attributes:
        teacher: Whether a teacher is declared: then only people's rows may be in validation and test.
        left: Rows that left a split because their relation to others changed.
        leaks: Of the certificate, by kind.
        alike: Links that keep rows together, and links that were not followed: cut, held.
        test_files: If split.test names files.
        ledger: Name of the ledger of assignments.
    """

    rows_in: int
    kept: int
    quarantined: int
    counts: dict[str, int]
    labels: dict[str, dict[str, int]]
    origins: dict[str, dict[str, int]]
    shares: dict[str, float]
    wanted_shares: dict[str, float]
    clusters: int
    by_rule: dict[str, int]
    seed: int
    left: dict[str, int]
    leaks: dict[str, int]
    alike: dict[str, int]
    time_order: TimeOrder | None = None
    test_files: NamedTest | None = None
    teacher: bool = False
    ledger: str = ""
    losses: Losses | None = None


def split(
    reviewed: Path, clean: Path, spec: TaskSpec, ledger: Path, out: Path, seal: Callable[[bytes], bytes] | None = None
) -> SplitFacts:
    """Assign every row a split (see :func:`~.placement.place`) and prove that nothing leaks. Once the assignments are recorded,
    the same rows give the same files again.

    Writes the rows of the three splits (SPLIT_FILES), ``quarantine.jsonl``, ``rows.parquet`` (the reviewed rows' table),
    ``placed.npy`` (placement.PLACED, for every row) and ``leakage.json`` (see :func:`~.leakage.certify`) with the digests of
    the three files.

    Args:
        ledger: Folder of earlier assignments. It is only read; see :func:`assignments_in`.
        seal: Makes the rows of the test unreadable (see :func:`finetune_pipeline.data.examples.seal`).
    """
    rows = load_rows(reviewed)
    origins = rows["origin"][rows["state"] == KEPT]
    if finding := no_rows_by_people(spec, int((origins == HUMAN).sum()), len(origins)):
        raise FindingsError([finding])
    table = RowTable(rows, clean / ALL_ROWS)
    boilerplate = Boilerplate.load(clean / BOILERPLATE)
    alike = alike_rows(table)
    before = split_of(read_ledger(ledger), rows["id"], rows["prompt"])
    cut, held, named = 0, 0, None
    if spec.split.by == "time":
        placed, units = place_by_time(rows, before, spec, alike.links)
    else:
        named = _rows_of_test_files(table, spec) if spec.split.test_share is None else None
        placed, units, joined = place(rows, before, spec, alike.links, named)
        cut, held = joined.cut, joined.held
    seal_from_models(rows, placed, spec)
    tell("splits", f"{units} clusters placed; looking for leaks", rows=len(rows))
    search = Search(table, placed["split"].copy(), placed["unit"], boilerplate, alike, spec)
    leaks = search.leaks()
    leaving = _leave_split(search, placed, before, leaks)
    search = replace(search, split=placed["split"])
    remaining = {
        kind: [(i, j, similarity) for i, j, similarity in pairs if not (leaving[i] or leaving[j])]
        for kind, pairs in leaks.items()
    }
    test, refused = _write_rows(rows, placed, examples_file(reviewed), out, spec.split.by == "time")
    (out / SPLIT_FILES["test"]).write_bytes(seal(test) if seal else test)
    find = finder_of(spec.data, names=False)
    write_rows(out / "quarantine.jsonl", (quarantine_row(e, f, find) for e, f in refused))
    np.save(out / PLACED_FILE, placed)
    save_rows(out, rows)
    certificate = certify(search, remaining, cut, held, {name: digest_file(examples_of(out, name)) for name in SPLITS})
    write_json(out / LEAKAGE, certificate.to_json(), durable=False)
    test_files = None
    if named is not None:
        kept, test_code = rows["state"] == KEPT, SPLITS.index("test")
        test_files = NamedTest(
            elsewhere=int((kept & named & (placed["split"] >= 0) & (placed["split"] != test_code)).sum()),
            others=int((kept & ~named & (before == test_code) & (placed["split"] == test_code)).sum()),
            like_test=int((placed["split"] == LIKE_TEST).sum()),
        )
    masks = {name: placed["split"] == code for code, name in enumerate(SPLITS)}
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    origins = {name: sorted(count_values(rows["origin"], mask, ORIGINS).items()) for name, mask in masks.items()}
    total = max(1, sum(counts.values()))
    return SplitFacts(
        rows_in=int((rows["state"] == KEPT).sum()),
        kept=sum(counts.values()),
        quarantined=len(refused),
        counts=counts,
        labels={name: count_values(rows["label"], mask, spec.labels) for name, mask in masks.items()},
        origins={name: {origin: n for origin, n in pairs if n} for name, pairs in origins.items()},
        shares={name: round(n / total, 6) for name, n in counts.items()},
        wanted_shares=_wanted_shares(spec, counts, sum(dict(pairs).get("human", 0) for pairs in origins.values())),
        teacher=spec.teacher is not None,
        clusters=units,
        by_rule=count_by_rule([finding for _, finding in refused]),
        seed=spec.split.seed,
        left={name: int((leaving & (before == code)).sum()) for code, name in enumerate(SPLITS)},
        leaks={"exact": certificate.exact, "near": certificate.near, "group": certificate.group},
        alike={"links": len(alike.links.left), "cut": cut, "held": held},
        time_order=time_order(rows, placed, ledger) if spec.split.by == "time" else None,
        test_files=test_files,
    )


def _rows_of_test_files(table: RowTable, spec: TaskSpec) -> np.ndarray:
    """Return which rows are of the files that split.test names (bool, [n]).

    Raises FindingsError if there are none that a person wrote.
    """
    files = [str(example.source["file"]) for example in stream_examples(table.path)]
    named = np.array([spec.split.is_test_file(file) for file in files], bool)
    if not (named & (table.rows["origin"] == HUMAN)).any():
        what, fix = "match no file with valid rows", f"name one of {', '.join(sorted({*files}))}"
        if named.any():
            what, fix = "match no file with rows that a person wrote", "only such rows can be the test: name their file"
        raise FindingsError([Finding("data.no_test_rows", "error", "task.yaml: split.test", f"its globs {what}", fix)])
    return named


def _leave_split(
    search: Search, placed: np.ndarray, before: np.ndarray, leaks: Mapping[str, Sequence[Leak]]
) -> np.ndarray:
    """Take rows out of their split (LEFT in `placed`) if a changed setting (threshold, group, scrubbing rule) joins them with
    rows that the ledger has in another split. Returns which rows leave (bool, [n]).

    Of two joined rows, a training row leaves before a validation row, and test rows never leave. Any other leak was missed by
    the clustering or the placement: its rows stay, and the certificate fails.
    """
    split, unit = search.split, search.unit
    most_protected = np.array(split)  # split with a row joined with this one; later splits are more protected
    assigned = split >= 0
    for name in ("prompt", "group"):
        members = np.flatnonzero(assigned & ((search.table.rows[name] != 0) | (name == "prompt")))
        _, value_of = np.unique(search.table.rows[name][members], return_inverse=True)
        highest_of_value = np.full(len(members), -1, np.int8)
        np.maximum.at(highest_of_value, value_of, split[members])
        most_protected[members] = np.maximum(most_protected[members], highest_of_value[value_of])
    for i, j in ((i, j) for i, j, _ in leaks["near"] if unit[i] == unit[j]):
        most_protected[i], most_protected[j] = max(most_protected[i], split[j]), max(most_protected[j], split[i])
    names, unit_of_row = np.unique(unit, return_inverse=True)
    is_torn = homes(unit_of_row, before, len(names)) == SEVERAL
    leaving: np.ndarray = assigned & (most_protected > split) & is_torn[unit_of_row]
    placed["split"][leaving] = LEFT
    return leaving


def assignments_in(splits: Path) -> np.ndarray:
    """Return a splits folder's assignments for the ledger (ENTRY, sorted, unique; see :func:`~.ledger.record_assignments`)."""
    rows, placed = load_rows(splits), np.load(splits / PLACED_FILE)
    recorded = np.flatnonzero(placed["recorded"] >= 0)
    assignments = np.zeros(len(recorded), ENTRY)
    assignments["id"], assignments["key"] = rows["id"][recorded], rows["prompt"][recorded]
    assignments["cluster"], assignments["split"] = placed["unit"][recorded], placed["recorded"][recorded]
    assignments = assignments[np.lexsort([assignments[name] for name in ("split", "cluster", "key", "id")])]
    is_first = np.ones(len(assignments), bool)
    is_first[1:] = assignments[1:] != assignments[:-1]
    return assignments[is_first]


def ids_and_splits(splits: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, uint64; indices in SPLITS, int8) of all rows that have a split."""
    split = np.load(splits / PLACED_FILE)["split"]
    ids: np.ndarray = load_rows(splits)["id"][split >= 0]
    return ids, split[split >= 0]


def _write_rows(
    rows: np.ndarray, placed: np.ndarray, reviewed: Path, out: Path, by_time: bool
) -> tuple[bytes, list[tuple[Example, Finding]]]:
    """Write the rows of train and validation. Returns the rows of the test, and kept rows without a split with the reason."""
    split, is_kept = placed["split"], rows["state"] == KEPT
    refused: list[tuple[Example, Finding]] = []
    test: list[bytes] = []
    for name in SPLITS:
        (out / SPLIT_FILES[name]).parent.mkdir(parents=True, exist_ok=True)
    with (
        reviewed.open("rb") as lines,
        (out / SPLIT_FILES["train"]).open("wb") as train,
        (out / SPLIT_FILES["validation"]).open("wb") as validation,
    ):
        writers = (train.write, validation.write, test.append)
        for code, line in zip(split[is_kept].tolist(), lines, strict=True):
            if code >= 0:
                writers[code](line)
            else:
                example = decode_examples(line, str(reviewed))[0]
                refused.append((example, _refusal(example, code, by_time)))
    return b"".join(test), refused


def _refusal(example: Example, reason: int, by_time: bool) -> Finding:
    fix = "nothing to do; the row is left out"
    if reason == LIKE_TEST and not by_time:
        message = (
            "this row has the prompt or the group of a row of the test files, or is like one: in train it would leak"
        )
        return row_finding("like_test_row", example.place, message, fix)
    if reason == LIKE_TEST:
        message = "this row has the prompt or the group of a newer row in the test or validation, or repeats a row of the test"
        return row_finding("like_newer_row", example.place, message, fix)
    if reason == NOT_HUMAN:
        why = "in train it would leak, and in test it would prove nothing"
        message = f"a row of origin {example.origin!r} nearly repeats a sealed row by a person: {why}"
        return row_finding("not_human_in_test_cluster", example.place, message, fix)
    if reason == LEFT:
        message = "because a setting or the rows have changed, similar rows are now in different splits: "
        message += "this row is left out, and the split that must stay unseen keeps its row"
        fix = f"nothing to do if these are few rows; otherwise {RESTART}"
        return row_finding("joined_across_splits", example.place, message, fix, "warning")
    if reason != BRIDGE:
        raise RuntimeError(f"row {example.id} has no split and no reason why")
    message = "this new row is close to rows of different splits: it would leak in any of them"
    return row_finding("bridges_splits", example.place, message, fix)


def no_rows_by_people(spec: TaskSpec, by_people: int, rows: int) -> Finding | None:
    """Return why no kept row may be in validation and test: with a teacher, only those that people answered may. by_people: how
    many of the kept rows are."""
    if spec.teacher is None or by_people:
        return None
    sealed = 1 - next(iter(shares_of(spec).values()))
    wanted = math.ceil(sealed * rows / (1 - sealed))
    message = (
        f"none of {rows:,} rows is answered by people for the test: a teacher's answers, and those that people corrected "
        "in the logs, are for training only"
    )
    how = f"let people answer rows with `finetune review {spec.name} --what test`"
    fix = f"{how}: validation and test take the first {wanted:,} of them"
    return Finding("data.no_rows_by_people", "error", "task.yaml: data.raw", message, fix)


def _wanted_shares(spec: TaskSpec, counts: Mapping[str, int], by_people: int) -> dict[str, float]:
    """Return the wanted share of each split; the test's own share if split.test names its files. With a teacher, validation and
    test have no more than the rows by people."""
    shares = shares_of(spec)
    if spec.split.test_share is None:
        test = counts["test"] / max(1, sum(counts.values()))
        shares = {name: share * (1 - test) for name, share in shares.items()} | {"test": test}
    if spec.teacher is not None and (sealed := 1 - shares["train"]) > 0:
        scale = min(1.0, by_people / max(1, sum(counts.values())) / sealed)
        shares = {name: share * scale for name, share in shares.items()} | {"train": 1 - scale * sealed}
    return {name: round(share, 6) for name, share in shares.items()}
