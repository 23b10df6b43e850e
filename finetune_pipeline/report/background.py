"""Report sections on data, training, supervision, costs, the sealed test and versions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune_pipeline.evaluation.gates.sealed_test_openings import opening_sentences
from finetune_pipeline.evaluation.result import DataStep, EvaluationResult
from finetune_pipeline.evaluation.reviewers import agreement_sentence
from finetune_pipeline.evaluation.wording import NOTHING, counted, dollars, duration, number, percent
from finetune_pipeline.report.blocks import Blocks, Heading, Plot, Table, Text, text
from finetune_pipeline.report.plots import learning_curve
from finetune_pipeline.report.training_pages import counters, learned_of
from finetune_pipeline.report.verdict import split_size
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.training.facts import HostedTraining, LocalTraining

_DATA_STEPS = {
    "raw_examples": "Raw files",
    "validated_examples": "Validated",
    "clean_examples": "Cleaned",
    "reviewed_examples": "Reviewed",
    "splits": "Split",
}
_STEPS = {
    "few_shot_baseline": "Prompting the base model on validation",
    "adapter": "Training",
    "merged_model": "Merge, and comparison with the trained model",
    "general_ability": "General ability of the candidate",
    "test_predictions": "Answers to the sealed test, all models",
}
_SHORT_HASH = 16


def learning_plot(evaluation: EvaluationResult) -> Plot | None:
    """Return a plot of the losses over the steps; in Markdown, a table of validation losses."""
    if evaluation.training is None:
        return None
    history = evaluation.training.history
    plot = learning_curve([(row.step, row.loss, row.eval_loss) for row in history], evaluation.training.best_step)
    losses = [[row.step, row.eval_loss] for row in history if row.eval_loss is not None]
    return plot and replace(plot, values=Table([("Step", number), ("Validation loss", number)], losses))


def learning_section(evaluation: EvaluationResult) -> Blocks:
    training = evaluation.training
    if training is None:
        return
    first, best, step = training.first_eval_loss, training.best_eval_loss, training.best_step
    at = "." if step is None else f" at step {step:,}, the checkpoint that was kept."
    if first is None or best is None:
        yield "No validation loss was recorded."
    elif best >= first:
        yield f"Validation loss did not fall: {number(first)} before training, {number(best)} at best{at}"
    else:
        yield f"Validation loss fell from {number(first)} before training to {number(best)}{at}"
    if training.refinement is not None:
        yield training.refinement.sentence
    yield learning_plot(evaluation)


def data_section(evaluation: EvaluationResult) -> Blocks:
    quality, data = evaluation.quality, evaluation.data
    if quality and quality.tokens and (spread := quality.tokens.whole):
        yield (
            f"The median row has {number(spread.p50)} tokens, 99 of 100 rows have at most {number(spread.p99)}, and the longest "
            f"has {number(spread.max)}."
        )
    splits, clean = data.get("splits"), data.get("clean_examples")
    origins = splits.origins.get("train") if splits else None
    if isinstance(origins, Mapping) and any(n is not None for n in origins.values()):
        counts_by_origin = ", ".join(f"{number(n)} {name}" for name, n in origins.items() if n is not None)
        yield f"Origin of the training rows: {counts_by_origin}."
    if evaluation.agreement:
        yield f"People answered the rows of validation and test. {agreement_sentence(evaluation.agreement)}"
    if kinds := ", ".join(f"{kind} ({number(n)})" for kind, n in (clean.scrubbed if clean else {}).items() if n):
        yield f"Personal data and secrets were replaced first: {kinds}."
    if splits and splits.leaks is not None:
        n = split_size(splits.leaks)
        yield f"{counted(n, 'test row') if n else 'No test row'} repeats or resembles a training row."
    for name, part in (quality.parts if quality else {}).items():
        if not part.passed:
            yield Text(f"Found over all rows ({name.replace('_', ' ')}): {part.message}.", audience="team")
    if quality:
        yield Text("The page report.html of the step data_quality shows the data in full.", audience="team")
    files = (
        [[f.file, f.sha256[:_SHORT_HASH]] for f in data["raw_examples"].files if f.bytes != 0]
        if "raw_examples" in data
        else []
    )
    yield Table([("File", text), ("SHA-256", text)], files, style="figures hash", audience="team")
    yield from data_tables(data, evaluation.task.labels)


def data_tables(data: Mapping[str, DataStep], order: Sequence[str]) -> Blocks:
    """Return tables of rows in and out of every data step, rows by split and label (labels in `order`), and findings."""
    titles = ("Rows in", "Quarantined", "Exact duplicates", "Near duplicates", "Dropped in review", "Rows out")
    rows: list[list[Any]] = []
    for step, facts in data.items():
        out = (
            facts.kept
            if facts.kept is not None
            else sum(map(split_size, facts.counts.values()))
            if facts.counts
            else None
        )
        removed = (facts.quarantined, facts.exact_duplicates, facts.near_duplicates, facts.dropped)
        rows_in = facts.lines if facts.rows_in is None else facts.rows_in
        if any(n is not None for n in (rows_in, *removed, out)):
            rows.append([_DATA_STEPS.get(step, step), rows_in, *removed, out])
    yield Table([("Step", text), *((title, _count) for title in titles)], rows).without_empty_columns()
    yield _splits(data.get("splits"), order)
    findings = Table([("Step", text), ("Finding", text), ("Count", number)], list(_findings(data)), audience="team")
    if findings:
        yield Heading("What was found", audience="team")
        yield findings


def _count(value: Any) -> str:
    return "" if value is None else number(value)


def _splits(splits: DataStep | None, order: Sequence[str]) -> Table | None:
    if splits is None or not splits.counts:
        return None
    by_label: dict[str, Mapping[str, int | None]] = {
        name: next((counts for counts in (splits.labels.get(name), count) if isinstance(counts, Mapping)), {})
        for name, count in splits.counts.items()
    }
    present = {label for counts in by_label.values() for label in counts}
    labels = [label for label in order if label in present] + sorted(present - set(order))
    rows = [["all", *map(split_size, splits.counts.values())]]
    rows += [[label, *(counts.get(label) or 0 for counts in by_label.values())] for label in labels]
    return Table([("Rows", text), *((name, number) for name in splits.counts)], rows, strong=[0])


def _findings(data: Mapping[str, DataStep]) -> Iterable[list[Any]]:
    for step, facts in data.items():
        title = _DATA_STEPS.get(step, step)
        yield from ([title, rule, n] for rule, n in facts.by_rule.items())
        yield from ([title, f"scrubbed: {kind}", n] for kind, n in facts.scrubbed.items() if n)


def training_section(evaluation: EvaluationResult) -> Blocks:
    training = evaluation.training
    if training is None:
        return
    rows = _local_training(training) if isinstance(training, LocalTraining) else _hosted_training(training)
    yield Table([("Training", text), ("", number)], rows)


def _local_training(training: LocalTraining) -> list[list[Any]]:
    prefix, trainable, measured = training.shared_prefix, training.trainable_parameters, training.measured
    rows: list[list[Any]] = [["Method", training.method]]
    if tokens := training.begun.get("virtual_tokens"):
        first = {"random": "random numbers", "vocabulary": "tokens of the vocabulary"}.get(
            training.begun["init"], "a text"
        )
        rows.append(["Virtual tokens", f"{number(tokens)}, initialised from {first}"])
    if training.rounding:
        rows.append([f"Validation loss as stored, in {training.rounding.dtype}", training.rounding.eval_loss])
    if (micro := training.micro_batch).used != micro.declared:
        declared = f"the {number(micro.declared)} of training.micro_batch_size did not fit into memory"
        rows.append(["Rows of one pass", f"{number(micro.used)}: {declared}; every step has as many rows as declared"])
    return [
        *rows,
        ["Compute precision", training.precision],
        ["Optimiser steps", training.steps],
        ["Kept checkpoint", f"step {number(training.best_step)}"],
        ["Stopped early", training.stopped_early],
        ["Trainable parameters", f"{number(trainable)} ({percent(trainable / training.total_parameters)} of all)"],
        ["Base weights in memory, of their 16-bit size", percent(training.weights.ratio)],
        [
            "Shared prefix computed once",
            f"yes, {number(prefix.prefix_tokens)} tokens" if prefix.used else f"no: {prefix.why}",
        ],
        ["Peak memory", _mebibytes(measured.peak_memory_mib)],
        ["Time", duration(measured.seconds)],
        ["Resumed from", measured.resumed_from or "not interrupted"],
    ]


def _hosted_training(training: HostedTraining) -> list[list[Any]]:
    measured, hosted = training.measured, training.endpoint
    billed = f"{number(measured.billed_tokens)} tokens" if measured.billed_tokens is not None else NOTHING
    rows = [["Trainer", training.service], ["Trained model", training.service_base_model]]
    if hosted:
        rows = [
            ["Trainer", hosted.trainer],
            ["Trained model", hosted.base_model],
            ["Answers as", hosted.model],
            ["At", hosted.base_url],
        ]
    return [
        *rows,
        ["Billed", billed if measured.dollars is None else f"{billed}, {dollars(measured.dollars)}"],
        ["Optimiser steps", number(training.steps)],
        *([["Kept checkpoint", f"step {number(training.kept_step)}"]] if training.kept_step is not None else []),
        ["Time", duration(measured.seconds)],
    ]


def _mebibytes(memory: float | None) -> str:
    return NOTHING if memory is None else f"{memory:,.0f} MiB"


def supervision_section(evaluation: EvaluationResult) -> Blocks:
    audits = evaluation.supervision or {}
    rows, learned = learned_of(audits)
    if not rows:
        return
    learns = f"{learned} have loss" if METHODS[evaluation.task.method].kind.generates else "each has one class to learn"
    yield (
        f"Before the first step, all {number(rows)} training and validation rows were checked token by token: {learns}. "
        "Each row counted as a fault below would have been learned wrongly or not at all. The page audit.html of the "
        "step adapter shows rows token by token."
    )
    yield counters(audits)


def cost_section(evaluation: EvaluationResult) -> Blocks:
    cost = evaluation.cost
    if cost is None:
        return
    if cost.steps:
        work = "Evaluating without training" if evaluation.untrained else "Training and evaluating this candidate"
        yield f"{work} took {duration(cost.seconds)} of computing on this machine."
    if cost.saved_share is not None and abs(cost.saved_share) >= 0.005:
        size, fewer = percent(abs(cost.saved_share)), "fewer" if cost.saved_share > 0 else "more"
        yield f"A request takes {size} {fewer} tokens than the base model with its best prompt."
    yield Table(
        [("Step", text), ("Time", duration), ("Processor time", duration), ("Peak memory", _mebibytes)],
        [[_STEPS.get(name, name), m.seconds, m.cpu_seconds, m.peak_memory_mib] for name, m in cost.steps.items()],
    )
    rounded = "{:.0f}".format
    titles = {name: model.title for name, model in evaluation.models.items()}
    yield Table(
        [("Mean tokens per request", text), ("Prompt", rounded), ("Answer", "{:.1f}".format), ("Together", rounded)],
        [
            [titles.get(name, name), t.prompt, t.answer, t.prompt + t.answer]
            for name, t in cost.tokens.items()
            if t.prompt
        ],
    )
    # cheapest first; the evaluated API model is highlighted
    yield Table(
        [("1,000 requests", text), ("Model", text), ("Dollars", text), ("Price of", text)],
        [[price.where, price.how, dollars(price.dollars), price.date] for price in cost.requests],
        strong=[i for i, price in enumerate(cost.requests) if price.evaluated],
    )


def seal_section(evaluation: EvaluationResult) -> Blocks:
    seal = evaluation.seal
    yield opening_sentences(seal) or "No opening of the sealed test is on record."
    look, alpha = seal.level.look, seal.level.alpha
    if look is not None and alpha is not None:
        yield (
            f"This is judgement {look} by this test. The chance that any is promoted without being better stays below "
            f"{percent(alpha)} however many follow, as long as nobody trains on what this report shows of the test."
        )
    opened = {"time": "Time", "candidate": "Candidate", "reason": "Reason", "test": "Test", "who": "Opened by"}
    rows = [[*(entry.get(key) or "" for key in opened), entry.get("shared")] for entry in seal.openings]
    columns = [*((title, text) for title in opened.values()), ("Rows shared with this test", percent)]
    yield Table(columns, rows, style="notes", audience="team")


def versions_section(evaluation: EvaluationResult) -> Blocks:
    task = evaluation.task
    base = task.base_model + (f" at {task.base_revision}" if task.base_revision else "")
    rows = [["base model", base], *([name, number(version)] for name, version in evaluation.versions.items())]
    yield Table([("What", text), ("Version", text)], rows, style="figures hash", audience="team")
