"""The cleaning step, in three parts: scrubbing, removal of rows that repeat benchmark items, removal of duplicates."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.benchmarks import benchmark_rows
from finetune_pipeline.data.dedup.boilerplate import SAMPLE, Boilerplate, find_boilerplate
from finetune_pipeline.data.dedup.duplicate_resolution import Resolution
from finetune_pipeline.data.dedup.near_duplicates import components, verified_pairs
from finetune_pipeline.data.dedup.row_table import (
    ALL_ROWS,
    CONTRADICTION,
    EXACT,
    GONE,
    KEPT,
    NEAR,
    RowTable,
    count_values,
    describe_rows,
    load_rows,
    save_rows,
    write_kept,
)
from finetune_pipeline.data.examples import EXAMPLES, Example, decode_examples, examples_file, stream_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.losses import Losses
from finetune_pipeline.data.raw_files import BENCHMARKS
from finetune_pipeline.data.scrub import KINDS, finder_of
from finetune_pipeline.data.scrub.placeholders import SAMPLES, chosen_samples
from finetune_pipeline.data.scrub.rows import ScrubbedRows, quarantine_row, scrub_rows
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, as_rows, most_first
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

BOILERPLATE = "boilerplate.json"
_AT_ONCE = 5_000
"""Clusters whose rows are in memory at once."""
_RANDOM_TEST = 0.2
"""Share of rows in the test set of a random split."""


class Cleaned(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of clean_examples: always rows_in == kept + quarantined + exact_duplicates + near_duplicates.

    Attributes:
        contradictions, benchmark_rows: Of the rows in quarantine.
        scrubbed: Values by kind, in `scrubbed_rows` rows; scrub: what was done with them.
        labels, labels_lost: Rows kept and in quarantine, by label.
        boilerplate: Templates that the prompts share.
        clusters: Of rows with alike prompts; similar_pairs: of distinct prompts.
        losses: Rows lost so far.
    """

    rows_in: int
    kept: int
    quarantined: int
    exact_duplicates: int
    near_duplicates: int
    contradictions: int
    benchmark_rows: int
    by_rule: dict[str, int]
    scrubbed: dict[str, int]
    scrub: str
    scrubbed_rows: int
    labels: dict[str, int]
    labels_lost: dict[str, int]
    boilerplate: int
    clusters: int
    prompts: int
    similar_pairs: int
    losses: Losses | None = None


