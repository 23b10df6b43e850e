"""The clean stage: personal data out, duplicates out, rows that contradict each other into quarantine."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.examples import Example, read_examples, write_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.near_duplicates import near_duplicate_clusters
from finetune_pipeline.data.scrubbing import KINDS, scrub_messages
from finetune_pipeline.data.shingles import exact_form, prompt_key, similarity
from finetune_pipeline.findings import Finding, as_rows, count_by_rule
from finetune_pipeline.spec import TaskSpec

_ORIGIN_ORDER = {"human": 0, "production": 1, "synthetic": 2}
RAW_SHOWN = 2000
_NUMBERS = re.compile(r"\d+")


@dataclass
class _Cleaned:
    """What has been decided so far; every row that came in is in exactly one of the first three."""

    kept: list[Example] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    clusters: dict[str, str] = field(default_factory=dict)
    members: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    contradictions: int = 0

    def quarantined(self, example: Example, finding: Finding) -> None:
        self.findings.append(finding)
        messages = scrub_messages(example.messages)[0]
        raw = msgspec.json.encode({"id": example.id, "messages": messages}).decode()[:RAW_SHOWN]
        self.quarantine.append(
            {
                "file": example.source.get("file"),
                "line": example.source.get("line"),
                "raw": raw,
                "findings": as_rows([finding]),
            }
        )


def preference(example: Example) -> tuple[int, int, str, str, int]:
    """Sort key, best first: human before production before synthetic, then longest, then smallest id, then source."""
    return (
        _ORIGIN_ORDER[example.origin],
        -len(example.user_text),
        example.id,
        str(example.source.get("file")),
        int(example.source.get("line") or 0),
    )


def duplicate_key(example: Example) -> tuple[str, ...]:
    """Equal for exact duplicates: the turns but the system's, in exact form."""
    return tuple(f"{m['role']}:{exact_form(m['content'])}" for m in example.messages if m["role"] != "system")


def clean(validated: Path, spec: TaskSpec, out: Path) -> dict[str, Any]:
    """Scrub, remove exact and near-duplicates (on user text), quarantine contradictions.

    Writes ``examples.jsonl`` (kept rows, ids unchanged), ``duplicates.jsonl`` (id, source, kept_id, kept_source, kind,
    similarity to the kept row), ``quarantine.jsonl``, ``findings.jsonl``, ``clusters.json`` (id of a kept row: cluster
    id), ``members.json`` (cluster id: [{id, key}] of all its rows, removed ones too), ``scrubbed.jsonl`` (id, source,
    kind, count). Facts: rows_in, kept, quarantined, exact_duplicates, near_duplicates, contradictions (clusters),
    by_rule, scrubbed (hits per kind), scrub, scrubbed_rows, labels. Always rows_in == kept + quarantined +
    exact_duplicates + near_duplicates.
    """
    examples = read_examples(validated / "examples.jsonl")
    done = _Cleaned()
    clean_rows, scrubbed = _scrub_all(examples, spec, done)
    numbers = near_duplicate_clusters([e.user_text for e in clean_rows], spec.data.near_duplicate_threshold)
    groups: defaultdict[int, list[Example]] = defaultdict(list)
    for example, number in zip(clean_rows, numbers, strict=True):
        groups[int(number)].append(example)
    for group in groups.values():
        _settle(sorted(group, key=preference), spec, done)
    position = {id(e): i for i, e in enumerate(clean_rows)}
    done.kept.sort(key=lambda e: position[id(e)])
    write_examples(out / "examples.jsonl", done.kept)
    for name, rows in (
        ("duplicates", done.duplicates),
        ("quarantine", done.quarantine),
        ("scrubbed", scrubbed),
        ("findings", as_rows(done.findings)),
    ):
        write_rows(out / f"{name}.jsonl", rows)
    write_json(out / "clusters.json", dict(sorted(done.clusters.items())))
    write_json(out / "members.json", dict(sorted(done.members.items())))
    kinds = Counter(row["kind"] for row in done.duplicates)
    hits = Counter(dict.fromkeys(KINDS, 0))
    for row in scrubbed:
        hits[row["kind"]] += row["count"]
    labels = Counter(dict.fromkeys(spec.labels, 0))
    labels.update(e.label for e in done.kept if e.label is not None)
    return {
        "rows_in": len(examples),
        "kept": len(done.kept),
        "quarantined": len(done.quarantine),
        "exact_duplicates": kinds["exact"],
        "near_duplicates": kinds["near"],
        "contradictions": done.contradictions,
        "by_rule": count_by_rule(done.findings),
        "scrubbed": dict(hits),
        "scrub": spec.data.scrub,
        "scrubbed_rows": len({(r["source"]["file"], r["source"]["line"]) for r in scrubbed}),
        "labels": dict(labels),
    }


