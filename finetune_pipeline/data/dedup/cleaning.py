"""The cleaning step: removes personal data and duplicates, and quarantines rows that contradict each other."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup import row_table
from finetune_pipeline.data.dedup.benchmarks import benchmark_index
from finetune_pipeline.data.dedup.boilerplate import SAMPLE, Boilerplate, find_boilerplate
from finetune_pipeline.data.dedup.duplicate_resolution import Resolution
from finetune_pipeline.data.dedup.near_duplicates import components, loose_forms, verified_pairs
from finetune_pipeline.data.dedup.row_table import ALL_ROWS, CONTRADICTION, EXACT, GONE, KEPT, NEAR, TABLE, RowTable
from finetune_pipeline.data.examples import EXAMPLES, Example, decode_examples, examples_file, stream_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines, write_rows
from finetune_pipeline.data.raw_files import BENCHMARKS
from finetune_pipeline.data.scrub import KINDS, finder_of, scrub_example
from finetune_pipeline.data.scrub.placeholders import SAMPLES, chosen_samples
from finetune_pipeline.findings import Finding, as_rows, most_first
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

BOILERPLATE, SKETCHES = "boilerplate.json", "sketches.npy"
_AT_ONCE = 5_000
"""Clusters whose rows are in memory at once."""
_RANDOM_TEST = 0.2
"""Share of rows in the test set of a random split."""


def cluster_rows(
    table: RowTable, prepared: row_table.PreparedRows, boilerplate: Boilerplate, spec: TaskSpec
) -> dict[str, int]:
    """Cluster rows with similar or equal prompts, and write the smallest id of each cluster into the table.

    Each distinct prompt is compared once. Returns how many `clusters`, `prompts` (distinct) and `similar_pairs` there are."""
    hashes, first_row, prompt_of_row = np.unique(table.rows["prompt"], return_index=True, return_inverse=True)

    def forms_of(prompts: np.ndarray) -> list[str]:
        return loose_forms([e.user_text for e in table.fetch(first_row[prompts])], boilerplate)

    pairs, _ = verified_pairs(prepared.sketches[first_row], spec.data.near_duplicate_threshold, forms_of)
    _, first_prompt, number = np.unique(prepared.normal_keys[first_row], return_index=True, return_inverse=True)
    equal = np.stack([first_prompt[number], np.arange(len(hashes))], 1)
    cluster_of_row = components(len(hashes), np.concatenate([pairs, equal]))[prompt_of_row]
    smallest_id = np.full(int(cluster_of_row.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest_id, cluster_of_row, table.rows["id"])
    table.rows["cluster"] = smallest_id[cluster_of_row]
    return {"clusters": len(smallest_id), "prompts": len(hashes), "similar_pairs": len(pairs)}


def _clusters_of_several(clusters: np.ndarray, rows: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Yield the clusters with two or more of these rows, each as the numbers of its rows (int64), in batches of clusters."""
    _, cluster_of_row, sizes = np.unique(clusters[rows], return_inverse=True, return_counts=True)
    several = rows[sizes[cluster_of_row] > 1]
    by_cluster = several[np.argsort(clusters[several], kind="stable")]
    groups = np.split(by_cluster, np.flatnonzero(np.diff(clusters[by_cluster])) + 1) if len(by_cluster) else []
    yield from (groups[start : start + _AT_ONCE] for start in range(0, len(groups), _AT_ONCE))