def clean(validated: Path, spec: TaskSpec, out: Path, *, raw: Path | None = None, key: bytes = b"") -> Cleaned:
    """Scrub rows, remove those that repeat a benchmark item, then duplicates, and quarantine contradictions.

    Writes ``examples.jsonl`` (kept rows, ids unchanged), ``rows.jsonl`` (all valid rows, scrubbed), ``rows.parquet`` (their
    table, see row_table), ``boilerplate.json``, ``duplicates.jsonl``, ``quarantine.jsonl``,
    ``findings.jsonl``, ``scrubbed.jsonl`` and ``scrubbed_samples.jsonl`` (texts before and after). raw: folder of the raw
    artifact, for its benchmark files. key: for the fingerprints of scrubbed values.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, find = out / ALL_ROWS, finder_of(spec.data, names=False)
    scrubbed = scrub_rows(examples_file(validated), spec, key, path)
    matches = benchmark_rows(path, raw / BENCHMARKS if raw else None)
    repeating = {row: match for row, match in matches.items() if row not in scrubbed.removed}
    removed = scrubbed.removed | {row: quarantine_row(example, f, find) for row, (example, f) in repeating.items()}
    own_boilerplate = find_boilerplate(example.user_text for example in _sample(path, scrubbed.rows))
    result = remove_duplicates(path, scrubbed.rows, own_boilerplate.with_known(), removed, spec, out)
    findings = [*scrubbed.findings, *(finding for _, finding in (*repeating.values(), *result.contradictions))]
    finder = finder_of(spec.data)
    contradicting = [quarantine_row(e, f, finder) for e, f in result.contradictions if f.severity == "error"]
    write_rows(out / "duplicates.jsonl", result.duplicates)
    write_rows(out / "quarantine.jsonl", [*(removed[row] for row in sorted(removed)), *contradicting])
    write_rows(out / "findings.jsonl", as_rows(findings))
    write_rows(out / "scrubbed.jsonl", scrubbed.values)
    write_rows(out / SAMPLES, map(asdict, chosen_samples(scrubbed.samples)))
    return _facts(result, scrubbed, findings, len(own_boilerplate.segments), spec)


@dataclass(frozen=True)
class Deduplicated:
    """The result of the search for duplicates.

    Attributes:
        rows: The records of all rows (ROW), with their clusters and states.
        duplicates: Lines of ``duplicates.jsonl``.
        contradictions: Contradicting rows with their findings.
        counts: How many clusters, prompts and similar_pairs there are.
    """

    rows: np.ndarray
    duplicates: list[dict[str, Any]]
    contradictions: list[tuple[Example, Finding]]
    counts: dict[str, int]


def remove_duplicates(
    path: Path, rows: int, boilerplate: Boilerplate, removed: Collection[int], spec: TaskSpec, out: Path
) -> Deduplicated:
    """Find duplicates and contradictions among scrubbed rows, except those already removed. Writes the rows' table, the boilerplate
    and ``examples.jsonl`` with the kept rows."""
    table, normal_keys = describe_rows(path, boilerplate, spec, rows)
    table.rows["state"][list(removed)] = GONE
    counts = cluster_rows(table, normal_keys, spec)
    duplicates, contradictions = _resolve(table, spec)
    write_kept(table, out / EXAMPLES)
    save_rows(out, table.rows, table.prompts)
    boilerplate.save(out / BOILERPLATE)
    return Deduplicated(table.rows, duplicates, contradictions, counts)


def cluster_rows(table: RowTable, normal_keys: np.ndarray, spec: TaskSpec) -> dict[str, int]:
    """Cluster rows with similar or equal prompts, and write the smallest id of each cluster into the table.

    Each distinct prompt is compared once. Returns how many `clusters`, `prompts` (distinct) and `similar_pairs` there are."""
    hashes, first_row, prompt_of_row = np.unique(table.rows["prompt"], return_index=True, return_inverse=True)
    pairs, _ = verified_pairs(
        table.sketches[first_row], spec.data.near_duplicate_threshold, lambda prompts: table.forms(first_row[prompts])
    )
    _, first_prompt, number = np.unique(normal_keys[first_row], return_index=True, return_inverse=True)
    equal = np.stack([first_prompt[number], np.arange(len(hashes))], 1)
    cluster_of_row = components(len(hashes), np.concatenate([pairs, equal]))[prompt_of_row]
    smallest_id = np.full(int(cluster_of_row.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest_id, cluster_of_row, table.rows["id"])
    table.rows["cluster"] = smallest_id[cluster_of_row]
    return {"clusters": len(smallest_id), "prompts": len(hashes), "similar_pairs": len(pairs)}


def _sample(path: Path, rows: int) -> Iterator[Example]:
    """Yield the examples of a file with this many rows: all, or in a large set those whose id (a hash) starts with enough zeros."""
    zeros = 0  # every line begins with its id, a hexadecimal hash: each zero asked for leaves a sixteenth
    while rows / 16**zeros > SAMPLE:
        zeros += 1
    beginning = b'{"id":"' + b"0" * zeros
    with path.open("rb") as lines:
        for line in lines:
            if line.startswith(beginning):
                yield decode_examples(line, str(path))[0]


def _clusters_of_several(clusters: np.ndarray, rows: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yield the clusters with two or more of these rows, each as the numbers of its rows (int64), in batches of clusters."""
    _, cluster_of_row, sizes = np.unique(clusters[rows], return_inverse=True, return_counts=True)
    several = rows[sizes[cluster_of_row] > 1]
    by_cluster = several[np.argsort(clusters[several], kind="stable")]
    groups = np.split(by_cluster, np.flatnonzero(np.diff(clusters[by_cluster])) + 1) if len(by_cluster) else []
    yield from (groups[start : start + _AT_ONCE] for start in range(0, len(groups), _AT_ONCE))


