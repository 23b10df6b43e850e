"""The leakage certificate. It proves that no row of one split repeats a row of another: the same prompt, a near one by verified
Jaccard similarity without boilerplate, or the same group. It also proves that the search works: leaks are planted in a copy
of the validation and test rows, and the same search must find them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import candidate_pairs, loose_forms, similarities, sketch
from finetune_pipeline.data.dedup.row_table import RowTable, group_hash, prompt_hash
from finetune_pipeline.data.dedup.text_similarity import NEAR_ENOUGH
from finetune_pipeline.data.examples import SPLIT_FILES, examples_of
from finetune_pipeline.data.split.alike import AlikeRows
from finetune_pipeline.data.split.canaries import EditRecall, make_canaries, recall_by_edit
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.spec import TaskSpec

LEAKAGE = "leakage.json"
_PAIRS_SHOWN = 20
_CANARY_SOURCES = 64
_TRAIN = SPLITS.index("train")
PAIR_KINDS = ("exact", "group", "near", "alike")
"""Kinds of pairs between splits. Pairs of the last kind are not leaks but links that were not followed (see placement.py)."""
Leak = tuple[int, int, float]
"""(row, other row, similarity) of two rows in different splits."""


@dataclass(frozen=True)
class _Rows:
    """Rows to compare: columns of prompts, groups (0: none), splits and sketches, and a function for their loose forms."""

    prompt: np.ndarray
    group: np.ndarray
    split: np.ndarray
    sketches: np.ndarray
    forms_of: Callable[[np.ndarray], Sequence[str]]

    def leaks(self, threshold: float) -> dict[str, list[Leak]]:
        """Return the leaks of each kind. Pairs of equal prompts are exact leaks, not near ones."""
        pairs = candidate_pairs(self.sketches, threshold)
        first, second = pairs[:, 0], pairs[:, 1]
        pairs = pairs[(self.split[first] != self.split[second]) & (self.prompt[first] != self.prompt[second])]
        similarity = similarities(pairs, self.forms_of)
        near = np.flatnonzero(similarity >= threshold - NEAR_ENOUGH)
        return {
            "exact": [(i, j, 1.0) for i, j in _pairs_across_splits(self.prompt, self.split)],
            "group": [(i, j, 1.0) for i, j in _pairs_across_splits(self.group, self.split, zero_is_a_value=False)],
            "near": [(int(pairs[k, 0]), int(pairs[k, 1]), float(similarity[k])) for k in near],
        }


@dataclass(frozen=True)
class Search:
    """Everything the comparison needs: the rows, their splits (int8, index in SPLITS; negative: none), the names of their
    units, and the links between them with the index of their texts."""

    table: RowTable
    split: np.ndarray
    unit: np.ndarray
    boilerplate: Boilerplate
    alike: AlikeRows
    spec: TaskSpec

    def leaks(self) -> dict[str, list[Leak]]:
        """Return the leaks between splits, by kind: pairs of rows of the table."""
        rows = np.flatnonzero(self.split >= 0)
        by_kind = self.rows(rows).leaks(self.spec.data.near_duplicate_threshold)
        leaks = {kind: [(int(rows[i]), int(rows[j]), s) for i, j, s in pairs] for kind, pairs in by_kind.items()}
        links = self.alike.links
        pairs = zip(links.left.tolist(), links.right.tolist(), links.strength.tolist(), strict=True)
        leaks["alike"] = [(i, j, s) for i, j, s in pairs if -1 < self.split[i] != self.split[j] > -1]
        return leaks

    def rows(self, which: np.ndarray) -> _Rows:
        """Return these rows, ready for comparison."""
        prompt, group = (self.table.rows[name][which] for name in ("prompt", "group"))
        return _Rows(
            prompt, group, self.split[which], self.table.sketches[which], lambda rows: self.table.forms(which[rows])
        )


class LeakedPair(Facts, frozen=True, kw_only=True):
    """A pair of rows in two splits, by id. kind: one of PAIR_KINDS."""

    splits: str
    kind: str
    id: str
    other_id: str
    similarity: float


class FoundCanaries(Facts, frozen=True, kw_only=True):
    """Canaries that the search found; by_kind: [planted, found]; missed: their ids."""

    planted: int
    found: int
    by_kind: dict[str, list[int]]
    missed: list[str]


class Certificate(Facts, frozen=True, kw_only=True):
    """What ``leakage.json`` says.

    Attributes:
        exact, group, near, alike: Number of pairs of each kind.
        pairs: The first of them.
        cut, held: Links that were not followed, as a chain was too long, or as the ledger fixed their rows.
        edited: By kind of edit.
        files: Digests of the three splits' files.
    """

    exact: int
    group: int
    near: int
    alike: int
    pairs: list[LeakedPair]
    threshold: float
    rows: int
    canaries: FoundCanaries
    edited: dict[str, EditRecall]
    cut: int
    held: int
    files: dict[str, str]

    def changed(self, split_folder: Path) -> list[str]:
        """Return the splits whose files differ from the certified ones."""
        digests = {name: digest_file(examples_of(split_folder, name)) for name in SPLIT_FILES}
        return [name for name, digest in digests.items() if digest != self.files.get(name)]


def certify(
    search: Search, leaks: Mapping[str, Sequence[Leak]], cut: int, held: int, files: dict[str, str]
) -> Certificate:
    """Report the leaks between splits (`leaks`, from :meth:`Search.leaks`): the number of pairs of each kind, and up to 20 of
    them by id. Prove with canaries that the search finds leaks."""
    listed: list[LeakedPair] = []
    ids, split = search.table.rows["id"], search.split
    guarded = np.flatnonzero(split > _TRAIN)
    for kind in PAIR_KINDS:
        for i, j, similarity in leaks[kind][: _PAIRS_SHOWN - len(listed)]:
            splits = "-".join(SPLITS[code] for code in sorted((split[i], split[j])))
            listed.append(
                LeakedPair(
                    splits=splits,
                    kind=kind,
                    id=f"{ids[i]:016x}",
                    other_id=f"{ids[j]:016x}",
                    similarity=round(similarity, 4),
                )
            )
    return Certificate(
        exact=len(leaks["exact"]),
        group=len(leaks["group"]),
        near=len(leaks["near"]),
        alike=len(leaks["alike"]),
        pairs=listed,
        threshold=search.spec.data.near_duplicate_threshold,
        rows=int((split >= 0).sum()),
        canaries=_find_canaries(search, guarded),
        edited=recall_by_edit(search.table, search.unit, guarded, search.alike, search.boilerplate, search.spec),
        cut=cut,
        held=held,
        files=files,
    )


def _pairs_across_splits(values: np.ndarray, codes: np.ndarray, zero_is_a_value: bool = True) -> list[tuple[int, int]]:
    """Return one pair of rows for every value and every two splits that share it."""
    rows = np.arange(len(values)) if zero_is_a_value else np.flatnonzero(values != 0)
    order = np.lexsort((codes[rows], values[rows]))
    value, code = values[rows][order], codes[rows][order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (value[1:] != value[:-1]) | (code[1:] != code[:-1])
    first, distinct = rows[order[is_new]], value[is_new]
    pairs = []
    for step in (1, 2):  # step 2: the first and third split of a value in all three
        has_same_value = np.flatnonzero(distinct[step:] == distinct[:-step])
        pairs += list(zip(first[has_same_value].tolist(), first[has_same_value + step].tolist(), strict=True))
    return sorted(pairs)


def _find_canaries(search: Search, guarded: np.ndarray) -> FoundCanaries:
    """Plant canaries, as rows of train, in a copy of the rows of validation and test (`guarded`), and search for them as for
    leaks."""
    table, spec, boilerplate = search.table, search.spec, search.boilerplate
    source_rows = guarded[np.argsort(table.rows["id"][guarded], kind="stable")[:_CANARY_SOURCES]]
    sources = table.fetch(source_rows)
    canaries = make_canaries(sources, spec.data.near_duplicate_threshold, boilerplate)
    rows, first_canary = search.rows(guarded), len(guarded)
    group = np.append(rows.group, np.zeros(len(canaries), np.uint64))
    for index, canary in enumerate(canaries, first_canary):
        if canary.kind == "same_group":
            source = np.searchsorted(guarded, source_rows[canary.source])
            group[index] = group[source] = group_hash(canary.example.group)
    texts = [canary.example.user_text for canary in canaries]
    forms = loose_forms(texts, boilerplate)
    planted_rows = _Rows(  # the rows, then the canaries as training rows
        np.append(rows.prompt, np.array([prompt_hash(text) for text in texts], np.uint64)),
        group,
        np.append(rows.split, np.full(len(canaries), _TRAIN, rows.split.dtype)),
        np.concatenate([rows.sketches, sketch(forms, spec.data.near_duplicate_threshold)]),
        lambda which: [
            *rows.forms_of(which[which < first_canary]),
            *(forms[i - first_canary] for i in which[which >= first_canary]),
        ],
    )
    leaks = planted_rows.leaks(spec.data.near_duplicate_threshold)
    prompts = set(planted_rows.prompt[[i for i, _, _ in leaks["exact"]]].tolist())
    groups = set(planted_rows.group[[i for i, _, _ in leaks["group"]]].tolist())
    near = {max(i, j) for i, j, _ in leaks["near"]}
    by_kind: dict[str, list[int]] = {}
    missed = []
    for index, canary in enumerate(canaries, first_canary):
        prompt, group_of = int(planted_rows.prompt[index]), int(planted_rows.group[index])
        is_found = index in near or prompt in prompts or group_of in groups
        planted, found = by_kind.get(canary.kind, (0, 0))
        by_kind[canary.kind] = [planted + 1, found + is_found]
        if not is_found:
            missed.append(canary.example.id)
    return FoundCanaries(planted=len(canaries), found=len(canaries) - len(missed), by_kind=by_kind, missed=missed)
