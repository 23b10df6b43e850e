"""Train, validation and sealed test: whole clusters, by label, and never a row that changes sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.artifacts import read_json
from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.leakage import fingerprints, write_fingerprints
from finetune_pipeline.data.ledger import SPLITS, Ledger, read_ledger
from finetune_pipeline.data.scrubbing import scrub_messages
from finetune_pipeline.data.shingles import prompt_key
from finetune_pipeline.findings import Finding, as_rows, count_by_rule
from finetune_pipeline.spec import TaskSpec

FILES = {"train": "train/examples.jsonl", "validation": "validation/examples.jsonl", "test": "test/sealed.jsonl"}
RAW_SHOWN = 2000


@dataclass
class _Unit:
    """Rows that must lie in one split: clusters, joined where rows declare the same group."""

    name: str
    rows: list[Example] = field(default_factory=list)
    members: list[tuple[str, str]] = field(default_factory=list)
    stratum: str = ""

    @property
    def only_human(self) -> bool:
        return all(e.origin == "human" for e in self.rows)


@dataclass
class _Placement:
    """Where rows have been put; `told` is what the ledger says of them."""

    told: Ledger
    rows: dict[str, list[Example]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    assignments: list[dict[str, Any]] = field(default_factory=list)
    findings: list[tuple[Example, Finding]] = field(default_factory=list)

    def put(self, unit: _Unit, rows: Sequence[Example], target: str, *, whole: bool = True) -> None:
        """Put rows into a split; with `whole`, the names of the unit's removed duplicates belong to it too."""
        self.rows[target] += rows
        kept = {(e.id, prompt_key(e)) for e in rows}
        for row_id, key in sorted({*kept, *(unit.members if whole else [])}):
            self.assignments.append(
                {
                    "id": row_id,
                    "key": key,
                    "split": target,
                    "cluster": unit.name,
                    "kept": (row_id, key) in kept,
                }
            )

    def join(self, unit: _Unit, target: str) -> None:
        """A unit that was seen before goes where it was; only human rows may join the test."""
        stay = [e for e in unit.rows if target != "test" or e.origin == "human"]
        self.put(unit, stay, target)
        for example in unit.rows:
            if example not in stay:
                message = (
                    f"a row of origin {example.origin!r} says nearly the same as a row of the test set: in train it "
                    "would leak, in test it would be no judge"
                )
                self.refuse("data.not_human_in_test_cluster", example, message)

    def part(self, unit: _Unit, splits: set[str]) -> None:
        """A unit that lies in several splits already: old rows stay where they are, new ones are left out."""
        for example in unit.rows:
            home = self.told.split_of(example.id, prompt_key(example))
            if home:
                self.put(unit, [example], home, whole=False)
            else:
                names = " and ".join(sorted(splits))
                message = f"this new row is close to rows in {names}: wherever it went, it would leak"
                self.refuse("data.bridges_splits", example, message)

    def refuse(self, rule: str, example: Example, message: str) -> None:
        fix = "nothing to do; the row is left out"
        self.findings.append((example, Finding(rule, "error", example.place, message, fix)))


def shares_of(spec: TaskSpec) -> dict[str, float]:
    """The wanted share of each split."""
    return {
        "train": 1 - spec.split.validation - spec.split.test,
        "validation": spec.split.validation,
        "test": spec.split.test,
    }


