"""The data quality report: its parts in reading order, and all findings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from operator import itemgetter

from finetune_pipeline.data.examples import SAMPLE, Example, hash_order
from finetune_pipeline.data.quality.answer_style import answer_style
from finetune_pipeline.data.quality.label_in_input import InputsPart, label_in_input
from finetune_pipeline.data.quality.noise import NoisePart, label_noise
from finetune_pipeline.data.quality.parts import Part, TokensPart
from finetune_pipeline.data.quality.synthetic import SyntheticPart, synthetic_rows
from finetune_pipeline.data.scrub.placeholders import Sample
from finetune_pipeline.data.split.placement import shares_of
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.model import TaskSpec

PARTS = ("balance", "synthetic", "noise", "inputs", "answers", "tokens")
TokenCounts = Callable[[Sequence[Example], int, Sequence[Example]], TokensPart]
"""Makes the part on tokens from training rows (or a sample), their total number, and rows of the other splits."""


class BalancePart(Part, frozen=True, kw_only=True, omit_defaults=False):
    """Rows of each label."""

    labels: dict[str, int] = {}


class QualityReport(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """The data quality report. scrubbed: a few places where personal data or secrets were replaced."""

    rows: int
    origins: dict[str, int]
    balance: BalancePart
    synthetic: SyntheticPart
    noise: NoisePart
    inputs: InputsPart
    answers: Part
    tokens: TokensPart
    passed: bool
    blocked_by: list[str]
    findings: list[Finding]
    scrubbed: list[Sample] = []

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by name, in reading order."""
        return {name: getattr(self, name) for name in PARTS}


def data_quality(
    examples: Iterable[Example],
    assignments: Mapping[str, str],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    count_tokens: TokenCounts | None = None,
    synthetic: Sequence[Example] | None = None,
) -> QualityReport:
    """Make the report about a set of examples, deterministic. Reads `examples` (after review) once; they may be a
    stream. All rows are counted; other analyses use at most 20,000 rows, sampled by hash.

    Args:
        assignments: {id: split}.
        clusters: {id: near-duplicate cluster}.
        decisions: {id: keep, drop or relabel}.
        count_tokens: None: tokens are not counted.
        synthetic: The synthetic rows before review (a dropped row must count as rejected); else those of the sample.
    """
    labels: Counter[tuple[str | None, str]] = Counter()
    origins: Counter[str] = Counter()
    train_rows = 0

    def is_train(e: Example) -> bool:
        return not assignments or assignments.get(e.id) == "train"

    def ordered() -> Iterator[tuple[int, int, Example]]:
        nonlocal train_rows
        for number, e in enumerate(examples):
            labels[e.label, assignments.get(e.id, "")] += 1
            origins[e.origin] += 1
            train_rows += is_train(e)
            yield hash_order(e.id, "quality"), number, e

    lowest = nsmallest(SAMPLE, ordered())
    sample, rows = [e for _, _, e in sorted(lowest, key=itemgetter(1))], labels.total()
    if not assignments:  # as many as the splits will have
        train_rows = round(train_rows * shares_of(spec)["train"])
    tokens = TokensPart(passed=True, message="not asked: no tokenizer is available yet", applies=False)
    if count_tokens:
        others = [e for e in sample if not is_train(e) and e.id in assignments]
        tokens = count_tokens([e for e in sample if is_train(e)], train_rows, others)
    balance = class_balance(labels, spec)
    generated = synthetic_rows(sample if synthetic is None else synthetic, clusters, decisions, spec)
    noise, inputs = label_noise(sample, clusters, spec, rows, decisions), label_in_input(sample, spec)
    answers = answer_style(sample, spec)
    parts = dict(zip(PARTS, (balance, generated, noise, inputs, answers, tokens), strict=True))
    return QualityReport(
        rows=rows,
        origins=most_first(origins),
        balance=balance,
        synthetic=generated,
        noise=noise,
        inputs=inputs,
        answers=answers,
        tokens=tokens,
        passed=all(part.passed for part in parts.values()),
        blocked_by=[name for name, part in parts.items() if part.blocking and not part.passed],
        findings=[finding for part in parts.values() for finding in part.findings],
    )


def class_balance(counts: Mapping[tuple[str | None, str], int], spec: TaskSpec) -> BalancePart:
    """Name labels without a row, in all or in validation or test, and compare the largest to the smallest label
    (data.max_imbalance). counts: rows by label and split."""
    if not spec.labels:
        return BalancePart(passed=True, message="not asked: the answers are not labels", applies=False)
    labels = {label: sum(n for (name, _), n in counts.items() if name == label) for label in spec.labels}
    absent = [label for label, n in labels.items() if not n]
    present = sorted((n, label) for label, n in labels.items() if n or len(absent) == len(labels))
    (fewest, small), (most, large) = present[0], present[-1]
    allowed = f"at most {spec.data.max_imbalance:g} times as many are allowed"
    message = f"largest label {large} ({most:,} rows), smallest {small} ({fewest:,}): {allowed}"
    findings, place = [], "task.yaml: output.labels"
    if absent:
        none = f"no example of {', '.join(absent)}"
        fix = "collect rows of these labels, or take them out of output.labels: the model cannot learn them"
        findings.append(Finding("quality.label_absent", "warning", place, none, fix))
    evaluated = {"validation", "test"} & {split for _, split in counts}
    unseen = [label for label, n in labels.items() if n and not all(counts.get((label, split)) for split in evaluated)]
    if unseen:
        none = f"validation or test has no row of {', '.join(unseen)}: no score there says whether a model knows them"
        fix = "collect more rows of these labels, or take them out of output.labels"
        findings.append(Finding("quality.label_not_evaluated", "warning", place, none, fix))
    if most > spec.data.max_imbalance * fewest:
        fix = f"collect more of {small}; fewer of {large} loses little"
        findings.append(Finding("quality.imbalance", "warning", "task.yaml: data.max_imbalance", message, fix))
    message = "; ".join(f.message for f in findings) or message
    return BalancePart(passed=not findings, message=message, findings=findings, labels=labels)