def clean(validated: Path, spec: TaskSpec, out: Path, *, raw: Path | None = None, key: bytes = b"") -> dict[str, Any]:
    """Scrub rows, find duplicate prompts, remove duplicates, quarantine contradictions and copies of benchmark items.

    Writes ``examples.jsonl`` (kept rows, ids unchanged), ``rows.jsonl`` (all valid rows, scrubbed), ``rows.npy`` (their
    records, see row_table), ``sketches.npy``, ``boilerplate.json``, ``duplicates.jsonl``, ``quarantine.jsonl``,
    ``findings.jsonl``, ``scrubbed.jsonl`` and ``scrubbed_samples.jsonl`` (texts before and after). raw: folder of the raw
    artifact, for its benchmark files. key: for the fingerprints of scrubbed values.

    Returns facts (counts of rows); always rows_in == kept + quarantined + exact_duplicates + near_duplicates.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = examples_file(validated)
    own_boilerplate = find_boilerplate(_scrubbed_prompts(source, spec))
    boilerplate = own_boilerplate.with_known()
    benchmarks = raw / BENCHMARKS if raw else None
    benchmark_index(benchmarks)  # reports unreadable files now, not in a process of the pool
    prepared = row_table.prepare_rows(source, row_table.Preparation(spec, boilerplate, benchmarks, key), out / ALL_ROWS)
    table = RowTable(prepared.rows, out / ALL_ROWS)
    tell("clean_examples", f"{len(table.rows)} rows scrubbed; looking for duplicates", rows=len(table.rows))
    clusters = cluster_rows(table, prepared, boilerplate, spec)
    duplicates, contradictions = _resolve(table, boilerplate, spec)
    findings = [*prepared.findings, *(finding for _, finding in contradictions)]
    finder = finder_of(spec.data)
    contradicting = [row_table.quarantine_row(e, f, finder) for e, f in contradictions if f.severity == "error"]
    row_table.write_kept(table, out / EXAMPLES)
    np.save(out / TABLE, table.rows)
    np.save(out / SKETCHES, prepared.sketches)
    boilerplate.save(out / BOILERPLATE)
    write_rows(out / "duplicates.jsonl", duplicates)
    write_rows(out / "quarantine.jsonl", [*prepared.quarantine, *contradicting])
    write_rows(out / "findings.jsonl", as_rows(findings))
    write_rows(out / "scrubbed.jsonl", prepared.scrubbed)
    write_rows(out / SAMPLES, map(asdict, chosen_samples(prepared.samples)))
    return {**_counts(table.rows, prepared, findings, spec), "boilerplate": len(own_boilerplate.segments), **clusters}


def _scrubbed_prompts(source: Path, spec: TaskSpec) -> Iterator[str]:
    """Yield a sample of the user texts as they will be after scrubbing."""
    find = finder_of(spec.data)
    for example in _sample(source):
        yield (scrub_example(example, spec.labels, find=find)[0] if spec.data.scrub == "replace" else example).user_text


def _sample(source: Path) -> Iterator[Example]:
    """Yield the examples of a file: all, or in a large set those whose id (a hash) starts with enough zeros."""
    rows = sum(block.count(b"\n") for block in read_blocks_of_lines(source))
    zeros = 0  # every line begins with its id, a hexadecimal hash: each zero asked for leaves a sixteenth
    while rows / 16**zeros > SAMPLE:
        zeros += 1
    beginning = b'{"id":"' + b"0" * zeros
    with source.open("rb") as lines:
        for line in lines:
            if line.startswith(beginning):
                yield decode_examples(line, str(source))[0]


def _resolve(
    table: RowTable, boilerplate: Boilerplate, spec: TaskSpec
) -> tuple[list[dict[str, Any]], list[tuple[Example, Finding]]]:
    """Resolve every cluster and write the states into the table. Returns (lines of duplicates.jsonl, contradicting rows with
    their findings), in the order of rows."""
    duplicates: dict[int, dict[str, Any]] = {}
    contradictions: dict[int, tuple[Example, Finding]] = {}
    resolved = 0
    for batch in _clusters_of_several(table.rows["cluster"], np.flatnonzero(table.rows["state"] == KEPT)):
        fetched = table.fetch(np.concatenate(batch))
        examples = iter(zip(fetched, loose_forms([e.user_text for e in fetched], boilerplate), strict=True))
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


def _counts(
    rows: np.ndarray, prepared: row_table.PreparedRows, findings: Sequence[Finding], spec: TaskSpec
) -> dict[str, Any]:
    counts = np.bincount(rows["state"], minlength=GONE + 1).tolist()
    rules = Counter(f.rule for f in findings)
    hits = Counter(dict.fromkeys(KINDS, 0))
    for row in prepared.scrubbed:
        hits[row["kind"]] += row["count"]
    return {
        "rows_in": len(rows),
        "kept": counts[KEPT],
        "quarantined": counts[CONTRADICTION] + counts[GONE],
        "exact_duplicates": counts[EXACT],
        "near_duplicates": counts[NEAR],
        "contradictions": counts[CONTRADICTION],
        "benchmark_rows": rules["data.benchmark_contamination"],
        "by_rule": most_first(rules),
        "scrubbed": dict(hits),
        "scrub": spec.data.scrub,
        "scrubbed_rows": len({r["id"] for r in prepared.scrubbed}),
        "labels": row_table.count_values(rows["label"], rows["state"] == KEPT, spec.labels),
        "labels_lost": row_table.count_values(
            rows["label"], np.isin(rows["state"], (CONTRADICTION, GONE)), spec.labels
        ),
    }


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
    rows = np.load(clean / TABLE)
    _, number, sizes = np.unique(rows["cluster"], return_inverse=True, return_counts=True)
    other_rows = sizes[number] - 1
    files: dict[int, set[str]] = defaultdict(set)
    for prompt, example in zip(rows["prompt"].tolist(), stream_examples(clean / ALL_ROWS), strict=True):
        files[prompt].add(str(example.source.get("file")).removeprefix("raw/"))
    across = Counter(pair for names in files.values() for pair in combinations(sorted(names), 2))
    # a test row has no copy in training only if all its copies fell into the test, too
    leaked = float((1 - _RANDOM_TEST**other_rows).mean()) if len(rows) else 0.0
    return Copies(len(rows), int((other_rows > 0).sum()), leaked, [(*pair, n) for pair, n in across.most_common()])
