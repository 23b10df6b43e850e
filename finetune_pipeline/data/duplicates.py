"""The clean stage: personal data out, duplicates out, rows that contradict each other into quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.artifacts import digest_json, read_json
from finetune_pipeline.data.array_files import array_file
from finetune_pipeline.data.clean_rows import save_clean_rows
from finetune_pipeline.data.clustering import describe
from finetune_pipeline.data.columns import LOST, Table
from finetune_pipeline.data.contamination import MATCHES, load_benchmarks
from finetune_pipeline.data.cycles import cycles_left_alone
from finetune_pipeline.data.deciding import GONE, TABLE, Decided, decide, parts_of
from finetune_pipeline.data.examples import PARTS, stream_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.parts import Workers, joined, link, part_key, read_index, seal_part, take_over, write_index
from finetune_pipeline.data.preparing import Preparation, prepare_part
from finetune_pipeline.data.prompt_skeletons import with_known
from finetune_pipeline.data.scrubbing import KINDS
from finetune_pipeline.data.settling import CONTRADICTION, EXACT, KEPT, NEAR
from finetune_pipeline.data.templates import Templates, find_templates
from finetune_pipeline.data.validation import SAMPLED
from finetune_pipeline.findings import Finding, as_rows
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

CODE = "2"
"""Raise when a part is prepared differently: parts of earlier artifacts are then not taken over."""
PREPARED = "scrubbed"
TEMPLATES = "templates.json"
LARGE_ROWS = 50_000
_SAMPLE = 20_000
_SUSPECTS_TOLD = 200


@cycles_left_alone()
def clean(
    validated: Path,
    spec: TaskSpec,
    out: Path,
    *,
    raw: Path | None = None,
    key: bytes = b"",
    earlier: Sequence[Path] = (),
    processes: int | None = None,
) -> dict[str, Any]:
    """Scrub, find rows that ask the same, remove repeats, quarantine contradictions and copies of benchmark items.

    `raw`: the raw artifact's folder, for its benchmark files; `key`: of the fingerprints of what was scrubbed;
    `earlier`: folders of earlier clean artifacts, whose unchanged parts and verified pairs are taken over.

    Writes parts with ``examples.jsonl`` (kept rows, ids unchanged), and for all of them ``duplicates.jsonl`` (id, source,
    kept_id, kept_source, kind, similarity of the prompts), ``quarantine.jsonl``, ``findings.jsonl``,
    ``scrubbed.jsonl`` (id, source, kind, count, fingerprints), ``templates.json`` and ``rows.npy`` (CLEAN_ROW: every
    valid row and its cluster, removed ones too). Facts: rows_in, kept, quarantined, exact_duplicates, near_duplicates,
    contradictions (rows), benchmark_rows, by_rule, scrubbed (hits per kind), scrub, scrubbed_rows, labels, templates,
    clusters, prompts, similar_pairs, parts and taken_over. Always rows_in == kept + quarantined + exact_duplicates +
    near_duplicates.
    """
    out.mkdir(parents=True, exist_ok=True)
    index = read_index(validated)
    sources = [validated / PARTS / part["key"] for part in index]
    total = sum(part["kept"] for part in index)
    templates = with_known(find_templates(sample_prompts(validated, total)))
    how = Preparation(spec, templates, load_benchmarks(raw), key)
    with Workers(total > LARGE_ROWS, processes) as workers:
        keys, taken = _prepare(index, sources, how, out, earlier, workers)
        prepared = [out / PREPARED / k for k in keys]
        table = Table.load(prepared, [part["file"] for part in index])
        rows = table.rows
        tell("clean_examples", f"{len(rows)} rows scrubbed; looking for duplicates", rows=len(rows))
        decided = decide(table, prepared, templates, spec, earlier, workers)
        with ThreadPoolExecutor(1) as aside:  # what is written of all rows is large, even where few of them are new
            saved = aside.submit(_save, table, decided, spec, prepared, out)
            kept_counts = _write_parts(index, keys, table, decided.states, out, earlier, workers)
            write_index(out, kept_counts)
            write_rows(out / TEMPLATES, [templates.to_dict()])
            findings = [*decided.outcomes.findings(), *as_rows(_suspected(table, decided.suspects))]
            _join(out, prepared, decided.outcomes.quarantine(), findings)
            facts = {
                **_facts(table, decided.states, prepared, findings, spec),
                "templates": len(templates.segments) - len(with_known(Templates()).segments),
                "clusters": decided.count,
                **describe(decided.pairs),
                "semantic_suspects": len(decided.suspects),
                "examples": _shown(table, decided),
                "parts": len(index),
                "taken_over": taken,
            }
            saved.result()
    return facts


def _join(out: Path, prepared: Sequence[Path], quarantine: Iterable[Any], findings: Iterable[Any]) -> None:
    """The parts' tables of one kind as one table each, with what was found out about all rows together behind it."""
    for name, extra in (
        ("quarantine.jsonl", quarantine),
        ("findings.jsonl", findings),
        ("scrubbed.jsonl", []),
        (MATCHES, []),
    ):
        joined(out, name, prepared)
        with (out / name).open("ab") as whole:
            for row in extra:
                whole.write(msgspec.json.encode(row) + b"\n")


