"""Checks of the DATA stage and of what production wrote."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from finetune_pipeline.data.examples import decode_examples, examples_file, stream_examples
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.scrub import spans_left
from finetune_pipeline.data.split.leakage import leakage_report
from finetune_pipeline.engine.checks import Answer, Check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.spec.model import TaskSpec

PERSONAL_DATA_SAMPLE = 20_000


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
    """Every line begins with the declared system turn. Counted in the bytes: quotes inside a text are escaped, so that
    what is looked for cannot stand in one."""
    turn = msgspec.json.encode({"role": "system", "content": spec.system_prompt})
    rows, without = 0, []
    file = examples_file(artifact.folder)
    for data in read_blocks_of_lines(file):
        lines = data.count(b"\n")
        rows += lines
        if data.count(b'"messages":[' + turn) != lines:
            wanted = {"role": "system", "content": spec.system_prompt}
            without += [e.id for e in decode_examples(data, str(file)) if e.messages[0] != wanted]
    return Answer(
        rows > 0 and not without,
        f"{len(without)} of {rows} examples lack the declared system prompt",
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
    """Looks again, at all rows or at a sample of a large set chosen by id."""
    total = artifact.facts["kept"]
    every = -(-total // PERSONAL_DATA_SAMPLE)
    looked, found = 0, []
    for example in stream_examples(artifact.folder):
        if every > 1 and int(example.id, 16) % every:
            continue
        looked += 1
        found += [(example.id, kind) for kind in spans_left(example, spec.labels)]
    kinds = sorted({kind for _, kind in found})
    where = "" if every <= 1 else f" in a sample of {looked} of {total} rows"
    return Answer(
        not found and (looked > 0 or total == 0),
        f"none found{where}" if not found else f"{len(found)} left in the examples{where}: {', '.join(kinds)}",
        {"examples": [i for i, _ in found[:5]], "rows_looked_at": looked},
    )


def enough_examples(artifact: Artifact, spec: TaskSpec) -> Answer:
    kept, needed = artifact.facts["kept"], spec.data.min_examples
    return Answer(kept >= needed, f"{kept} examples, at least {needed} asked for", {"kept": kept, "needed": needed})


def enough_per_label(artifact: Artifact, spec: TaskSpec) -> Answer:
    if not spec.labels:
        return Answer(True, "no labels in this task")
    counts = {label: artifact.facts["labels"][label] for label in spec.labels}
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
    leaks = report["exact"] + report["near"] + report["group"]
    if spec.data.semantic is not None and spec.data.semantic.remove:
        leaks += report["semantic"]
    again = sum(sum(kinds.values()) for kinds in report.get("all_pairs", {}).values())
    canaries = report["canaries"]
    proven = 0 < canaries["planted"] == canaries["found"] and not canaries["missed"]
    told = (
        f"{report['exact']} exact, {report['near']} near and {report['group']} group leaks between splits; "
        f"{canaries['found']} of {canaries['planted']} planted leaks found"
    )
    if report["changed"]:
        told += f"; changed since they were certified: {', '.join(report['changed'])}"
    if again:
        told += f"; {again} leaks found when all pairs were compared"
    if report["semantic"]:
        told += f"; {report['semantic']} pairs across splits are suspected to mean the same"
    return Answer(leaks == 0 and again == 0 and proven and not report["changed"], told, report)


def split_sizes(artifact: Artifact, spec: TaskSpec) -> Answer:
    shares = artifact.facts["shares"]
    wanted = {"validation": spec.split.validation, "test": spec.split.test}
    off = {k: shares[k] for k, w in wanted.items() if abs(shares[k] - w) > spec.split.tolerance}
    return Answer(
        not off, ", ".join(f"{k} {shares[k]:.3f} (wanted {w})" for k, w in wanted.items()), {"shares": shares}
    )


def splits_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    placed = {k: f["counts"][k] for k in ("train", "validation", "test")}
    return _accounted(f["rows_in"] + f["restored"], **placed, quarantined=f["quarantined"])


def _quality(part: str) -> Callable[[Artifact, TaskSpec], Answer]:
    def judge(artifact: Artifact, spec: TaskSpec) -> Answer:
        told = artifact.facts["parts"][part]
        return Answer(told["passed"] is True, told["message"])

    return judge


def labels_believable(artifact: Artifact, spec: TaskSpec) -> Answer:
    """Few labels are wrong. A "no" warns, and blocks where the report says that they are too many."""
    noise = artifact.facts["parts"]["noise"]
    return Answer(noise["passed"] is True, noise["message"], warns=noise["blocking"] is False)


def logs_accounted(artifact: Artifact, spec: TaskSpec) -> Answer:
    f = artifact.facts
    return _accounted(
        f["lines"],
        kept=f["rows"],
        quarantined=f["quarantined"],
        duplicates=f["duplicates"],
        feedback=f["feedback"],
    )


def nothing_held_back(artifact: Artifact, spec: TaskSpec) -> Answer:
    rules = artifact.facts["held_by_rule"]
    told = ", ".join(f"{n} by {rule}" for rule, n in rules.items())
    return Answer(
        not rules and artifact.facts["held"] == 0,
        f"{artifact.facts['held']} corrected rows are held back{f' ({told})' if told else ''}; "
        f"{artifact.facts['corrections']} train a model",
        dict(rules),
    )


CHECKS = [
    Check(
        "nothing_held_back",
        "production_logs",
        "No corrected row looks as if it was made to spoil the training (held.jsonl says why).",
        nothing_held_back,
        blocking=False,
        advisory=True,
    ),
    Check(
        "logs_accounted_for",
        "production_logs",
        "Every complete log line is kept, a duplicate, feedback to another line, or quarantined.",
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
    Check(
        "enough_reviewed_examples",
        "data_quality",
        "After review there are still data.min_examples examples, and data.min_per_label of each label.",
        _quality("size"),
    ),
    Check(
        "synthetic_rows_reviewed",
        "data_quality",
        "A sample of the synthetic rows has been reviewed by people, and few enough were rejected.",
        _quality("synthetic"),
    ),
    Check(
        "labels_believable",
        "data_quality",
        "Few labels are wrong, by a cross-validated model. Blocks when surely more than data.max_label_noise are, or when "
        "the other files contradict most labels of a raw file: the test would judge by such labels, too.",
        labels_believable,
    ),
    *(
        Check(name, "data_quality", description, _quality(part), blocking=False, advisory=True)
        for name, part, description in (
            ("class_balance", "balance", "The largest label has at most data.max_imbalance times the smallest's rows."),
            (
                "one_output_format",
                "consistency",
                "JSON answers have the same keys and types; answers that recur are spelt alike.",
            ),
            ("benchmarks_kept_out", "contamination", "Rows that repeat a benchmark item were left out, and few."),
            ("rows_fit", "tokens", "No row is longer than training.max_tokens."),
        )
    ),
]
