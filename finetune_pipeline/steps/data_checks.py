"""Checks of the DATA stage and of production logs."""

import math
from dataclasses import asdict, replace

import msgspec

from finetune_pipeline.data.dedup.cleaning import Cleaned
from finetune_pipeline.data.examples import decode_examples, examples_file
from finetune_pipeline.data.json_lines import read_blocks_of_lines
from finetune_pipeline.data.losses import Lost
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.review import Reviewed
from finetune_pipeline.data.scrub import finder_of, kinds_left
from finetune_pipeline.data.split.leakage import LEAKAGE, Certificate
from finetune_pipeline.data.split.ledger import LEDGER
from finetune_pipeline.data.split.splitting import RESTART, SplitFacts
from finetune_pipeline.data.validate.validation import Validated
from finetune_pipeline.engine.checks import Action, Check, CheckResult, check
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.production.log_merging import LogFacts
from finetune_pipeline.review.people_queue import rows_wanted
from finetune_pipeline.spec.model import TaskSpec

PERSONAL_DATA_SAMPLE = 20_000
"""Rows above which only a sample is searched for personal data."""
SHOWN = 3
"""Maximum findings listed in a message."""
FEW = 20
"""Minimum rows for testing a label's share in quarantine."""
MOST_LEFT, TOO_MANY_LEFT = 0.05, 0.5
"""Shares of rows dropped from training and validation above which the check warns, and blocks."""
LEAST_RECALL = 0.8
"""Recall of a kind of edited copies below which the check warns."""


def _accounted(rows_in: int, **parts: int) -> CheckResult:
    total = sum(parts.values())
    terms = " + ".join(f"{n} {name}" for name, n in parts.items())
    message = f"{rows_in} rows in = {terms}"
    if rows_in != total:
        message = f"{rows_in} rows in, but {terms} = {total}: {abs(rows_in - total)} unaccounted for"
    return CheckResult(rows_in == total and rows_in >= 0, message, {"rows_in": rows_in, **parts})


def _rows_accounted(description: str, *parts: str) -> Check:
    """Return a check that the number of input rows is the sum of these facts."""
    form = msgspec.defstruct("Rows", [(name, int) for name in ("rows_in", *parts)])

    def judge(artifact: Artifact, spec: TaskSpec) -> CheckResult:
        counts = msgspec.structs.asdict(artifact.read(form))
        return _accounted(**counts)

    return Check("rows_accounted_for", description, judge)


unlabelled_accounted = _rows_accounted("Rows in = kept + quarantined + repeats.", "kept", "quarantined", "repeats")
answers_accounted = _rows_accounted("Rows in = kept + left out.", "kept", "left_out")
validated_accounted = _rows_accounted("Rows in = kept + quarantined.", "kept", "quarantined")
clean_accounted = _rows_accounted(
    "Rows in = kept + quarantined + duplicates.", "kept", "quarantined", "exact_duplicates", "near_duplicates"
)


