"""Checks of the DATA stage and of what production wrote."""

from __future__ import annotations

from finetune_pipeline.artifacts import Artifact
from finetune_pipeline.checks.base import Answer, Check
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.leakage import leakage_report
from finetune_pipeline.data.scrubbing import find_spans
from finetune_pipeline.spec.model import TaskSpec


def _accounted(rows_in: int, **parts: int) -> Answer:
    total = sum(parts.values())
    told = " + ".join(f"{n} {name}" for name, n in parts.items())
    return Answer(
        rows_in == total and rows_in >= 0,
        f"{rows_in} rows in = {told}"
        if rows_in == total
        else f"{rows_in} rows in, but {told} = {total}: {abs(rows_in - total)} unaccounted for",
        {"rows_in": rows_in, **parts},
    )


def raw_found(artifact: Artifact, spec: TaskSpec) -> Answer:
    lines, files = artifact.facts["lines"], artifact.facts["files"]
    return Answer(lines > 0, f"{lines} lines in {len(files)} files")


def validated_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    return _accounted(f["rows_in"], kept=f["kept"], quarantined=f["quarantined"])


def quarantine_share(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    share, limit = f["quarantined"] / f["rows_in"] if f["rows_in"] else 1.0, spec.data.max_quarantine_share
    return Answer(
        share <= limit,
        f"{share:.1%} of the rows are in quarantine, at most {limit:.0%} allowed",
        {"share": share, "limit": limit},
    )


def system_prompt_present(artifact: Artifact, spec: TaskSpec) -> Answer:
    rows = read_examples(artifact.path("examples.jsonl"))
    without = [e.id for e in rows if e.messages[0] != {"role": "system", "content": spec.system_prompt}]
    return Answer(
        bool(rows) and not without,
        f"{len(without)} of {len(rows)} examples lack the declared system prompt",
        {"examples": without[:5]},
    )


def clean_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    return _accounted(
        f["rows_in"],
        kept=f["kept"],
        quarantined=f["quarantined"],
        exact_duplicates=f["exact_duplicates"],
        near_duplicates=f["near_duplicates"],
    )


def no_personal_data(artifact: Artifact, spec: TaskSpec) -> Answer:
    # system prompts and labels are the spec's own words, and are not scrubbed
    unscrubbed = ("system", "assistant") if spec.labels else ("system",)
    found = [
        (e.id, hit.kind)
        for e in read_examples(artifact.path("examples.jsonl"))
        for m in e.messages
        if m["role"] not in unscrubbed
        for hit in find_spans(m["content"])
    ]
    kinds = sorted({kind for _, kind in found})
    return Answer(
        not found,
        "none found" if not found else f"{len(found)} left in the examples: {', '.join(kinds)}",
        {"examples": [i for i, _ in found[:5]]},
    )


def enough_examples(artifact: Artifact, spec: TaskSpec) -> Answer:
    kept, needed = artifact.facts["kept"], spec.data.min_examples
    return Answer(kept >= needed, f"{kept} examples, at least {needed} asked for", {"kept": kept, "needed": needed})


def enough_per_label(artifact: Artifact, spec: TaskSpec) -> Answer:
    if not spec.labels:
        return Answer(True, "no labels in this task")
    rows = read_examples(artifact.path("examples.jsonl"))
    counts = {label: sum(e.label == label for e in rows) for label in spec.labels}
    few = {label: n for label, n in counts.items() if n < spec.data.min_per_label}
    told = ", ".join(f"{label}: {n}" for label, n in few.items())
    return Answer(
        not few,
        f"every label has {spec.data.min_per_label} or more"
        if not few
        else f"under {spec.data.min_per_label} examples: {told}",
        {"counts": counts},
    )


def reviews_applied(artifact: Artifact, spec: TaskSpec) -> Answer:
    bad = sum(artifact.facts["by_rule"].values())
    return Answer(
        bad == 0,
        f"{artifact.facts['decisions']} decisions, {bad} of them could not be applied",
        dict(artifact.facts["by_rule"]),
    )


def no_leakage(artifact: Artifact, spec: TaskSpec) -> Answer:
    report = leakage_report(artifact.folder, spec)
    leaks, canaries = report["exact"] + report["near"], report["canaries"]
    good = leaks == 0 and 0 < canaries["planted"] == canaries["found"]
    return Answer(
        good,
        f"{report['exact']} exact and {report['near']} near-duplicate pairs across splits; "
        f"{canaries['found']} of {canaries['planted']} planted leaks found",
        report,
    )


def split_sizes(artifact: Artifact, spec: TaskSpec) -> Answer:
    shares = artifact.facts["shares"]
    wanted = {"validation": spec.split.validation, "test": spec.split.test}
    off = {k: shares[k] for k, w in wanted.items() if abs(shares[k] - w) > spec.split.tolerance}
    return Answer(
        not off, ", ".join(f"{k} {shares[k]:.3f} (wanted {w})" for k, w in wanted.items()), {"shares": shares}
    )


def splits_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    return _accounted(
        f["rows_in"], **{k: f["counts"][k] for k in ("train", "validation", "test")}, quarantined=f["quarantined"]
    )


def logs_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    return _accounted(f["lines"], kept=f["rows"], quarantined=f["quarantined"], duplicates=f["duplicates"])


CHECKS = [
    Check(
        "logs_accounted_for",
        "production_logs",
        "Every complete log line is kept, a duplicate, or quarantined.",
        logs_accounted,
    ),
    Check("raw_files_found", "raw_examples", "There is something to read.", raw_found),
    Check("rows_accounted_for", "validated_examples", "Rows in = kept + quarantined.", validated_accounted),
    Check(
        "quarantine_share",
        "validated_examples",
        "The share of bad rows is within data.max_quarantine_share.",
        quarantine_share,
    ),
    Check(
        "system_prompt_present",
        "validated_examples",
        "Every example begins with the declared system prompt.",
        system_prompt_present,
    ),
    Check("rows_accounted_for", "clean_examples", "Rows in = kept + quarantined + duplicates.", clean_accounted),
    Check(
        "no_personal_data",
        "clean_examples",
        "No personal data or secret is left.",
        no_personal_data,
        blocking=lambda spec: spec.data.scrub != "warn",
    ),
    Check("enough_examples", "clean_examples", "At least data.min_examples examples.", enough_examples),
    Check(
        "enough_per_label",
        "clean_examples",
        "At least data.min_per_label examples of each label.",
        enough_per_label,
        blocking=False,
        advisory=True,
    ),
    Check(
        "reviews_applied",
        "reviewed_examples",
        "Every decision of a reviewer refers to an existing example.",
        reviews_applied,
        blocking=False,
        advisory=True,
    ),
    Check(
        "no_leakage", "splits", "No exact or near duplicate lies in two splits; planted leaks are found.", no_leakage
    ),
    Check("rows_accounted_for", "splits", "Rows in = train + validation + test + quarantined.", splits_accounted),
    Check("split_sizes", "splits", "Shares are within split.tolerance.", split_sizes, blocking=False, advisory=True),
]