def _save(table: Table, decided: Decided, spec: TaskSpec, prepared: Sequence[Path], out: Path) -> None:
    decided.save(out, spec, parts_of(table, prepared))
    save_clean_rows(out / TABLE, table, decided)


def sample_prompts(validated: Path, total: int) -> Iterator[str]:
    """User texts to find shared templates in: all of them, or those whose id (a hash) begins with enough zeros."""
    zeros = 0
    while total / 16**zeros > _SAMPLE:
        zeros += 1
    if not zeros:
        for example in stream_examples(validated):
            yield example.user_text
        return
    decoder = msgspec.json.Decoder()
    for part in read_index(validated):
        folder = validated / PARTS / part["key"]
        sampled = array_file(folder / SAMPLED)
        chosen = sampled.read_into(np.empty(sampled.nbytes, np.uint8))
        chosen = chosen[chosen["zeros"] >= zeros]
        with (folder / "examples.jsonl").open("rb") as lines:
            for _, start, end in chosen.tolist():
                lines.seek(start)
                row = decoder.decode(lines.read(end - start))
                yield "\n".join(m["content"] for m in row["messages"] if m["role"] == "user")


def _prepare(
    index: Sequence[dict[str, Any]],
    sources: Sequence[Path],
    how: Preparation,
    out: Path,
    earlier: Sequence[Path],
    workers: Workers,
) -> tuple[list[str], int]:
    """Prepare every part, or take it over. Returns (keys of the prepared parts, number taken over)."""
    spec = how.spec
    depends = [
        CODE,
        digest_json([spec.labels, spec.data.scrub, spec.data.scrub_names, spec.data.near_duplicate_threshold]),
        how.templates.to_dict(),
        how.benchmarks.digest if how.benchmarks else None,
        digest_json(how.key.hex()),
    ]
    keys = [part_key(depends, part["key"]) for part in index]
    different = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(2) as threads:  # making folders takes the file system longer than this program
        found = threads.map(lambda key: take_over(PREPARED, key, out, earlier), different)
        done = dict(zip(different, found, strict=True))
    taken = [done[key] for key in keys]
    todo = [
        (source, out / PREPARED / f".making-{key}", out / PREPARED / key)
        for source, key, found in zip(sources, keys, taken, strict=True)
        if not found
    ]
    for number, _ in enumerate(workers.run(partial(_prepare_one, how=how), todo), 1):
        tell("clean_examples", f"{number} of {len(todo)} parts scrubbed and sketched", step=number, of=len(todo))
    return keys, sum(taken)


def _prepare_one(item: tuple[Path, Path, Path], how: Preparation) -> None:
    prepare_part(*item, how)


def _write_parts(
    index: Sequence[dict[str, Any]],
    keys: Sequence[str],
    table: Table,
    states: np.ndarray,
    out: Path,
    earlier: Sequence[Path],
    workers: Workers,
) -> list[dict[str, Any]]:
    """The kept rows of every part; parts that lose nothing are links."""
    ends = np.searchsorted(table.part, np.arange(len(keys)), side="right")
    starts = np.searchsorted(table.part, np.arange(len(keys)), side="left")
    parts, todo = [], []
    for part, key, a, b in zip(index, keys, starts, ends, strict=True):
        mask = states[a:b] == KEPT
        final = part_key(key, np.packbits(mask).tobytes().hex(), len(mask))
        parts.append({"key": final, "prepared": key, "file": part["file"], "kept": int(mask.sum())})
        if not take_over(PARTS, final, out, earlier):
            todo.append((out / PREPARED / key, mask, out / PARTS / f".making-{final}", out / PARTS / final))
    for _ in workers.run(keep_rows, todo):
        pass
    return parts