@check("Every raw file was read, to its end (or data.allow_truncated is set).")
def files_read(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Check that there are rows and every raw file was read to its end: nobody knows how many rows the unread rest has."""
    facts = artifact.read(Validated)
    rows = facts.rows_in
    serious = [finding for finding in facts.unread if finding.severity == "error" or not rows]
    accepted = [finding for finding in serious if finding.about == "rest" and spec.data.allow_truncated]
    refused = [finding for finding in serious if finding not in accepted]
    listed = [f"{f.place}: {f.message} (fix: {f.fix})" for f in (refused or accepted)[:SHOWN]]
    if len(refused) > SHOWN:
        listed.append(f"and {len(refused) - SHOWN} more")
    message = " | ".join(listed)
    if accepted and not refused:
        message = f"accepted by data.allow_truncated: {message}"
    elif not listed:
        message = "every file was read to its end" if rows > 0 else "there are no rows"
    return CheckResult(rows > 0 and not refused, message)


@check(
    "The share of rows lost so far, for any reason but plain duplicates, is within data.max_quarantine_share, in all and for "
    "every label."
)
def quarantine_share(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Check the share of lost rows in total, and by label: one label may lose most of its rows while few are lost in total."""
    losses, limit = artifact.read(Lost).losses, spec.data.max_quarantine_share
    rows = losses.label_rows
    thinned = [
        f"{lost} of {rows[label]} rows of {label}"
        for label, lost in losses.labels.items()
        if rows[label] >= FEW and lost > limit * rows[label]
    ]
    message = f"{losses.words()}; at most {limit:.0%} are allowed"
    if thinned:
        message += f"; by label: {', '.join(thinned)}"
    return CheckResult(losses.share <= limit and not thinned, message, {"share": losses.share, "limit": limit})


@check("Every example begins with the declared system prompt.")
def system_prompt_present(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Check that the messages of every example begin with the declared system turn.

    Blocks of lines are searched for its bytes, and only those that lack some are parsed. Texts cannot contain these bytes,
    since their quotes are escaped.
    """
    system_turn = {"role": "system", "content": spec.system_prompt}
    encoded_turn = msgspec.json.encode(system_turn)
    rows, lacking = 0, []
    file = examples_file(artifact.folder)
    for block in read_blocks_of_lines(file):
        lines = block.count(b"\n")
        rows += lines
        if block.count(b'"messages":[' + encoded_turn) != lines:
            lacking += [e.id for e in decode_examples(block, str(file)) if e.messages[0] != system_turn]
    return CheckResult(
        not lacking and rows == artifact.read(Validated).kept,
        f"{len(lacking)} of {rows} examples lack the declared system prompt" if rows else "there are no examples",
        {"examples": lacking[:5]},
    )


@check("No personal data or secret is left.", on_failure=lambda spec: "fail" if spec.data.scrub == "warn" else "block")
def no_personal_data(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Search the scrubbed rows again; of a large set, a sample chosen by id."""
    total = artifact.read(Cleaned).kept
    stride = math.ceil(total / PERSONAL_DATA_SAMPLE)
    searched, remaining = 0, []
    find = finder_of(spec.data, names=False)
    file = examples_file(artifact.folder)
    for block in read_blocks_of_lines(file):
        lines = block.splitlines(keepends=True)
        if stride > 1:  # every line begins with its id
            lines = [line for line in lines if int(line[len(b'{"id":"') :][:16], 16) % stride == 0]
        examples = decode_examples(b"".join(lines), str(file))
        searched += len(examples)
        remaining += [(example.id, kind) for example in examples for kind in kinds_left(example, spec.labels, find)]
    kinds = ", ".join(sorted({kind for _, kind in remaining}))
    where = "" if stride <= 1 else f" in a sample of {searched} of {total} rows"
    message = f"{len(remaining)} left in the examples{where}: {kinds}" if remaining else f"none found{where}"
    figures = {"examples": [example_id for example_id, _ in remaining[:5]], "rows_looked_at": searched}
    return CheckResult(not remaining and (searched > 0 or total == 0), message, figures)


@check("At least data.min_examples examples.")
def enough_examples(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    n, needed = artifact.read(Reviewed).kept, spec.data.min_examples
    return CheckResult(n >= needed, f"{n} examples, at least {needed} required", {"kept": n, "needed": needed})


@check("At least data.min_per_label examples of each label.")
def enough_per_label(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    if not spec.labels:
        return CheckResult(True, "no labels in this task")
    labels = artifact.read(Reviewed).labels
    counts = {label: labels[label] for label in spec.labels}
    least = spec.data.min_per_label
    rare = ", ".join(f"{label}: {n}" for label, n in counts.items() if n < least)
    message = f"fewer than {least} examples: {rare}" if rare else f"every label has {least} or more"
    return CheckResult(not rare, message, {"counts": counts})


@check("Every review decision refers to an existing example.", on_failure="warn")
def reviews_applied(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(Reviewed)
    failed = sum(facts.by_rule.values())
    message = f"{facts.decisions} decisions; {failed} lines or files could not be used"
    return CheckResult(failed == 0, message, facts.by_rule)


@check(
    "No exact or near duplicates are in two splits; planted leaks and most edited copies are found. Only warns if just the "
    f"recall of a kind of edited copies is significantly below {LEAST_RECALL:.0%}."
)
def no_leakage(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    report = Certificate.read(artifact.path(LEAKAGE))
    leaks, changed = report.exact + report.near + report.group, report.changed(artifact.folder)
    canaries, tested = report.canaries, {kind: edit for kind, edit in report.edited.items() if edit.interval}
    is_blind = bool(tested) and not any(edit.found for edit in tested.values())
    # by time only rows that repeat a test row leave training, so that copies with many edits stay, as promised
    weak = tested if spec.split.by != "time" else {}
    low_recall = [kind for kind, edit in weak.items() if edit.interval and edit.interval[1] < LEAST_RECALL]
    search_works = 0 < canaries.planted == canaries.found and not canaries.missed and not is_blind
    message = (
        f"{report.exact} exact, {report.near} near and {report.group} group leaks between splits; "
        f"{canaries.found} of {canaries.planted} planted leaks found; edited copies found (95% intervals): "
        f"{', '.join(f'{kind} {edit.words()}' for kind, edit in report.edited.items())}"
    )
    if changed:
        message += f"; changed since they were certified: {', '.join(changed)}"
    if report.alike:
        why = "too long a chain, or fixed by the ledger" if spec.split.by != "time" else "time decides"
        message += f"; {report.alike} similar pairs are in different splits ({why})"
    sound = leaks == 0 and search_works and not changed
    return CheckResult(sound and not low_recall, message, {**report.to_json(), "changed": changed}, warns=sound)


@check("With a teacher: validation and test have rows, and all of them are answered by people.")
def people_judge(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    """Check that no model's answer is in a split that chooses or judges a model."""
    facts = artifact.read(SplitFacts)
    if not facts.teacher:
        return CheckResult(True, "no teacher is declared")
    origins = {split: facts.origins[split] for split in ("validation", "test")}
    synthetic = sum(counts.get("synthetic", 0) for counts in origins.values())
    sizes = {split: sum(counts.values()) for split, counts in origins.items()}
    listed = " and ".join(f"{n} rows of people in {split}" for split, n in sizes.items())
    message = f"{listed}, {synthetic} by models"
    if not all(sizes.values()):
        message += ": rows that people answered fill them first"
    if (missing := rows_wanted(spec) - sum(sizes.values())) > 0:
        how = f"answer them with `finetune review {spec.name} --what test`"
        message += f". At least {missing:,} more are needed to show the wanted gain: {how}"
    return CheckResult(synthetic == 0 and all(sizes.values()), message, {"rows": sizes, "synthetic": synthetic})


@check("Shares are within split.tolerance.", on_failure="warn")
def split_sizes(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(SplitFacts)
    shares, expected = facts.shares, facts.wanted_shares
    within = all(abs(shares[split] - expected[split]) <= spec.split.tolerance for split in ("validation", "test"))
    listed = ", ".join(f"{split} {shares[split]:.3f} (wanted {expected[split]:g})" for split in ("validation", "test"))
    if not within:
        listed += f". Rows keep the split that earlier runs gave them; new ones fill what lacks. For another share now, {RESTART}"
    return CheckResult(within, listed, {"shares": shares})


@check(
    "If split.test names files: their rows are the test and no others, and at most "
    f"{MOST_LEFT:.0%} of the training and validation rows leave because they are like them. Above {TOO_MANY_LEFT:.0%} of rows "
    "that an earlier run has assigned otherwise it blocks."
)
def named_files_are_the_test(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(SplitFacts)
    placed, counts = facts.test_files, facts.counts
    if placed is None:
        return CheckResult(True, "split.test is a share")
    elsewhere, others, like_test = placed.elsewhere, placed.others, placed.like_test
    wrong_share = (elsewhere + others) / max(1, counts["test"] + elsewhere)
    left_share = like_test / max(1, like_test + counts["train"] + counts["validation"])
    message = (
        f"the test has {counts['test'] - others} rows of its files, and {others} that earlier runs put into it; {elsewhere} rows "
        f"of its files stay in training or validation; {like_test} rows left these because they are like a test row "
        f"({left_share:.1%})"
    )
    if elsewhere + others:
        message += f": {RESTART}"
    sound = wrong_share <= TOO_MANY_LEFT
    return CheckResult(not (elsewhere or others) and left_share <= MOST_LEFT, message, placed.to_json(), warns=sound)


@check(
    f"At most {MOST_LEFT:.0%} of the training and validation rows are dropped because a changed setting groups them with rows "
    f"that the ledger assigns to another split. Above {TOO_MANY_LEFT:.0%} it blocks."
)
def few_rows_left(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(SplitFacts)
    lost, counts = facts.left, facts.counts
    rows = lost["train"] + lost["validation"]
    share = rows / max(1, rows + counts["train"] + counts["validation"])
    message = f"{rows} rows left training or validation ({share:.1%})"
    if facts.ledger != LEDGER:
        message += (
            f"; all rows were split anew (ledger {facts.ledger}): scores and comparisons on an earlier test, "
            "including the champion's, do not apply to this one"
        )
    if share > MOST_LEFT:
        message += f": a changed setting makes them similar to rows of another split. Revert the setting, or {RESTART}"
    return CheckResult(share <= MOST_LEFT, message, {"left": lost, "share": share}, warns=share <= TOO_MANY_LEFT)


@check(
    "split.by: time: test rows have a time, and no training row that a person wrote is newer than the oldest of its round. The "
    "share of training rows newer than the oldest test row is stated: those of later rounds, and those that no person wrote. Warns "
    f"if more than {MOST_LEFT:.0%} of the rows left training because they are like newer rows."
)
def time_decides(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    order = artifact.read(SplitFacts).time_order
    if order is None:
        return CheckResult(True, "rows are not split by time")
    if not order.oldest_test:
        fix = "name their time in data.fields.time, or remove split.by: time"
        return CheckResult(False, f"no test row has a time, so nothing was split by time: {fix}", asdict(order))
    train = max(1, order.train)
    newer = order.misplaced + order.later_rounds + order.not_human
    left_share = order.left / (train + order.left)
    message = (
        f"{newer} of {order.train} training rows ({newer / train:.1%}) are newer than the oldest test row "
        f"({order.oldest_test}): {order.misplaced} of the same round, {order.later_rounds} of "
        f"later rounds, {order.not_human} not written by people; {order.undated} have no time; {order.left} rows left "
        f"training for newer rows like them ({left_share:.1%})"
    )
    if left_share > MOST_LEFT:
        message += ": if groups last over the whole time, remove data.fields.group or split.by: time"
    sound = order.misplaced == 0
    return CheckResult(sound and left_share <= MOST_LEFT, message, asdict(order), warns=sound)


@check("Rows in = train + validation + test + quarantined.", name="rows_accounted_for")
def splits_accounted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(SplitFacts)
    return _accounted(facts.rows_in, **facts.counts, quarantined=facts.quarantined)


def _quality(name: str, part: str, description: str, on_failure: Action = "block") -> Check:
    """Return the check of one part of the data quality report."""

    def judge(artifact: Artifact, spec: TaskSpec) -> CheckResult:
        result = artifact.read(QualityFacts).parts[part]
        return CheckResult(result.passed, result.message, warns=not result.blocking)

    return Check(name, description, judge, on_failure)


@check(
    "Every complete log line is kept, a duplicate, feedback or a second answer to another line, or quarantined.",
    name="logs_accounted_for",
)
def logs_accounted(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(LogFacts)
    result = _accounted(
        facts.lines,
        kept=facts.rows,
        quarantined=facts.quarantined,
        duplicates=facts.duplicates,
        feedback=facts.feedback,
        shadows=facts.shadows,
    )
    if facts.unmatched:
        note = f"; {facts.unmatched} lines of feedback are for answers not logged yet"
        return replace(result, message=result.message + note)
    return result


@check("No corrected row looks poisoned (held.jsonl gives the reasons).", on_failure="warn")
def nothing_held_back(artifact: Artifact, spec: TaskSpec) -> CheckResult:
    facts = artifact.read(LogFacts)
    rules = facts.held_by_rule
    by_rule = f" ({', '.join(f'{n} by {rule}' for rule, n in rules.items())})" if rules else ""
    message = f"{facts.held} corrected rows are held back{by_rule}; {facts.corrections} are used for training"
    return CheckResult(not rules and facts.held == 0, message, rules)


_BELIEVABLE = (
    "Few labels are wrong, according to a cross-validated model. Blocks if significantly more than data.max_label_noise are, if "
    "other files contradict most labels of a raw file (the test would contain such labels too), or if a phrase determines "
    "the label against the rest of the text (data.triggers)."
)
_NOT_WRITTEN_IN = "No phrase gives a label away: one in nearly all rows of a label and in nearly no other, like a tag."
_ALIKE = "Text answers are not cut off at one length, and end in one style: with or without a full stop."
_REVIEWED = "A sample of the synthetic rows has been reviewed by people, and few enough were rejected."
_BALANCED = "Every label is in validation and test, and none has over data.max_imbalance times the rows of another."
_FIT = "Every row can be encoded as training and evaluation do, and none is longer than training.max_tokens."
QUALITY_CHECKS = (
    _quality("synthetic_rows_reviewed", "synthetic", _REVIEWED),
    _quality("labels_believable", "noise", _BELIEVABLE),
    _quality("labels_not_in_inputs", "inputs", _NOT_WRITTEN_IN, on_failure="warn"),
    _quality("answers_alike", "answers", _ALIKE, on_failure="warn"),
    _quality("class_balance", "balance", _BALANCED, on_failure="warn"),
    _quality("rows_fit", "tokens", _FIT),
)
"""One check for each part of the data quality report."""