def _resolve(table: RowTable, spec: TaskSpec) -> tuple[list[dict[str, object]], list[tuple[Example, Finding]]]:
    """Resolve every cluster and write the states into the table. Returns (lines of duplicates.jsonl, contradicting rows with
    their findings), in the order of rows."""
    duplicates: dict[int, dict[str, object]] = {}
    contradictions: dict[int, tuple[Example, Finding]] = {}
    resolved = 0
    for batch in _clusters_of_several(table.rows["cluster"], np.flatnonzero(table.rows["state"] == KEPT)):
        numbers = np.concatenate(batch)
        examples = zip(table.fetch(numbers), table.forms(numbers), strict=True)
        for members in batch:
            rows, forms = zip(*(next(examples) for _ in members), strict=True)
            resolution = Resolution(rows, forms, spec)
            table.rows["state"][members] = resolution.states
            contradictions |= {int(members[i]): (rows[i], finding) for i, finding in resolution.contradictions}
            for i, (kept, similarity) in resolution.repeats.items():
                row, original = rows[i], rows[kept]
                ids = {"id": row.id, "source": row.source, "kept_id": original.id, "kept_source": original.source}
                kind = "exact" if resolution.states[i] == EXACT else "near"
                duplicates[int(members[i])] = {**ids, "kind": kind, "similarity": round(similarity, 4)}
        resolved += len(batch)
        tell("clean_examples", f"{resolved} clusters of similar rows resolved", step=resolved)
    return [duplicates[row] for row in sorted(duplicates)], [contradictions[row] for row in sorted(contradictions)]


def _facts(
    result: Deduplicated, scrubbed: ScrubbedRows, findings: Sequence[Finding], boilerplate: int, spec: TaskSpec
) -> Cleaned:
    rows = result.rows
    counts = np.bincount(rows["state"], minlength=GONE + 1).tolist()
    rules = Counter(f.rule for f in findings)
    hits = Counter(dict.fromkeys(KINDS, 0))
    for row in scrubbed.values:
        hits[row["kind"]] += row["count"]
    return Cleaned(
        rows_in=len(rows),
        kept=counts[KEPT],
        quarantined=counts[CONTRADICTION] + counts[GONE],
        exact_duplicates=counts[EXACT],
        near_duplicates=counts[NEAR],
        contradictions=counts[CONTRADICTION],
        benchmark_rows=rules["data.benchmark_contamination"],
        by_rule=most_first(rules),
        scrubbed=dict(hits),
        scrub=spec.data.scrub,
        scrubbed_rows=len({r["id"] for r in scrubbed.values}),
        labels=count_values(rows["label"], rows["state"] == KEPT, spec.labels),
        labels_lost=count_values(rows["label"], np.isin(rows["state"], (CONTRADICTION, GONE)), spec.labels),
        boilerplate=boilerplate,
        clusters=result.counts["clusters"],
        prompts=result.counts["prompts"],
        similar_pairs=result.counts["similar_pairs"],
    )


@dataclass(frozen=True)
class Copies:
    """Rows with the same or nearly the same prompt. repeated: how many of the valid rows have an exact or near copy. leaked: share
    of test rows that would have a copy in training under a random split. across: (file, file, number of texts in both), largest
    first."""

    rows: int
    repeated: int
    leaked: float
    across: list[tuple[str, str, int]]

    def lines(self) -> list[str]:
        share = f"{self.repeated:,} of {self.rows:,} rows have the same or nearly the same prompt as another row"
        risk = f"a random split would put copies of {self.leaked:.0%} of its test rows in training"
        bias = "after training on one of them, a score on the other is too high"
        across = (f"copies: {n:,} texts are in both {a} and {b}: {bias}" for a, b, n in self.across[:5])
        return [f"copies: {share}; {risk}, here copies share a split", *across]


def copies_in(clean: Path) -> Copies:
    """Count the copies among the valid rows of a clean_examples artifact, including removed ones."""
    rows = load_rows(clean)
    _, number, sizes = np.unique(rows["cluster"], return_inverse=True, return_counts=True)
    other_rows = sizes[number] - 1
    files: dict[int, set[str]] = defaultdict(set)
    for prompt, example in zip(rows["prompt"].tolist(), stream_examples(clean / ALL_ROWS), strict=True):
        files[prompt].add(str(example.source.get("file")).removeprefix("raw/"))
    across = Counter(pair for names in files.values() for pair in combinations(sorted(names), 2))
    # a test row has no copy in training only if all its copies fell into the test, too
    leaked = float((1 - _RANDOM_TEST**other_rows).mean()) if len(rows) else 0.0
    return Copies(len(rows), int((other_rows > 0).sum()), leaked, [(*pair, n) for pair, n in across.most_common()])