def keep_rows(item: tuple[Path, np.ndarray, Path, Path]) -> None:
    """Write the part `final` with those lines of the part `source` whose mask is True."""
    source, mask, making, final = item
    making.mkdir(parents=True, exist_ok=True)
    if mask.all():
        link(source / "examples.jsonl", making / "examples.jsonl")
    else:
        lines = (source / "examples.jsonl").read_bytes().splitlines(keepends=True)
        (making / "examples.jsonl").write_bytes(
            b"".join(line for line, keep in zip(lines, mask.tolist(), strict=True) if keep)
        )
    seal_part(making, final)


def _shown(table: Table, decided: Decided, each: int = 3) -> dict[str, list[dict[str, Any]]]:
    """A few removed repeats of each kind with the row that stays, for people."""
    chosen: dict[str, list[dict[str, Any]]] = {}
    removed = np.flatnonzero((decided.states == EXACT) | (decided.states == NEAR))
    for kind, state in (("exact", EXACT), ("near", NEAR)):
        for place in np.flatnonzero(decided.states[removed] == state)[:each].tolist():
            told = msgspec.json.decode(decided.repeats[place])
            stays = np.flatnonzero(table.rows["id"] == int(told["kept_id"], 16)).tolist()
            where = f"{told['kept_source']['file']}:{told['kept_source']['line']}"
            kept = next(i for i in stays if table.place(i) == where)
            pair = table.fetch(np.array([removed[place], kept]))
            chosen.setdefault(kind, []).append(
                {
                    "place": pair[0].place,
                    "text": _cut(pair[0].user_text),
                    "stays": pair[1].place,
                    "text_that_stays": _cut(pair[1].user_text),
                    "similarity": told["similarity"],
                }
            )
    return chosen


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else flat[:199] + "…"


def _suspected(table: Table, suspects: Sequence[tuple[int, int, float]]) -> list[Finding]:
    """Rows that may mean the same, the likeliest first."""
    return [
        Finding(
            "data.semantic_suspect",
            "warning",
            table.place(i),
            f"may mean the same as {table.place(j)} (cosine similarity {likeness:.2f})",
            "look at the two; drop one by a line in reviews/ if they repeat each other",
        )
        for i, j, likeness in suspects[:_SUSPECTS_TOLD]
    ]


def _facts(
    table: Table,
    states: np.ndarray,
    prepared: Sequence[Path],
    findings: Sequence[dict[str, Any]],
    spec: TaskSpec,
) -> dict[str, Any]:
    told = [read_json(folder / "facts.json") for folder in prepared]
    hits = Counter(dict.fromkeys(KINDS, 0))
    rules: Counter[str] = Counter(row["rule"] for row in findings)
    for facts in told:
        hits.update(facts["scrubbed"])
        rules.update(facts["by_rule"])
    counts = np.bincount(states, minlength=GONE + 1)
    kept_labels = np.bincount(table.rows["label"][states == KEPT] + 1, minlength=len(spec.labels) + 1)
    return {
        "rows_in": len(states),
        "kept": int(counts[KEPT]),
        "quarantined": int(counts[CONTRADICTION] + counts[GONE]),
        "exact_duplicates": int(counts[EXACT]),
        "near_duplicates": int(counts[NEAR]),
        "contradictions": int(counts[CONTRADICTION]),
        "benchmark_rows": int((table.rows["lost"] == LOST.index("benchmark")).sum()),
        "by_rule": dict(sorted(rules.items(), key=lambda kv: (-kv[1], kv[0]))),
        "scrubbed": dict(hits),
        "scrub": spec.data.scrub,
        "scrubbed_rows": sum(facts["touched"] for facts in told),
        "labels": {label: int(n) for label, n in zip(spec.labels, kept_labels[1:], strict=True)},
    }