def split(reviewed: Path, spec: TaskSpec, ledger: Path, out: Path) -> dict[str, Any]:
    """Give every row a split: the one it (or a row of its cluster) had before, else the one its label lacks most.

    New clusters come in the order of sha256(seed, cluster id), label by label; each goes to the split farthest below
    its share of that label's rows. Test takes human rows only. Writes ``train/examples.jsonl``,
    ``validation/examples.jsonl``, ``test/sealed.jsonl``, ``test/fingerprints.json``, ``assignments.jsonl`` (id, key,
    split, cluster, kept; duplicates removed earlier are listed with kept=false) and ``quarantine.jsonl``. The
    ledger is only read; :func:`finetune_pipeline.data.ledger.record_assignments` adds to it once this is published.
    Facts: rows_in, kept, quarantined, counts, labels (per split and label), origins (per split), shares, wanted_shares,
    clusters, by_rule, seed. Once recorded, the same rows give the same files again.
    """
    examples = read_examples(reviewed / "examples.jsonl")
    told = read_ledger(ledger)
    units = _units(examples, spec, read_json(reviewed / "clusters.json"), read_json(reviewed / "members.json"))
    done = _Placement(told)
    fresh: list[_Unit] = []
    for unit in units:
        before = {s for name in unit.members if (s := told.split_of(*name))}
        if not before:
            fresh.append(unit)
        elif len(before) == 1:
            done.join(unit, before.pop())
        else:
            done.part(unit, before)
    wanted = shares_of(spec)
    for unit, target in _assign(fresh, done.rows, wanted, spec):
        done.put(unit, unit.rows, target)
    order = {id(e): i for i, e in enumerate(examples)}
    placed = done.rows
    for name, rows in placed.items():
        rows.sort(key=lambda e: order[id(e)])
        write_examples(out / FILES[name], rows)
    write_fingerprints(out / "test" / "fingerprints.json", fingerprints(placed["test"]))
    assignments = sorted(done.assignments, key=lambda a: (a["cluster"], not a["kept"], a["id"], a["key"]))
    write_rows(out / "assignments.jsonl", assignments)
    findings = sorted(done.findings, key=lambda pair: order[id(pair[0])])
    write_rows(out / "quarantine.jsonl", (_quarantined(e, f) for e, f in findings))
    total = max(1, sum(len(rows) for rows in placed.values()))
    return {
        "rows_in": len(examples),
        "kept": sum(len(rows) for rows in placed.values()),
        "quarantined": len(findings),
        "counts": {name: len(rows) for name, rows in placed.items()},
        "labels": {name: {la: sum(e.label == la for e in rows) for la in spec.labels} for name, rows in placed.items()},
        "origins": {name: dict(sorted(Counter(e.origin for e in rows).items())) for name, rows in placed.items()},
        "shares": {name: round(len(rows) / total, 6) for name, rows in placed.items()},
        "wanted_shares": {name: round(share, 6) for name, share in wanted.items()},
        "clusters": len(units),
        "by_rule": count_by_rule(f for _, f in findings),
        "seed": spec.split.seed,
    }


def _units(
    examples: Sequence[Example], spec: TaskSpec, clusters: dict[str, str], members: dict[str, list[dict[str, str]]]
) -> list[_Unit]:
    """Clusters joined by declared groups (union-find), with every name their rows ever had; sorted by name."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    # rows that say the same must share a split even if a reviewer's file or another cluster numbering parts them
    for example in examples:
        ties = [f"text:{prompt_key(example)}", *([f"group:{example.group}"] if example.group else [])]
        for tie in ties:
            a, b = sorted((root(f"cluster:{clusters[example.id]}"), root(tie)))
            parent[b] = a
    found: defaultdict[str, _Unit] = defaultdict(lambda: _Unit(""))
    for example in examples:
        found[root(f"cluster:{clusters[example.id]}")].rows.append(example)
    for unit in found.values():
        names = {clusters[e.id] for e in unit.rows}
        unit.name = min(names)
        removed = {(m["id"], m["key"]) for name in names for m in members.get(name, [])}
        unit.members = sorted(removed | {(e.id, prompt_key(e)) for e in unit.rows})
        counts = Counter(e.label or "" for e in unit.rows)
        ranks = {label: i for i, label in enumerate(spec.labels)}
        unit.stratum = min(counts, key=lambda label: (-counts[label], ranks.get(label, -1)))
    return sorted(found.values(), key=lambda u: u.name)


def _assign(
    fresh: list[_Unit], placed: dict[str, list[Example]], wanted: dict[str, float], spec: TaskSpec
) -> list[tuple[_Unit, str]]:
    """A split for every new unit; deficits count what is placed already."""
    strata: defaultdict[str, list[_Unit]] = defaultdict(list)
    for unit in fresh:
        strata[unit.stratum].append(unit)
    chosen = []
    for stratum, units in sorted(strata.items()):
        have = {name: sum((e.label or "") == stratum for e in rows) for name, rows in placed.items()}
        total = sum(have.values()) + sum(len(u.rows) for u in units)
        for unit in sorted(units, key=lambda u: hashlib.sha256(f"{spec.split.seed}:{u.name}".encode()).digest()):
            open_to = SPLITS if unit.only_human else SPLITS[:2]
            target = max(open_to, key=lambda s: (wanted[s] * total - have[s], -SPLITS.index(s)))
            have[target] += len(unit.rows)
            chosen.append((unit, target))
    return chosen


def _quarantined(example: Example, finding: Finding) -> dict[str, Any]:
    raw = msgspec.json.encode({"id": example.id, "messages": scrub_messages(example.messages)[0]}).decode()[:RAW_SHOWN]
    return {
        "file": example.source.get("file"),
        "line": example.source.get("line"),
        "raw": raw,
        "findings": as_rows([finding]),
    }