def _scrub_all(
    examples: Sequence[Example], spec: TaskSpec, done: _Cleaned
) -> tuple[list[Example], list[dict[str, Any]]]:
    """(rows to go on with, one record per row and kind of personal data found)."""
    rows, records = [], []
    for example in examples:
        # a label is one of the spec's own words
        keep = [len(example.messages) - 1] if spec.labels else []
        messages, counts = scrub_messages(example.messages, keep)
        records += [{"id": example.id, "source": example.source, "kind": k, "count": n} for k, n in counts.items()]
        if counts and spec.data.scrub != "replace":
            told = ", ".join(f"{n} {k}" for k, n in counts.items())
            drop = spec.data.scrub == "drop"
            finding = Finding(
                "data.personal_data",
                "error" if drop else "warning",
                example.place,
                f"personal data or secrets in the text: {told}",
                "remove them at the source, or set data.scrub: replace",
            )
            if drop:
                done.quarantined(example, finding)
                continue
            done.findings.append(finding)
        rows.append(replace(example, messages=messages) if spec.data.scrub == "replace" else example)
    return rows, records


def _settle(group: list[Example], spec: TaskSpec, done: _Cleaned) -> None:
    """Decide one cluster; `group` is in order of preference."""
    answers: defaultdict[str, list[Example]] = defaultdict(list)
    for example in group:
        answers[exact_form(example.answer)].append(example)
    if spec.labels and len(answers) > 1:
        done.contradictions += 1
        for example in group:
            done.quarantined(example, _contradiction(example, group))
        return
    cluster = min(e.id for e in group)
    done.members[cluster] = [dict(t) for t in sorted({(("id", e.id), ("key", prompt_key(e))) for e in group})]
    kept: list[Example] = []
    stands_for: dict[tuple[str, ...], Example] = {}
    for example in group:
        key = duplicate_key(example)
        kind, match = "exact", stands_for.get(key)
        if match is None:
            kind, match = "near", next((k for k in kept if spec.labels or _same_answer(example, k, spec)), None)
        if match is None:
            kept.append(example)
            stands_for[key] = example
            continue
        stands_for.setdefault(key, match)
        done.duplicates.append(
            {
                "id": example.id,
                "source": example.source,
                "kept_id": match.id,
                "kept_source": match.source,
                "kind": kind,
                "similarity": round(similarity(example.user_text, match.user_text), 4),
            }
        )
    if not spec.labels:
        _warn_of_other_answers(kept, done)
    done.kept += kept
    done.clusters.update({e.id: cluster for e in kept})


def _same_answer(a: Example, b: Example, spec: TaskSpec) -> bool:
    """In a task with free answers a near-duplicate question with another answer is no repetition: it is kept."""
    if _NUMBERS.findall(a.answer) != _NUMBERS.findall(b.answer):
        return False
    return similarity(a.answer, b.answer) >= spec.data.near_duplicate_threshold


def _contradiction(example: Example, group: list[Example]) -> Finding:
    """Names the most similar row that says something else."""
    others = [e for e in group if exact_form(e.answer) != exact_form(example.answer)]
    scored = [(-similarity(example.user_text, e.user_text), e.place, e) for e in others[:50]]
    likeness, _, partner = min(scored, key=lambda t: t[:2])
    alike = (
        "the same text"
        if exact_form(example.user_text) == exact_form(partner.user_text)
        else (f"nearly the same text (similarity {-likeness:.2f})")
    )
    return Finding(
        "data.contradiction",
        "error",
        example.place,
        f"answered {example.answer!r} here, but {alike} is answered {partner.answer!r} in {partner.place}",
        "decide which answer is right and remove or correct the other row",
    )


def _warn_of_other_answers(kept: list[Example], done: _Cleaned) -> None:
    """Free answers may differ with reason: equal questions with different answers are shown, and kept."""
    by_prompt: defaultdict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in kept:
        by_prompt[duplicate_key(example)[:-1]].append(example)
    for same in by_prompt.values():
        if len(same) > 1:
            done.contradictions += 1
            done.findings += [
                Finding(
                    "data.contradiction",
                    "warning",
                    example.place,
                    f"the same question has another answer in {same[1 if example is same[0] else 0].place}",
                    "nothing, if both answers are right; else remove one",
                )
                for example in same
            ]
